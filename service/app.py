"""The HTTP side: decode, hand over, encode. Routes are described in `service.openapi`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from learners.features import hash_id
from memory.catalog import Catalog
from service import openapi
from service.admission import Admission
from service.engine import Stopped
from service.ingest import Entry, Ingest, entry
from service.live import Live
from service.monitor import Monitor
from service.pipeline import Refused
from service.runtime import Runtime
from service.schemas import (
    EventResult,
    EventResults,
    ItemDocument,
    Problem,
    RankRequest,
    RecommendRequest,
    UserDocument,
    Written,
)
from streams.codec import BadEvent, decode, decode_as, encode
from streams.events import Event, Forget, ItemUpdate, Tick, UserUpdate
from streams.log import InDoubt, LogFull, Offsets, TooLarge

__all__ = ["create_app"]

STATIC = Path(__file__).parent / "static"

ANSWER_SECONDS = 10.0
"""After which a request that the engine has not come to is given up."""

VISIBLE_SECONDS = 5.0
"""How long a change of an item or user is waited for until rankings show it; past it the answer is 202."""

MOST_ASKING = 1000
"""Requests that may wait for the engine at once; more are turned away rather than all of them being late."""

TURN = 64
"""Events decoded before others on the event loop get their turn."""

SECURITY = {"Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}

_ACCEPTED = EventResult(status="accepted")
_ENCODER = msgspec.json.Encoder()
_RAW = msgspec.json.Decoder(list[msgspec.Raw])
_log = logging.getLogger(__name__)

_Document = TypeVar("_Document", bound=msgspec.Struct)
_Result = TypeVar("_Result")


class _Failure(Exception):
    """An answer that is a `Problem`."""

    def __init__(self, status: int, error: str, field: str | None = None, retry: bool = False) -> None:
        super().__init__(error)
        self.status, self.problem, self.retry = status, Problem(error=error, field=field), retry


def create_app(runtime: Runtime) -> FastAPI:
    """Build the application around a runtime, which it starts and stops.

    Parameters
    ----------
    runtime : Runtime
        From `service.runtime.open_runtime`, not started.
    """
    routes = _Routes(runtime)
    limits = runtime.config.server
    app = FastAPI(title="Freshet", lifespan=routes.lifespan, redoc_url=None)
    description = openapi.document(_version(), limits.max_body, limits.max_events)
    app.openapi = lambda: description  # type: ignore[method-assign]
    app.state.live = routes.live
    failed = partial(_failed, runtime.monitor)
    for failure, answer in ((_Failure, failed), (HTTPException, _no_route), (ClientDisconnect, _gone), (Exception, _broken)):
        app.add_exception_handler(failure, answer)
    for method, path, handler in (
        ("POST", "/v1/events", routes.events),
        ("POST", "/v1/rank", partial(routes.rank, RankRequest)),
        ("POST", "/v1/recommend", partial(routes.rank, RecommendRequest)),
        ("POST", "/v1/users/{id:path}/forget", routes.forget),
        ("GET", "/v1/status", routes.status),
        ("GET", "/v1/live", routes.stream),
        ("GET", "/healthz", routes.alive),
        ("GET", "/readyz", routes.ready),
        ("GET", "/metrics", routes.metrics),
        ("GET", "/", _page),
    ):
        app.add_route(path, handler, methods=[method])
    for path, entries in (("items", _Items(runtime)), ("users", _Users(runtime))):
        app.add_route(f"/v1/{path}/{{id:path}}", partial(routes.put, entries), methods=["PUT"])
        app.add_route(f"/v1/{path}/{{id:path}}", partial(routes.get, entries), methods=["GET"])
        app.add_route(f"/v1/{path}/{{id:path}}", partial(routes.delete, entries), methods=["DELETE"])
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


class _Items:
    """How items are written and read."""

    noun, document = "item", ItemDocument

    def __init__(self, runtime: Runtime) -> None:
        self.catalog: Catalog = runtime.pipeline.items

    def event(self, name: str, document: ItemDocument | None) -> Event:
        if document is None:
            return ItemUpdate(item=name, deleted=True)
        return ItemUpdate(item=name, attributes=document.attributes, timestamp=document.timestamp)


class _Users:
    """How users are written and read."""

    noun, document = "user", UserDocument

    def __init__(self, runtime: Runtime) -> None:
        self.catalog: Catalog = runtime.pipeline.users

    def event(self, name: str, document: UserDocument | None) -> Event:
        if document is None:
            return UserUpdate(user=name, deleted=True)
        return UserUpdate(user=name, attributes=document.attributes, timestamp=document.timestamp)


class _Routes:
    """The handlers, and what they share."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._engine, self._monitor = runtime, runtime.engine, runtime.monitor
        self._limits = runtime.config.server
        self._admission = Admission(runtime.config.reward, runtime.config.stream.max_skew)
        self._ingest = Ingest(runtime.log, runtime.engine.wake)
        self._asking = 0
        self.live = Live(runtime.monitor.snapshot)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the runtime while the app serves; at the end what waits for the log is written first."""
        self._runtime.start()
        self.live.start()
        try:
            yield
        finally:
            self.live.close()
            await self._ingest.close()
            await asyncio.to_thread(self._runtime.stop)

    async def events(self, request: Request) -> Response:
        """Append one event or a list of them, each on its own merits."""
        body = await self._body(request)
        single = body.lstrip()[:1] != b"["
        raws: Sequence[bytes | msgspec.Raw] = [body] if single else self._elements(body)
        now = time.time()
        good: list[Entry] = []
        bad: list[tuple[BadEvent, bytes]] = []
        results = []
        for n, raw in enumerate(raws, 1):
            try:
                good.append(entry(self._admit(bytes(raw), now)))
                results.append(_ACCEPTED)
            except BadEvent as error:
                if single and error.kind == "not_json":
                    raise _Failure(400, str(error)) from error
                bad.append((error, bytes(raw)))
                results.append(EventResult(status="rejected", field=error.field or None, error=str(error)))
            if n % TURN == 0:
                await asyncio.sleep(0)
        if good:
            await self._append(good)
        if bad:
            await asyncio.to_thread(self._bury, bad)
        status = 200 if not bad else 207 if good else 422
        return _json(EventResults(accepted=len(good), rejected=len(bad), results=results), status)

    async def rank(self, document: type[RankRequest | RecommendRequest], request: Request) -> Response:
        """Answer with a ranking; its impression is on the way to the log then, ahead of whatever answers it."""
        arrived = time.perf_counter()
        asked = _decoded(document, await self._body(request))
        response, impression = await self._answer(lambda: self._engine.submit(asked))
        if impression is not None:
            self._ingest.post(entry(impression), self._lost)
        self._monitor.request(time.perf_counter() - arrived)
        return _json(response)

    async def put(self, entries: _Items | _Users, request: Request) -> Response:
        """Add or replace an item or user."""
        name = request.path_params["id"]
        document: Any = _decoded(entries.document, await self._body(request))
        named = getattr(document, entries.noun)
        if named not in (None, name):
            raise _Failure(422, f"{entries.noun}: {named!r} is not the {name!r} of the path; leave it out", entries.noun)
        return await self._change(entries.event(name, document))

    async def delete(self, entries: _Items | _Users, request: Request) -> Response:
        """Delete an item or the attributes of a user."""
        return await self._change(entries.event(request.path_params["id"], None))

    async def get(self, entries: _Items | _Users, request: Request) -> Response:
        """Attributes of an item or user."""
        name = request.path_params["id"]
        attributes = await self._answer(lambda: self._engine.call(lambda: entries.catalog.get(hash_id(name))))
        if attributes is None:
            raise _Failure(404, f"{entries.noun}: there is no {name!r} here", "id")
        return _json({entries.noun: name, "attributes": attributes})

    async def forget(self, request: Request) -> Response:
        """Remove all that is kept for a user."""
        return await self._change(Forget(user=request.path_params["id"]))

    async def status(self, request: Request) -> Response:
        """Where this process stands."""
        digest = request.query_params.get("digest") == "1"
        return _json(await self._answer(lambda: self._engine.call(lambda: self._runtime.status(digest=digest))))

    async def stream(self, request: Request) -> Response:
        """Server-sent events for the live page."""
        if self.live.full:
            raise _Failure(503, "too many live pages are open; close some", retry=True)
        return StreamingResponse(
            self.live.stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    async def alive(self, request: Request) -> Response:
        """Say that the process lives."""
        return _json({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Say whether the engine answers and has caught up."""
        if self._engine.failure is not None:
            raise _Failure(503, f"the engine has stopped: {self._engine.failure!r}; see the log of the service")
        if not self._engine.learning:
            raise _Failure(503, "restoring the state and catching up with the log; try again shortly", retry=True)
        return _json({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Metrics for Prometheus."""
        text = await asyncio.to_thread(self._monitor.metrics)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _body(self, request: Request) -> bytes:
        limit = self._limits.max_body
        too_large = _Failure(413, f"body: more than max_body = {limit} bytes; send less at once, or raise it in [server]")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
        return b"".join(parts)

    def _elements(self, body: bytes) -> list[msgspec.Raw]:
        try:
            raws = _RAW.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _Failure(400, f"body: is not JSON ({error}); send one event or a list of events in UTF-8") from error
        if len(raws) > self._limits.max_events:
            most = self._limits.max_events
            raise _Failure(413, f"body: {len(raws)} events are more than max_events = {most}; send them in parts")
        return raws

    def _admit(self, data: bytes, now: float) -> Event:
        event = decode(data)
        if isinstance(event, Tick):
            raise BadEvent("type", "'tick' is the service's own; leave it out")
        self._admission.check(event, now)
        return event if event.timestamp else msgspec.structs.replace(event, timestamp=now)

    async def _append(self, entries: Sequence[Entry]) -> Offsets:
        try:
            return await self._ingest.append(entries)
        except LogFull as error:
            _log.error("the log is full: %s", error)
            raise _Failure(507, f"{error.filename}: {error.strerror}; nothing of this request was kept") from error
        except TooLarge as error:
            raise _Failure(413, f"{error.strerror}; nothing of this request was kept") from error
        except InDoubt as error:
            raise _Failure(503, str(error.strerror), retry=True) from error
        except OSError as error:
            _log.error("the log cannot be written: %s", error)
            raise _Failure(503, f"{error.strerror}; nothing of this request was kept", retry=True) from error

    async def _change(self, event: Event) -> Response:
        """Append an event, and answer when the trainer is past it."""
        try:
            change = entry(self._admit(encode(event), time.time()))
        except BadEvent as error:
            raise _Failure(422, str(error), error.field or None) from error
        end = await self._append([change])
        until, pause = time.monotonic() + VISIBLE_SECONDS, 0.001
        while not await self._answer(lambda: self._engine.call(lambda: self._has_learned(end))):
            if time.monotonic() > until:
                return _json(Written(visible=False), 202)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
        return _json(Written(visible=True))

    def _has_learned(self, end: Offsets) -> bool:
        return all(self._runtime.trainer.next >= offset for offset in end.values())

    async def _answer(self, ask: Callable[[], Future[_Result]]) -> _Result:
        """What the engine answers, or why it does not."""
        if self._asking >= MOST_ASKING:
            raise _Failure(503, f"{MOST_ASKING} requests already wait; send fewer at once", retry=True)
        self._asking += 1
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                # Shielded: the engine answers what it has been asked, whether or not somebody still waits.
                return await asyncio.shield(asyncio.wrap_future(ask()))
        except Refused as error:
            raise _Failure(422, str(error), error.field) from error
        except Stopped as error:
            raise _Failure(503, str(error), retry=True) from error
        except TimeoutError as error:
            raise _Failure(503, f"no answer within {ANSWER_SECONDS:.0f} s: the engine is busy", retry=True) from error
        except Exception as error:
            _log.exception("a request failed in the engine")
            raise _Failure(503, f"the ranking failed ({type(error).__name__}: {error})", retry=True) from error
        finally:
            self._asking -= 1

    def _bury(self, bad: Sequence[tuple[BadEvent, bytes]]) -> None:
        for error, data in bad:
            self._runtime.dead.put(error.kind, str(error), data, source="http")

    def _lost(self, impression: Entry, error: Exception) -> None:
        """An impression did not reach the log: what follows from it will be learned as if nothing had been shown."""
        _log.error("an impression could not be appended: %s", error)
        asyncio.get_running_loop().run_in_executor(None, self._bury, [(BadEvent("", str(error), kind="lost"), impression[1])])


def _version() -> str:
    try:
        return metadata.version("freshet")
    except metadata.PackageNotFoundError:
        return "0 (not installed)"


def _decoded(document: type[_Document], body: bytes) -> _Document:
    try:
        return decode_as(document, body)
    except BadEvent as error:
        raise _Failure(400 if error.kind == "not_json" else 422, str(error), error.field or None) from error


def _json(document: Any, status: int = 200) -> Response:
    return Response(_ENCODER.encode(document), status, media_type="application/json")


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers=SECURITY)


async def _failed(monitor: Monitor, request: Request, error: Exception) -> Response:
    assert isinstance(error, _Failure)
    monitor.refuse(error.status)
    response = _json(error.problem, error.status)
    if error.retry:
        response.headers["Retry-After"] = "1"
    return response


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _json(Problem(error=f"{request.method} {request.url.path}: {error.detail}; see /docs"), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _broken(request: Request, error: Exception) -> Response:
    return _json(Problem(error=f"internal error ({type(error).__name__}); see the log of the service"), 500)
