"""Bodies of requests: JSON, plain or compressed, within a limit."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping

from service.http.failures import Failure

__all__ = ["read"]

JSON = "application/json"

ENCODINGS = ("gzip", "deflate")

_AUTOMATIC = 32 + zlib.MAX_WBITS
"""zlib finds out by itself whether gzip's or its own frame comes."""


async def read(headers: Mapping[str, str], parts: AsyncIterator[bytes], limit: int) -> bytes:
    """Body of a request, decompressed.

    Parameters
    ----------
    headers : mapping of str to str
        Of the request, by lower-case name.
    parts : async iterator of bytes
        The body as it comes.
    limit : int
        Bytes that it may have, decompressed.

    Raises
    ------
    Failure
        415: it is not declared as JSON (a browser sends anything else without asking), or is compressed in another way than
        gzip and deflate. 413: it is larger. 400: it cannot be decompressed.
    """
    declared = headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != JSON:
        raise Failure(415, f"Content-Type: {declared!r}; send JSON, with the header Content-Type: {JSON}")
    too_large = Failure(413, f"body: more than max_body = {limit} bytes; send less at once, or raise it in [server]")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in ENCODINGS:
        parts = _decompressed(parts, limit)
    elif encoding != "identity":
        accepted = {"Accept-Encoding": ", ".join(ENCODINGS)}
        raise Failure(415, f"Content-Encoding: {encoding!r}; send gzip, deflate or no compression", headers=accepted)
    kept, size = [], 0
    async for part in parts:
        size += len(part)
        if size > limit:
            raise too_large
        kept.append(part)
    return b"".join(kept)


async def _decompressed(parts: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """What compressed parts say; each is at most one byte longer than `limit`, however well it was compressed."""
    stream = zlib.decompressobj(_AUTOMATIC)
    some = False
    try:
        async for part in parts:
            while part:
                some = True
                if stream.eof:  # gzip files may be put one behind the other
                    stream = zlib.decompressobj(_AUTOMATIC)
                yield stream.decompress(part, limit + 1)
                part = stream.unconsumed_tail or stream.unused_data
    except zlib.error as error:
        raise Failure(400, f"body: cannot be decompressed ({error}); send what Content-Encoding says") from error
    if some and not stream.eof:
        raise Failure(400, "body: the compressed data are cut short; send all of them")
