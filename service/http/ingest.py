"""From requests to the log: what concurrent requests bring is appended together, and acknowledged when they are there."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from streams.codec import encode, partition_key
from streams.dead_letters import DeadLetters
from streams.events import Event
from streams.log import Log, LogFull, Offsets, TooLarge

__all__ = ["Entry", "Ingest", "LogBusy", "entry"]

Entry = tuple[bytes, bytes]
"""Key and value, as a log takes them."""

GROUP = 1 << 19
"""Bytes of requests that are appended together: less than a batch of Kafka takes, which is there whole or not at all."""

PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds until a failed append is tried again, the first time; twice as long each time after."""

_log = logging.getLogger(__name__)


def entry(event: Event) -> Entry:
    """Make an event ready for the log.

    Raises
    ------
    BadEvent
        For an event that JSON cannot carry.
    """
    return partition_key(event), encode(event)


class LogBusy(OSError):
    """More waits to be appended than may wait: the log is slower than what comes in. Nothing of the append was kept."""

    def __init__(self, problem: str) -> None:
        super().__init__(errno.EAGAIN, problem)


class _Waiting:
    """Entries of one request, and who waits for them; None: nobody."""

    __slots__ = ("done", "entries", "size")

    def __init__(self, entries: Sequence[Entry], done: asyncio.Future[Offsets] | None) -> None:
        self.entries, self.done = entries, done
        self.size = sum(len(key) + len(value) for key, value in entries)


class Ingest:
    """The one writer of a process to its log, for callers on one event loop.

    While one append is on its way to the log, whatever comes meanwhile gathers and makes the next one (group commit). Order
    is kept: what was handed over first is first in the log.

    Parameters
    ----------
    log : Log
        Where to append.
    wake : callable
        Called after every append, from the event loop: the one who learns has something to read.
    dead : DeadLetters
        Keeps what was posted and could not be appended, as letters of the kind ``lost``.
    retry : bool
        Whether what was posted is tried again until it is in the log, or until the end. A log that did not say whether it
        kept an append can so have it twice; events with an id are learned once all the same.
    buffer : int
        Bytes that may wait for the log; past it appends are refused with `LogBusy`.

    Attributes
    ----------
    failures : int
        Appends that failed and were put off.
    """

    def __init__(
        self,
        log: Log,
        wake: Callable[[], None],
        dead: DeadLetters,
        *,
        retry: bool = False,
        buffer: int = 64 << 20,
    ) -> None:
        self._log, self._wake, self._dead, self._retry, self._most = log, wake, dead, retry, buffer
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, "freshet-ingest")
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.failures = 0

    async def append(self, entries: Sequence[Entry]) -> Offsets:
        """Append entries, in order and all or none; return when they are in the log.

        Returns
        -------
        Offsets
            By partition, an offset past these entries.

        Raises
        ------
        LogFull
            Where there is no room.
        TooLarge
            Where an entry is larger than the log takes.
        OSError
            Where the log cannot be written, or too much waits for it already.
        """
        done: asyncio.Future[Offsets] = asyncio.get_running_loop().create_future()
        self._hand_over(_Waiting(entries, done))
        return await asyncio.shield(done)

    def post(self, entries: Sequence[Entry]) -> None:
        """Append entries, in order, without waiting for it.

        Raises
        ------
        LogBusy
            Where too much waits for the log already.
        """
        self._hand_over(_Waiting(entries, None))

    async def close(self) -> None:
        """Wait for what was handed over, then stop. What fails now is tried once more, and then lost."""
        self._closing.set()
        while self._writer is not None:
            await self._writer
        await asyncio.to_thread(self._thread.shutdown)

    def gauges(self) -> dict[str, Any]:
        """Numbers for `service.monitoring.monitor.Monitor`."""
        return {"failures": {"append": self.failures}, "memory_bytes": {"buffer": self._bytes}}

    def _hand_over(self, one: _Waiting) -> None:
        if self._bytes and self._bytes + one.size > self._most:
            problem = f"{self._bytes} bytes of events already wait to be appended"
            raise LogBusy(f"{problem}; send more slowly, or see why the log does not take them faster")
        self._waiting.append(one)
        self._bytes += one.size
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        pause = PAUSE
        while self._waiting:
            last = self._closing.is_set()
            kept, error = await self._try(self._next_group())
            if error is None:
                pause = PAUSE
                continue
            self.failures += 1
            self._waiting.extendleft(reversed(kept))
            if last:
                while self._waiting:
                    self._give_up(self._waiting.popleft(), error)
                break
            if pause == PAUSE:
                _log.warning("events wait, and appending them is tried again: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._writer = None

    def _next_group(self) -> list[_Waiting]:
        group = [self._waiting.popleft()]
        size = group[0].size
        while self._waiting and size + self._waiting[0].size <= GROUP:
            group.append(self._waiting.popleft())
            size += group[-1].size
        return group

    async def _try(self, group: list[_Waiting]) -> tuple[list[_Waiting], Exception | None]:
        """Append a group; what of it is to be tried again, and why."""
        entries = [entry for one in group for entry in one.entries]
        try:
            end = await asyncio.get_running_loop().run_in_executor(self._thread, self._log.append, entries)
        except Exception as error:
            parts = _parts(group) if isinstance(error, LogFull | TooLarge) else []
            if len(parts) < 2:
                return self._failed(group, error)
            # A request that does not fit, or a large record, must not take others with it.
            for at, part in enumerate(parts):
                kept, put_off = await self._try([part])
                if put_off is not None:
                    # What comes after it must not get ahead of it.
                    behind, _ = self._failed(parts[at + 1 :], LogBusy("earlier events still wait for the log; send it later"))
                    return kept + behind, put_off
            return [], None
        for one in group:
            self._bytes -= one.size
            if one.done is not None and not one.done.done():
                one.done.set_result(end)
        self._wake()
        return [], None

    def _failed(self, group: Sequence[_Waiting], error: Exception) -> tuple[list[_Waiting], Exception | None]:
        passing = self._retry and isinstance(error, OSError) and not isinstance(error, TooLarge)
        kept = []
        for one in group:
            if passing and one.done is None:
                kept.append(one)
            else:
                self._give_up(one, error)
        return kept, error if kept else None

    def _give_up(self, one: _Waiting, error: Exception) -> None:
        self._bytes -= one.size
        if one.done is None:
            _log.error("%d events could not be appended: %s", len(one.entries), error)
            self._thread.submit(self._bury, one.entries, str(error))
        elif not one.done.done():
            one.done.set_exception(error)

    def _bury(self, entries: Sequence[Entry], reason: str) -> None:
        for _, value in entries:
            self._dead.put("lost", reason, value, source="http")


def _parts(group: list[_Waiting]) -> list[_Waiting]:
    """What can be appended by itself: requests, or entries of a request that has been answered."""
    if len(group) > 1 or group[0].done is not None:
        return group
    return [_Waiting([entry], None) for entry in group[0].entries]
