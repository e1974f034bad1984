"""The data of the live page: one sample a second, kept for five minutes, sent as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import msgspec

__all__ = ["Live"]

PERIOD = 1.0
"""Seconds between samples."""

MAX_SAMPLES = 300
"""Latest samples to keep; a page gets them when it connects."""

MAX_BYTES = 4 << 20
"""Most bytes of the kept samples: they have as many numbers as there are learners."""

PIECE = 65_536
"""Bytes of history sent at a time, so that a page that does not read holds no copy of all of it."""

MAX_LISTENERS = 100

_log = logging.getLogger(__name__)


class Live:
    """Takes a sample once a second and sends it to all listeners.

    Parameters
    ----------
    sample : callable returning a mapping
        Makes a sample that JSON can encode. Called on a worker thread.
    period : float
        Seconds between samples.

    Attributes
    ----------
    nbytes : int
        Bytes of the kept samples.
    """

    def __init__(self, sample: Callable[[], dict[str, Any]], period: float = PERIOD) -> None:
        self._sample, self._period = sample, period
        self._kept: deque[bytes] = deque()
        self.nbytes = 0
        self._next: asyncio.Future[bytes | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._listeners = 0
        self._generation = 0

    @property
    def full(self) -> bool:
        """Whether the limit of listeners is reached."""
        return self._listeners >= MAX_LISTENERS

    def start(self) -> None:
        """Start to sample on the running event loop."""
        self._next = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        """Stop sampling and end every stream: a server waits for open responses before it stops."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    def disconnect(self) -> None:
        """End every stream. Pages connect again, and are asked for their key again."""
        self._generation += 1
        if self._next is not None and not self._next.done():
            waiting, self._next = self._next, asyncio.get_running_loop().create_future()
            waiting.set_result(None)

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events: ``history`` (the list of kept samples), then a ``sample`` each second until the end."""
        self._listeners += 1
        generation = self._generation
        try:
            for piece in _pieces([b"retry: 2000\nevent: history\ndata: [", *_separated(self._kept), b"]\n\n"]):
                yield piece
            while self._next is not None and generation == self._generation:
                # Shielded: a listener that goes away must not cancel the future of the others.
                sample = await asyncio.shield(self._next)
                if sample is None:
                    return
                yield b"event: sample\ndata: " + sample + b"\n\n"
        finally:
            self._listeners -= 1

    def _keep(self, sample: bytes) -> None:
        if len(self._kept) == MAX_SAMPLES:
            self.nbytes -= len(self._kept.popleft())
        self._kept.append(sample)
        self.nbytes += len(sample)
        while self.nbytes > MAX_BYTES:
            self.nbytes -= len(self._kept.popleft())

    async def _run(self) -> None:
        while True:
            try:
                sample = msgspec.json.encode(await asyncio.to_thread(self._sample))
            except Exception:
                _log.exception("a sample for the live page failed")
            else:
                self._keep(sample)
                assert self._next is not None
                waiting, self._next = self._next, asyncio.get_running_loop().create_future()
                waiting.set_result(sample)
            await asyncio.sleep(self._period)


def _separated(samples: Iterable[bytes]) -> list[bytes]:
    return [(b"," if n else b"") + sample for n, sample in enumerate(samples)]


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join parts to pieces of about `PIECE` bytes."""
    piece = bytearray()
    for part in parts:
        piece += part
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
