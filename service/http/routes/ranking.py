"""The routes that rank items."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from functools import partial

import msgspec

from service.http.ingest import Ingest, LogBusy
from service.http.routes.route import Answer, Route, problems
from service.http.web import Failure, Request, RequestHandler, Response, decoded, json
from service.learning.validation import check_numbers
from service.process.runtime import Runtime
from service.ranking.requests import RankingResponse, RankRequest, RecommendRequest
from streams.codec import BadEvent, partition_key
from streams.events import Impression

__all__ = ["RankingRoutes"]


class RankingRoutes:
    """Rank given items, and recommend items.

    Parameters
    ----------
    runtime : Runtime
    handler : RequestHandler
    ingest : Ingest
        Appends the impressions.
    """

    def __init__(self, runtime: Runtime, handler: RequestHandler, ingest: Ingest) -> None:
        self._runtime, self._handler, self._ingest = runtime, handler, ingest
        self._fingerprint = runtime.config.fingerprint

    def routes(self) -> Iterable[Route]:
        """All routes of this class."""
        yield self._route("/v1/rank", RankRequest, "Rank the given items for a user")
        yield self._route("/v1/recommend", RecommendRequest, "Find and rank items for a user")

    def _route(self, path: str, document: type[RankRequest | RecommendRequest], summary: str) -> Route:
        return Route(
            "POST",
            path,
            partial(self.rank, document),
            scope="read",
            summary=summary,
            body=document,
            answers={200: Answer("The ranking", RankingResponse), **problems(400, 413, 415, 422, 503)},
        )

    async def rank(self, document: type[RankRequest | RecommendRequest], request: Request) -> Response:
        """Answer with a ranking. Its impression is queued for the log first, before any event that follows from it."""
        arrived = time.perf_counter()
        ranking_request = decoded(document, await self._handler.body(request))
        try:
            check_numbers("context", ranking_request.context)
        except BadEvent as error:
            raise Failure(422, str(error), error.field) from error
        response, impression = await self._handler.answer(lambda: self._runtime.engine.submit(ranking_request))
        if impression is not None:
            await self._log(impression)
        self._runtime.monitor.request(time.perf_counter() - arrived)
        return json(response)

    async def _log(self, impression: Impression) -> None:
        """Queue an impression for the log; if the buffer is full, keep it as a dead letter."""
        named = msgspec.structs.replace(impression, config=self._fingerprint)
        value = self._runtime.signer.encoded(named)
        try:
            self._ingest.post([(partition_key(named), value)])
        except LogBusy as error:
            await asyncio.to_thread(self._runtime.dead.put, "lost", str(error), value, source="http")
