"""The data of the live page: one sample a second, kept for five minutes, sent as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

__all__ = ["Live"]

PERIOD = 1.0
"""Seconds between samples."""

MAX_SAMPLES = 300
"""Latest samples to keep; a page gets them when it connects."""

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
    """

    def __init__(self, sample: Callable[[], dict[str, Any]], period: float = PERIOD) -> None:
        self._sample, self._period = sample, period
        self._kept: deque[bytes] = deque(maxlen=MAX_SAMPLES)
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
            yield b"retry: 2000\nevent: history\ndata: [" + b",".join(self._kept) + b"]\n\n"
            while self._next is not None and generation == self._generation:
                # Shielded: a listener that goes away must not cancel the future of the others.
                sample = await asyncio.shield(self._next)
                if sample is None:
                    return
                yield b"event: sample\ndata: " + sample + b"\n\n"
        finally:
            self._listeners -= 1

    async def _run(self) -> None:
        while True:
            try:
                sample = msgspec.json.encode(await asyncio.to_thread(self._sample))
            except Exception:
                _log.exception("a sample for the live page failed")
            else:
                self._kept.append(sample)
                assert self._next is not None
                waiting, self._next = self._next, asyncio.get_running_loop().create_future()
                waiting.set_result(sample)
            await asyncio.sleep(self._period)
