"""The routes that rank items."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from functools import partial

import msgspec

from service.http.ingest import Ingest, LogBusy
from service.http.request_ids import RequestIds
from service.http.routes.route import Answer, Link, Route, problems
from service.http.web import Failure, Request, RequestHandler, Response, decoded, json
from service.learning.validation import check_numbers
from service.process.runtime import Runtime
from service.ranking.requests import RankingResponse, RankRequest, RecommendRequest
from streams.codec import BadEvent, partition_key
from streams.events import Impression

__all__ = ["RankingRoutes"]

_INTERACTION = Link(
    "POST /v1/events",
    "The user did something with the first item",
    body={
        "type": "interaction",
        "request_id": "$response.body#/request_id",
        "user": "$request.body#/user",
        "item": "$response.body#/items/0/item",
    },
)


class RankingRoutes:
    """Rank given items, and recommend items.

    Parameters
    ----------
    runtime : Runtime
    handler : RequestHandler
    ingest : Ingest
        Appends the impressions.
    ids : RequestIds
    """

    def __init__(self, runtime: Runtime, handler: RequestHandler, ingest: Ingest, ids: RequestIds) -> None:
        self._runtime, self._handler, self._ingest, self._ids = runtime, handler, ingest, ids
        self._fingerprint, self._limits = runtime.config.fingerprint, runtime.config.texts

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
            answers={
                200: Answer("The ranking", RankingResponse, links={"interaction": _INTERACTION}),
                **problems(400, 409, 413, 415, 422, 503),
            },
            narrowed={f"{document.__name__}.by": {"enum": [*self._runtime.pipeline.retrievers.named, None]}},
        )

    async def rank(self, document: type[RankRequest | RecommendRequest], request: Request) -> Response:
        """Answer with a ranking. Its impression is queued for the log first, before any event that follows from it."""
        arrived = time.perf_counter()
        ranking_request = decoded(document, await self._handler.body(request), self._limits)
        try:
            self._check(ranking_request)
        except BadEvent as error:
            raise Failure(422, str(error), error.field) from error
        response, impression = await self._ranked(ranking_request)
        if impression is not None:
            await self._log(impression)
        self._runtime.monitor.request(time.perf_counter() - arrived)
        return json(response)

    async def _ranked(self, request: RankRequest | RecommendRequest) -> tuple[RankingResponse, Impression | None]:
        """Rank. An id that the client gave to an impression must be new."""
        given = request.request_id if request.log else None
        if given is not None and not self._ids.claim(given):
            raise _used(given)
        impression = None
        try:
            response, impression = await self._handler.answer(lambda: self._runtime.engine.submit(request))
        finally:
            if given is not None and impression is None:
                self._ids.release(given)
        if given is not None and self._ids.in_log(given):
            raise _used(given)
        if given is None and impression is not None:
            self._ids.claim(impression.request_id)
        return response, impression

    def _check(self, request: RankRequest | RecommendRequest) -> None:
        limits = self._limits
        limits.check_context(request.context)
        check_numbers("context", request.context)
        limits.check_ids(user=request.user, request_id=request.request_id or "")
        if isinstance(request, RankRequest):
            limits.check_listed("items", request.items)
        else:
            limits.check_listed("exclude", request.exclude)

    async def _log(self, impression: Impression) -> None:
        """Queue an impression for the log; if the buffer is full, keep it as a dead letter."""
        named = msgspec.structs.replace(impression, config=self._fingerprint)
        value = self._runtime.signer.encoded(named)
        try:
            self._ingest.post([(partition_key(named), value)])
        except LogBusy as error:
            await asyncio.to_thread(self._runtime.dead.put, "lost", str(error), value, source="http")


def _used(request_id: str) -> Failure:
    problem = f"request_id: {request_id!r} was used for another ranking, so clicks could not be told apart"
    return Failure(409, f"{problem}; omit it, or send a new one with every ranking, also with a retry", "request_id")
