"""Fingerprints of the whole state for operators: taken from a copy, one at a time, and not too often."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from memory.stateful import State, digest, shared
from service.process.runtime import Runtime

__all__ = ["Digests"]

REST, LONGEST_REST = 4.0, 5.0
"""Times as long as a digest took, and so many seconds at most, nobody gets the next one: learning stands still for the copy."""


class Digests:
    """Makes digests for callers on one event loop.

    Parameters
    ----------
    runtime : Runtime
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._task: asyncio.Task[dict[str, Any]] | None = None
        self._not_before = 0.0

    def ask(self) -> asyncio.Future[dict[str, Any]]:
        """Where the process stands, with the digests of the state at that place; all who wait get the same ones.

        ``shared_digest`` is of the state without what is private: trainer and replicas have the same one at the same place.
        ``digest`` is of the whole state, and not given by a replica, which does not have it.

        Whoever gives up must not cancel it: shield it.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._make())
        return self._task

    async def _make(self) -> dict[str, Any]:
        await asyncio.sleep(self._not_before - time.monotonic())
        start = time.monotonic()
        try:
            status, state = await asyncio.wrap_future(self._runtime.engine.walk(self._runtime.copying))
            return status | await asyncio.to_thread(self._digests, state)
        finally:
            now = time.monotonic()
            self._not_before = now + min(REST * (now - start), LONGEST_REST)

    def _digests(self, state: State) -> dict[str, str]:
        whole = {"digest": digest(state)} if self._runtime.updater.whole else {}
        return whole | {"shared_digest": digest(shared(self._runtime.pipeline, state))}
