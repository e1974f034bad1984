"""Build the application: its routes, its lifespan, its middleware and its error handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from service.http.guard import Guard, Hosts
from service.http.ingest import Ingest
from service.http.live import Live
from service.http.paths import by_path, dispatched
from service.http.request_ids import RequestIds
from service.http.routes import openapi
from service.http.routes.events import EventRoutes
from service.http.routes.operations import OperationRoutes
from service.http.routes.ranking import RankingRoutes
from service.http.routes.route import Route
from service.http.schemas import Problem
from service.http.web import Failure, RequestHandler, json
from service.monitoring.monitor import Monitor
from service.process.runtime import Runtime

__all__ = ["create_app"]

STATIC = Path(__file__).parent / "static"

SECURITY = {"Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}


def create_app(runtime: Runtime, *, serves: bool = True, host: str | None = None) -> FastAPI:
    """Build the application of a runtime, which it starts and stops.

    Parameters
    ----------
    runtime : Runtime
        From `service.process.runtime.open_runtime`, not started.
    serves : bool
        False: only the routes for operators exist; nothing is ranked or appended here.
    host : str or None
        Name or address that the server listens on; None: the config's.
    """
    limits = runtime.config.server
    live, handler = Live(runtime.monitor.snapshot), RequestHandler(limits)
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
        runtime.monitor.watch(ids.gauges)
        routes += RankingRoutes(runtime, handler, ingest, ids).routes()
        routes += EventRoutes(runtime, handler, ingest, ids).routes()
    routes += OperationRoutes(runtime, handler, live).routes()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        live.start()
        try:
            yield
        finally:
            live.close()
            if ingest is not None:  # waiting events are appended before the log is closed
                await ingest.close()
            await asyncio.to_thread(runtime.stop)

    app = FastAPI(title="Freshet", lifespan=lifespan, redoc_url=None, redirect_slashes=False)
    description = openapi.document(routes, _version(), limits.max_body)
    app.openapi = lambda: description  # type: ignore[method-assign]
    app.state.live = live
    failed = partial(_failed, runtime.monitor)
    for failure, answer in ((Failure, failed), (HTTPException, _no_route), (ClientDisconnect, _gone), (Exception, _broken)):
        app.add_exception_handler(failure, answer)
    for path, handlers in by_path((route.path, route.method, route.handler) for route in routes).items():
        app.add_route(path, dispatched(handlers), methods=list(handlers))
    app.add_route("/", _page, methods=["GET"])
    if limits.origins:
        methods = ["GET", "POST", "PUT", "DELETE"]
        app.add_middleware(CORSMiddleware, allow_origins=limits.origins, allow_methods=methods, allow_headers=["content-type"])
    hosts = Hosts(limits.host if host is None else host, limits.hosts)
    probes = [route.path for route in routes if route.scope == "probe"]
    app.add_middleware(Guard, hosts=hosts, origins=limits.origins, probes=probes, refused=runtime.monitor.refuse)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _version() -> str:
    try:
        return metadata.version("freshet")
    except metadata.PackageNotFoundError:
        return "0 (not installed)"


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers=SECURITY)


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
    return json(Problem(error=f"internal error ({type(error).__name__}); see the log of the service"), 500)
