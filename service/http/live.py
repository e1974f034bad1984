"""What the live page draws: one sample a second, kept for some minutes, sent as server-sent events."""

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

KEPT = 300
"""Samples that a page gets when it connects."""

MOST_LISTENERS = 100

_log = logging.getLogger(__name__)


class Live:
    """Samples something once a second and tells everybody who listens.

    Parameters
    ----------
    sample : callable returning a mapping
        What is to be told, ready for JSON. Called on a worker thread.
    period : float
        Seconds between samples.
    """

    def __init__(self, sample: Callable[[], dict[str, Any]], period: float = PERIOD) -> None:
        self._sample, self._period = sample, period
        self._kept: deque[bytes] = deque(maxlen=KEPT)
        self._next: asyncio.Future[bytes | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._listeners = 0

    @property
    def full(self) -> bool:
        """Whether as many listen as may."""
        return self._listeners >= MOST_LISTENERS

    def start(self) -> None:
        """Begin to sample, on the running event loop."""
        self._next = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        """Stop sampling and end every stream: a server waits for open answers before it stops."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events: ``history`` (a list of the samples kept), then a ``sample`` each second until the end."""
        self._listeners += 1
        try:
            yield b"retry: 2000\nevent: history\ndata: [" + b",".join(self._kept) + b"]\n\n"
            while self._next is not None:
                # Shielded: this listener's end must not be the end of the others' wait.
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
                _log.exception("no sample for the live page")
            else:
                self._kept.append(sample)
                assert self._next is not None
                told, self._next = self._next, asyncio.get_running_loop().create_future()
                told.set_result(sample)
            await asyncio.sleep(self._period)
