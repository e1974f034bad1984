"""Read request bodies: JSON, plain or compressed, up to a size limit for each and for all of them together."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from service.http.failures import Failure

__all__ = ["ACCOUNT", "Account", "Bodies", "ReleaseBodies", "read"]

ACCOUNT = "freshet.body"
"""Key of a request's `Account` in its scope."""

SMALL = 16_384
"""Bytes of a body that are always admitted: a ranking must not have to wait for the large bodies of others."""

EXPANSION = 8
"""Memory of a body that is processed, as a multiple of its bytes: of its parts, and of the events decoded from it."""

STEP = 65_536
"""Most bytes decompressed at a time; then the event loop serves others."""

JSON = "application/json"

ENCODINGS = ("gzip", "deflate")

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""Window bits with which zlib detects the gzip or zlib header itself."""


App = Callable[[Any, Any, Any], Awaitable[None]]


class Bodies:
    """Bounds the memory of all request bodies together.

    Parameters
    ----------
    most : int
        Bytes. A body counts from its first byte on, and `EXPANSION` times once it has arrived, until its request is answered.

    Attributes
    ----------
    nbytes : int
        Bytes held now.
    """

    def __init__(self, most: int) -> None:
        self.most, self.nbytes = most, 0


class Account:
    """The part of one request in `Bodies`."""

    __slots__ = ("_all", "_size")

    def __init__(self, bodies: Bodies) -> None:
        self._all, self._size = bodies, 0

    def add(self, size: int) -> None:
        """Add bytes.

        Raises
        ------
        Failure
            503: there are too many bytes of others.
        """
        bodies, own = self._all, self._size + size
        if own > SMALL * EXPANSION and bodies.nbytes + size > bodies.most:
            problem = f"body: {bodies.nbytes} bytes of other requests wait or are processed, of max_bodies = {bodies.most}"
            raise Failure(503, f"{problem}; try again shortly, or send smaller bodies", retry=True)
        self._size = own
        bodies.nbytes += size

    def release(self) -> None:
        """Give all bytes back."""
        self._all.nbytes -= self._size
        self._size = 0


class ReleaseBodies:
    """Gives every request an `Account`, and releases it when the request is answered (ASGI middleware).

    Parameters
    ----------
    app : ASGI application
    bodies : Bodies
    """

    def __init__(self, app: App, bodies: Bodies) -> None:
        self._app, self._bodies = app, bodies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        account = scope[ACCOUNT] = Account(self._bodies)
        try:
            await self._app(scope, receive, send)
        finally:
            account.release()


async def read(headers: Mapping[str, str], parts: AsyncIterator[bytes], limit: int, account: Account) -> bytes:
    """Read and decompress the body of a request.

    Parameters
    ----------
    headers : mapping of str to str
        Headers of the request, by lower-case name.
    parts : async iterator of bytes
        Chunks of the body.
    limit : int
        Most bytes of the decompressed body.
    account : Account
        Counts the bytes.

    Raises
    ------
    Failure
        415: the body is not declared as JSON (browsers send other types to any site without a preflight), or its compression
        is neither gzip nor deflate. 413: it is larger than `limit`. 400: it cannot be decompressed. 503: there are too many
        bodies.
    """
    declared = headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != JSON:
        raise Failure(415, f"Content-Type: {declared!r}; send JSON, with the header Content-Type: {JSON}")
    too_large = Failure(413, f"body: more than max_body = {limit} bytes; send a smaller body, or raise it in [server]")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in ENCODINGS:
        parts = _decompressed(parts, min(limit + 1, STEP))
    elif encoding != "identity":
        accepted = {"Accept-Encoding": ", ".join(ENCODINGS)}
        raise Failure(415, f"Content-Encoding: {encoding!r}; send gzip, deflate or no compression", headers=accepted)
    # One buffer, and not a list: a client may send single bytes, and each would take 40.
    body = bytearray()
    async for part in parts:
        if len(body) + len(part) > limit:
            raise too_large
        account.add(len(part))
        body += part
    account.add((EXPANSION - 1) * len(body))
    return bytes(body)


async def _decompressed(parts: AsyncIterator[bytes], step: int) -> AsyncIterator[bytes]:
    """Decompress chunks. No result is longer than `step` bytes, whatever the compression ratio."""
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    has_data = False
    try:
        async for part in parts:
            while part:
                has_data = True
                if stream.eof:  # a gzip file may have several members
                    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
                yield stream.decompress(part, step)
                if stream.unconsumed_tail:
                    await asyncio.sleep(0)
                part = stream.unconsumed_tail or stream.unused_data
    except zlib.error as error:
        raise Failure(400, f"body: cannot be decompressed ({error}); send the encoding that Content-Encoding names") from error
    if has_data and not stream.eof:
        raise Failure(400, "body: the compressed data are truncated; send all of them")
