"""What all routes share: bodies within their limit, a turn at the engine, and answers in JSON, failures included."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from service.http import bodies
from service.http.failures import Failure
from service.process.engine import Overloaded, Stopped
from service.ranking.pipeline import Refused
from service.sections import Server
from streams.codec import BadEvent, decode_as

__all__ = ["Failure", "Request", "RequestHandler", "Response", "decoded", "json", "streamed"]

MOST_ASKING = 1000
"""Requests of all kinds that may wait for the engine at once."""

_ENCODER = msgspec.json.Encoder()
_log = logging.getLogger(__name__)

_Document = TypeVar("_Document", bound=msgspec.Struct)
_Result = TypeVar("_Result")


class RequestHandler:
    """Takes requests in, and has the engine answer them.

    Parameters
    ----------
    limits : Server
    """

    def __init__(self, limits: Server) -> None:
        self._limits = limits
        self._asking = 0

    async def body(self, request: Request) -> bytes:
        """Body of a request, JSON within `max_body`; see `service.http.bodies.read`."""
        return await bodies.read(request.headers, request.stream(), self._limits.max_body)

    async def answer(self, ask: Callable[[], Future[_Result]]) -> _Result:
        """What the engine answers, or why it does not.

        Parameters
        ----------
        ask : callable
            Hands a request or a call to the engine. When the time is up its future is cancelled, and the engine passes over it.
        """
        return await self.wait(lambda: asyncio.wrap_future(ask()))

    async def wait(self, ask: Callable[[], asyncio.Future[_Result]]) -> _Result:
        """What somebody answers within `timeout`, or why not; the future is cancelled then."""
        if self._asking >= MOST_ASKING:
            raise Failure(503, f"{MOST_ASKING} requests already wait; send fewer at once", retry=True)
        self._asking += 1
        try:
            async with asyncio.timeout(self._limits.timeout):
                return await ask()
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
            self._asking -= 1


def decoded(document: type[_Document], body: bytes) -> _Document:
    """Read a body as a struct; `Failure` names the field and the remedy."""
    try:
        return decode_as(document, body)
    except BadEvent as error:
        raise Failure(400 if error.kind == "not_json" else 422, str(error), error.field or None) from error


def json(document: Any, status: int = 200) -> Response:
    """Answer with a document."""
    return Response(_ENCODER.encode(document), status, media_type="application/json")


def streamed(lines: AsyncIterator[bytes]) -> Response:
    """Answer with server-sent events."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
