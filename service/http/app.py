"""Build the application: its routes, its lifespan, its middleware and its error handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from service.http.bodies import Bodies, ReleaseBodies
from service.http.connections import Connections
from service.http.guard import Guard, Hosts
from service.http.ingest import Ingest
from service.http.live import Live
from service.http.paths import by_path, dispatched
from service.http.request_ids import RequestIds
from service.http.routes import openapi
from service.http.routes.events import EventRoutes
from service.http.routes.operations import OperationRoutes
from service.http.routes.pages import STATIC, PageRoutes
from service.http.routes.ranking import RankingRoutes
from service.http.routes.route import Route
from service.http.schemas import Problem
from service.http.security.access import Access
from service.http.security.headers import ANSWER, PAGE, REFERENCE, Headers
from service.http.security.keys import Keys
from service.http.web import Failure, RequestHandler, json
from service.monitoring.monitor import Monitor
from service.process.runtime import Runtime

__all__ = ["create_app"]

_FILES = "/static"

_SENT = ["authorization", "content-type", "x-api-key"]
"""Headers that pages of listed origins may send."""


def create_app(runtime: Runtime, *, serves: bool = True, host: str | None = None, keys: Keys | None = None) -> FastAPI:
    """Build the application of a runtime, which it starts and stops.

    Parameters
    ----------
    runtime : Runtime
        From `service.process.runtime.open_runtime`, not started.
    serves : bool
        False: only the routes for operators exist; nothing is ranked or appended here.
    host : str or None
        Name or address that the server listens on; None: the config's.
    keys : Keys or None
        Keys that requests need; None: none, everyone may do everything.
    """
    limits = runtime.config.server
    live, handler = Live(runtime.monitor.snapshot), RequestHandler(limits)
    access = Access(keys, runtime.monitor.refuse)
    runtime.monitor.watch(access.gauges)
    routes: list[Route] = []
    ingest = None
    if serves:
        stream = runtime.config.stream
        retry = stream.ack == "queued"
        ingest = Ingest(
            runtime.log, runtime.engine.wake, runtime.dead, retry=retry, buffer=stream.buffer, trims=stream.retain is not None
        )
        runtime.monitor.watch(ingest.gauges)
        ids = RequestIds(stream.max_impressions, runtime.updater.has_request)
        runtime.watch_memory(ids.memory)
        routes += RankingRoutes(runtime, handler, ingest, ids).routes()
        routes += EventRoutes(runtime, handler, ingest, ids).routes()
        runtime.watch_memory(ingest.memory)
    routes += OperationRoutes(runtime, handler, live).routes()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        live.start()
        watching = asyncio.create_task(access.watch(live.disconnect))
        try:
            yield
        finally:
            watching.cancel()
            live.close()
            if ingest is not None:  # waiting events are appended before the log is closed
                await ingest.close()
            try:
                await asyncio.to_thread(runtime.stop)
            except OSError as error:  # uvicorn would print a traceback; the server raises it when everything has ended
                app.state.unsaved = error

    app = FastAPI(title="Freshet", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    description = openapi.document(routes, _version(), limits.max_body)
    app.openapi = lambda: description  # type: ignore[method-assign]
    app.state.live = live
    app.state.idle = limits.idle
    app.state.unsaved = None
    bodies = Bodies(limits.max_bodies)
    app.state.connections = Connections(limits.max_connections, limits.max_head, limits.receive, runtime.monitor.refuse)
    failed = partial(_failed, runtime.monitor)
    for failure, answer in ((Failure, failed), (HTTPException, _no_route), (ClientDisconnect, _gone), (Exception, _broken)):
        app.add_exception_handler(failure, answer)
    pages = list(PageRoutes(description).routes())
    guarded = (
        (route.path, route.method, access.guarded(route.method, route.scope, route.handler)) for route in [*routes, *pages]
    )
    for path, handlers in by_path(guarded).items():
        app.add_route(path, dispatched(handlers), methods=list(handlers))
    if limits.origins:
        methods = ["GET", "POST", "PUT", "DELETE"]
        app.add_middleware(CORSMiddleware, allow_origins=limits.origins, allow_methods=methods, allow_headers=_SENT)
    hosts = Hosts(limits.host if host is None else host, limits.hosts)
    probes = [route.path for route in routes if route.scope in ("open", "metrics")]
    app.add_middleware(Guard, hosts=hosts, origins=limits.origins, probes=probes, refused=runtime.monitor.refuse)
    connections = app.state.connections
    runtime.watch_memory(lambda: {"bodies": bodies.nbytes, "connections": connections.nbytes, "live": live.nbytes})
    app.add_middleware(ReleaseBodies, bodies=bodies)
    app.add_middleware(Headers, pages={"/": PAGE, "/docs": REFERENCE}, files=_FILES)
    # Swagger UI comes from a package: its files would otherwise be fetched from a CDN.
    app.mount(f"{_FILES}/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]), name="swagger")
    app.mount(_FILES, StaticFiles(directory=STATIC), name="static")
    return app


def _version() -> str:
    try:
        return metadata.version("freshet")
    except metadata.PackageNotFoundError:
        return "0 (not installed)"


async def _failed(monitor: Monitor, request: Request, error: Exception) -> Response:
    assert isinstance(error, Failure)
    monitor.refuse(error.status)
    response = json(error.problem, error.status)
    response.headers.update(error.headers)
    return response


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = json(Problem(error=f"{request.method} {request.url.path}: {error.detail}; see /docs"), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _broken(request: Request, error: Exception) -> Response:
    # This handler answers outside of the middleware.
    response = json(Problem(error=f"internal error ({type(error).__name__}); see the log of the service"), 500)
    response.headers.update(ANSWER)
    return response
