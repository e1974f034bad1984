"""Shared by all routes: read bodies, wait for the engine, and build JSON responses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from fastapi import Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from service.http import bodies
from service.http.failures import Failure
from service.process.engine import Overloaded, Stopped
from service.ranking.pipeline import Refused
from service.sections import Server
from streams.admission.limits import TextLimits
from streams.codec import BadEvent, decode_as

__all__ = ["Failure", "Request", "RequestHandler", "Response", "decoded", "file", "json", "path_id", "streamed"]

MAX_PENDING = 1000
"""Most requests of all kinds that may wait at once."""

REPLACEMENT = "\ufffd"
"""What servers decode bytes to that are not UTF-8."""

_ENCODER = msgspec.json.Encoder()
_log = logging.getLogger(__name__)

_Document = TypeVar("_Document", bound=msgspec.Struct)
_Result = TypeVar("_Result")


class RequestHandler:
    """Reads request bodies, and waits for results within a time limit.

    Parameters
    ----------
    limits : Server
    """

    def __init__(self, limits: Server) -> None:
        self._limits = limits
        self._pending = 0

    async def body(self, request: Request) -> bytes:
        """Read the JSON body of a request, up to `max_body` bytes; see `service.http.bodies.read`."""
        return await bodies.read(request.headers, request.stream(), self._limits.max_body, request.scope[bodies.ACCOUNT])

    async def answer(self, submit: Callable[[], Future[_Result]]) -> _Result:
        """Result of a request to the engine.

        Parameters
        ----------
        submit : callable
            Hands a request or a call to the engine. After `timeout` its future is cancelled, and the engine drops it.

        Raises
        ------
        Failure
            See `wait`.
        """
        return await self.wait(lambda: asyncio.wrap_future(submit()))

    async def wait(self, submit: Callable[[], asyncio.Future[_Result]]) -> _Result:
        """Result of a future, which is cancelled after `timeout`.

        Raises
        ------
        Failure
            422: the request is refused. 503: the engine has stopped, failed, or takes too long, or too many requests wait.
        """
        if self._pending >= MAX_PENDING:
            raise Failure(503, f"{MAX_PENDING} requests already wait; send fewer at once", retry=True)
        self._pending += 1
        try:
            async with asyncio.timeout(self._limits.timeout):
                return await submit()
        except Refused as error:
            raise Failure(422, str(error), error.field) from error
        except (Stopped, Overloaded) as error:
            raise Failure(503, str(error), retry=True) from error
        except TimeoutError as error:
            raise Failure(
                503, f"no answer within timeout = {self._limits.timeout:g} s: the engine is busy", retry=True
            ) from error
        except Exception as error:
            _log.exception("a request failed in the engine")
            raise Failure(503, f"the ranking failed ({type(error).__name__}: {error})", retry=True) from error
        finally:
            self._pending -= 1


def decoded(document: type[_Document], body: bytes, limits: TextLimits) -> _Document:
    """Decode a body as a struct; `Failure` names the field and the remedy.

    One with more values than any request can have is refused before it is decoded.
    """
    try:
        limits.check_values(body)
    except BadEvent as error:
        raise Failure(413, str(error)) from error
    try:
        return decode_as(document, body)
    except BadEvent as error:
        raise Failure(400 if error.kind == "not_json" else 422, str(error), error.field or None) from error


def path_id(request: Request) -> str:
    """Id in the path of a request.

    Raises
    ------
    Failure
        400: it is not UTF-8, percent-encoded. The server would otherwise take all such ids for the same one.
    """
    name: str = request.path_params["id"]
    if REPLACEMENT in name:
        try:
            unquote_to_bytes(request.scope["raw_path"]).decode()
        except UnicodeDecodeError as error:
            raise Failure(
                400, f"id: {name!r} was no UTF-8 in the path; encode it as UTF-8, then with percent signs", "id"
            ) from error
    return name


def json(document: Any, status: int = 200) -> Response:
    """JSON response with a document."""
    return Response(_ENCODER.encode(document), status, media_type="application/json")


def streamed(lines: AsyncIterator[bytes]) -> Response:
    """Response with a stream of server-sent events."""
    return StreamingResponse(lines, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def file(path: Path) -> Response:
    """Response with a file."""
    return FileResponse(path)
