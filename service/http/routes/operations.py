"""Routes for operators: status, health, metrics, and the stream of the live page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Literal

from service.http.live import Live
from service.http.routes.route import Answer, Route, problems
from service.http.schemas import Health, LiveEvent, Status
from service.http.web import Failure, Request, RequestHandler, Response, json, streamed
from service.process.digests import Digests
from service.process.runtime import Runtime

__all__ = ["OperationRoutes"]


class OperationRoutes:
    """Status, health, metrics and the live page's stream.

    Parameters
    ----------
    runtime : Runtime
    handler : RequestHandler
    live : Live
    """

    def __init__(self, runtime: Runtime, handler: RequestHandler, live: Live) -> None:
        self._runtime, self._handler, self._live = runtime, handler, live
        self._digests = Digests(runtime)

    def routes(self) -> Iterable[Route]:
        """All routes of this class."""
        yield Route(
            "GET",
            "/v1/status",
            self.status,
            scope="admin",
            summary="Status of this process",
            parameters={
                "digest": ("1: add the digests of the whole state (not at a replica) and of its shared part", Literal["0", "1"])
            },
            answers={200: Answer("Status", Status), **problems(422, 503)},
        )
        yield Route(
            "GET",
            "/v1/live",
            self.stream,
            scope="admin",
            summary="Server-sent events with the data of the live page",
            answers={200: Answer("Stream", LiveEvent, media="text/event-stream"), **problems(503)},
        )
        yield Route(
            "GET",
            "/healthz",
            self.alive,
            scope="open",
            summary="Whether the process is alive",
            answers={200: Answer("It is alive", Health)},
        )
        yield Route(
            "GET",
            "/readyz",
            self.ready,
            scope="open",
            summary="Whether the service is ready: everything is compiled, and it has caught up with the log",
            answers={200: Answer("It is ready", Health), **problems(503)},
        )
        yield Route(
            "GET",
            "/metrics",
            self.metrics,
            scope="metrics",
            summary="Metrics in the Prometheus text format",
            answers={200: Answer("Metrics", media="text/plain")},
        )

    async def status(self, request: Request) -> Response:
        """Status of this process."""
        asked = request.query_params.get("digest", "0")
        if asked not in ("0", "1"):
            raise Failure(422, f"digest: {asked!r}; send 1, or leave it out", "digest")
        if asked == "1":
            return json(await self._handler.wait(lambda: asyncio.shield(self._digests.ask())))
        return json(await self._handler.answer(lambda: self._runtime.engine.call(self._runtime.status)))

    async def stream(self, request: Request) -> Response:
        """Server-sent events for the live page."""
        if self._live.full:
            raise Failure(503, "too many live pages are open; close some", retry=True)
        return streamed(self._live.stream())

    async def alive(self, request: Request) -> Response:
        """Answer that the process is alive."""
        return json(Health(status="alive"))

    async def ready(self, request: Request) -> Response:
        """Answer 200 once everything is compiled and the engine has caught up, else 503 with the reason."""
        engine = self._runtime.engine
        if engine.failure is not None:
            raise Failure(503, f"the engine has stopped: {engine.failure!r}; see the log of the service")
        if engine.preparing:
            raise Failure(503, "compiling and loading the functions of the learners; try again shortly", retry=True)
        if not self._runtime.updater.caught_up:
            raise Failure(503, "restoring the state and catching up with the log; try again shortly", retry=True)
        if not self._runtime.updater.follows:
            raise Failure(
                503, "the trainer has another config or version, so this state gets no newer; restart with its config"
            )
        return json(Health(status="ready"))

    async def metrics(self, request: Request) -> Response:
        """Metrics for Prometheus."""
        text = await asyncio.to_thread(self._runtime.monitor.metrics)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
