"""Digests of the whole state for operators: made from a copy, one at a time and with pauses."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from memory.stateful import State, digest, without_private
from service.process.runtime import Runtime

__all__ = ["Digests"]

REST, LONGEST_REST = 4.0, 5.0
"""Pause after a digest: a multiple of its duration, and the most seconds. Learning stops while the state is copied."""


class Digests:
    """Computes digests for callers on one event loop.

    Parameters
    ----------
    runtime : Runtime
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._task: asyncio.Task[dict[str, Any]] | None = None
        self._not_before = 0.0

    def ask(self) -> asyncio.Future[dict[str, Any]]:
        """Status of the process with the digests of that state. Concurrent callers get the same one.

        ``shared_digest`` leaves out private state: a trainer and its replicas have the same one at the same position.
        ``digest`` is of the whole state. A replica does not have the whole state, and does not give it.

        Shield the future: a caller that gives up must not cancel it for the others.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._make())
        return self._task

    async def _make(self) -> dict[str, Any]:
        await asyncio.sleep(self._not_before - time.monotonic())
        start = time.monotonic()
        try:
            status, state = await asyncio.wrap_future(self._runtime.engine.walk(self._runtime.copy_in_steps))
            return status | await asyncio.to_thread(self._digests, state)
        finally:
            now = time.monotonic()
            self._not_before = now + min(REST * (now - start), LONGEST_REST)

    def _digests(self, state: State) -> dict[str, str]:
        whole = {"digest": digest(state)} if self._runtime.updater.whole else {}
        return whole | {"shared_digest": digest(without_private(self._runtime.pipeline, state))}
