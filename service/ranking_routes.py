"""Routes that rank."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from functools import partial

from service.ingest import Entry, Ingest, entry
from service.runtime import Runtime
from service.schemas import RankRequest, RecommendRequest
from service.web import Desk, Request, Response, Route, decoded, json

__all__ = ["RankingRoutes"]

_log = logging.getLogger(__name__)


class RankingRoutes:
    """Rankings of given items, and recommendations.

    Parameters
    ----------
    runtime : Runtime
    desk : Desk
    ingest : Ingest
        Where impressions go.
    """

    def __init__(self, runtime: Runtime, desk: Desk, ingest: Ingest) -> None:
        self._runtime, self._desk, self._ingest = runtime, desk, ingest

    def routes(self) -> Iterable[Route]:
        """Every route here."""
        return (
            ("POST", "/v1/rank", partial(self.rank, RankRequest)),
            ("POST", "/v1/recommend", partial(self.rank, RecommendRequest)),
        )

    async def rank(self, document: type[RankRequest | RecommendRequest], request: Request) -> Response:
        """Answer with a ranking; its impression is on the way to the log then, ahead of whatever answers it."""
        arrived = time.perf_counter()
        asked = decoded(document, await self._desk.body(request))
        response, impression = await self._desk.answer(lambda: self._runtime.engine.submit(asked))
        if impression is not None:
            self._ingest.post(entry(impression), self._lost)
        self._runtime.monitor.request(time.perf_counter() - arrived)
        return json(response)

    def _lost(self, impression: Entry, error: Exception) -> None:
        """An impression did not reach the log: what follows from it will be learned as if nothing had been shown."""
        _log.error("an impression could not be appended: %s", error)
        bury = partial(self._runtime.dead.put, "lost", str(error), impression[1], source="http")
        asyncio.get_running_loop().run_in_executor(None, bury)
