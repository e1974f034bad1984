"""Read request bodies: JSON, plain or compressed, up to a size limit."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping

from service.http.failures import Failure

__all__ = ["read"]

JSON = "application/json"

ENCODINGS = ("gzip", "deflate")

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""Window bits with which zlib detects the gzip or zlib header itself."""


async def read(headers: Mapping[str, str], parts: AsyncIterator[bytes], limit: int) -> bytes:
    """Read and decompress the body of a request.

    Parameters
    ----------
    headers : mapping of str to str
        Headers of the request, by lower-case name.
    parts : async iterator of bytes
        Chunks of the body.
    limit : int
        Most bytes of the decompressed body.

    Raises
    ------
    Failure
        415: the body is not declared as JSON (browsers send other types to any site without a preflight), or its compression
        is neither gzip nor deflate. 413: it is larger than `limit`. 400: it cannot be decompressed.
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
        parts = _decompressed(parts, limit)
    elif encoding != "identity":
        accepted = {"Accept-Encoding": ", ".join(ENCODINGS)}
        raise Failure(415, f"Content-Encoding: {encoding!r}; send gzip, deflate or no compression", headers=accepted)
    chunks, size = [], 0
    async for part in parts:
        size += len(part)
        if size > limit:
            raise too_large
        chunks.append(part)
    return b"".join(chunks)


async def _decompressed(parts: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Decompress chunks. No result is longer than `limit` + 1 bytes, whatever the compression ratio."""
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    has_data = False
    try:
        async for part in parts:
            while part:
                has_data = True
                if stream.eof:  # a gzip file may have several members
                    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
                yield stream.decompress(part, limit + 1)
                part = stream.unconsumed_tail or stream.unused_data
    except zlib.error as error:
        raise Failure(400, f"body: cannot be decompressed ({error}); send the encoding that Content-Encoding names") from error
    if has_data and not stream.eof:
        raise Failure(400, "body: the compressed data are truncated; send all of them")
