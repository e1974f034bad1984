"""Append the events of concurrent requests to the log in groups, and acknowledge them once they are in it."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from streams.codec import encode, partition_key
from streams.dead_letters import DeadLetters
from streams.events import Event
from streams.log import Log, LogFull, Offsets, PartlyRefused, RecordTooLarge

__all__ = ["Entry", "Ingest", "LogBusy", "entry"]

Entry = tuple[bytes, bytes]
"""Key and value of a record."""

GROUP_BYTES = 1 << 19
"""Most bytes of requests that are appended together. It is less than the size of a Kafka batch, which is atomic."""

ROOM_SECONDS, ROOM_POLL = 3.0, 0.05
"""Seconds that an append waits for a log that trims itself, and between two attempts."""
ENTRY_BYTES = 130
"""Memory of an entry in addition to its key and value."""

PAUSE, MAX_PAUSE = 0.1, 2.0
"""Seconds until a failed append is retried: at first, and at most. The pause doubles each time."""

_log = logging.getLogger(__name__)


def entry(event: Event) -> Entry:
    """Encode an event as a record of the log.

    Raises
    ------
    BadEvent
        For an event that JSON cannot represent.
    """
    return partition_key(event), encode(event)


class LogBusy(OSError):
    """The buffer is full: events arrive faster than the log takes them. Nothing of this append was kept."""

    def __init__(self, problem: str) -> None:
        super().__init__(errno.EAGAIN, problem)


class _Waiting:
    """Entries of one request, and the future of its caller; None: nobody waits."""

    __slots__ = ("done", "entries", "size")

    def __init__(self, entries: Sequence[Entry], done: asyncio.Future[Offsets] | None) -> None:
        self.entries, self.done = entries, done
        self.size = sum(ENTRY_BYTES + len(key) + len(value) for key, value in entries)


class Ingest:
    """The only writer of a process to its log, for callers on one event loop.

    Requests that arrive during an append are appended together by the next one (group commit). The order of the requests is
    the order in the log.

    Parameters
    ----------
    log : Log
        Where to append.
    wake : callable
        Called on the event loop after every append: the trainer has something to read.
    dead : DeadLetters
        Keeps posted events that could not be appended, with the kind ``lost``.
    retry : bool
        Whether posted events are retried until they are in the log or `close` is called. After an append with an unknown
        result, the log may hold them twice; events with an id are still learned once.
    buffer : int
        Most bytes that may wait to be appended; beyond it appends are refused with `LogBusy`.
    trims : bool
        Whether the trainer trims the log when it is nearly full: then an append waits a moment for room.

    Attributes
    ----------
    failures : int
        Appends that failed and are retried.
    """

    def __init__(
        self,
        log: Log,
        wake: Callable[[], None],
        dead: DeadLetters,
        *,
        retry: bool = False,
        buffer: int = 64 << 20,
        trims: bool = False,
    ) -> None:
        self._log, self._wake, self._dead, self._retry, self._max_bytes = log, wake, dead, retry, buffer
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._trims, self._full_since = trims, 0.0
        self._thread = ThreadPoolExecutor(1, "freshet-ingest")
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.failures = 0

    async def append(self, entries: Sequence[Entry]) -> Offsets:
        """Append entries in order, all or none; return when they are in the log.

        Returns
        -------
        Offsets
            For each partition, an offset after these entries.

        Raises
        ------
        LogFull
            If the log has no space left.
        RecordTooLarge
            If an entry is larger than the log allows.
        PartlyRefused
            If the log refuses some entries for good and has taken the others.
        OSError
            If the log cannot be written, or too many bytes wait already.
        """
        done: asyncio.Future[Offsets] = asyncio.get_running_loop().create_future()
        self._enqueue(_Waiting(entries, done))
        return await asyncio.shield(done)

    def post(self, entries: Sequence[Entry]) -> None:
        """Append entries in order, without waiting for the log.

        Raises
        ------
        LogBusy
            If too many bytes wait already.
        """
        self._enqueue(_Waiting(entries, None))

    async def close(self) -> None:
        """Append what waits, then stop. A failed append is retried once; then its events become dead letters."""
        self._closing.set()
        while self._writer is not None:
            await self._writer
        await asyncio.to_thread(self._thread.shutdown)

    def gauges(self) -> dict[str, Any]:
        """Numbers for `service.monitoring.monitor.Monitor`."""
        return {"failures": {"append": self.failures}}

    def memory(self) -> dict[str, int]:
        """Memory of the events that wait to be appended."""
        return {"buffer": self._bytes}

    def _enqueue(self, request: _Waiting) -> None:
        if self._bytes and self._bytes + request.size > self._max_bytes:
            problem = f"{self._bytes} bytes of events already wait to be appended"
            raise LogBusy(f"{problem}; send more slowly, or find out why the log is slow")
        self._waiting.append(request)
        self._bytes += request.size
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
                _log.warning("an append failed and will be retried: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)
            pause = min(2 * pause, MAX_PAUSE)
        self._writer = None

    def _next_group(self) -> list[_Waiting]:
        group = [self._waiting.popleft()]
        size = group[0].size
        while self._waiting and size + self._waiting[0].size <= GROUP_BYTES:
            group.append(self._waiting.popleft())
            size += group[-1].size
        return group

    async def _try(self, group: list[_Waiting]) -> tuple[list[_Waiting], Exception | None]:
        """Append a group; return the requests to retry, and the error."""
        entries = [entry for request in group for entry in request.entries]
        try:
            end = await asyncio.get_running_loop().run_in_executor(self._thread, self._append_to_log, entries)
        except PartlyRefused as error:
            self._take_refusals(group, error)
            self._wake()
            return [], None
        except Exception as error:
            parts = _split(group) if isinstance(error, LogFull | RecordTooLarge) else []
            if len(parts) < 2:
                return self._failed(group, error)
            # A request that does not fit, or a large record, must not fail the others.
            for at, part in enumerate(parts):
                kept, retry_error = await self._try([part])
                if retry_error is not None:
                    # Later requests must not overtake this one.
                    later, _ = self._failed(parts[at + 1 :], LogBusy("earlier events still wait for the log; try again later"))
                    return kept + later, retry_error
            return [], None
        for request in group:
            self._finish(request, end)
        self._wake()
        return [], None

    def _take_refusals(self, group: Sequence[_Waiting], error: PartlyRefused) -> None:
        """Report the entries that the log refuses for good to who sent them; the others are in it."""
        at = 0
        for request in group:
            bad = [entry for n, entry in enumerate(request.entries, at) if n in error.refused]
            at += len(request.entries)
            if not bad:
                self._finish(request, error.end)
                continue
            part = request if request.done is not None else _Waiting(bad, None)
            self._bytes -= request.size - part.size
            self._give_up(part, error)

    def _finish(self, request: _Waiting, end: Offsets) -> None:
        self._bytes -= request.size
        if request.done is not None and not request.done.done():
            request.done.set_result(end)

    def _append_to_log(self, entries: Sequence[Entry]) -> Offsets:
        """Append on the thread of this object. A log that has been full for long is not waited for."""
        while True:
            try:
                end = self._log.append(entries)
            except LogFull:
                self._full_since = self._full_since or time.monotonic()
                if not self._trims or time.monotonic() > self._full_since + ROOM_SECONDS:
                    raise
                time.sleep(ROOM_POLL)
            else:
                self._full_since = 0.0
                return end

    def _failed(self, group: Sequence[_Waiting], error: Exception) -> tuple[list[_Waiting], Exception | None]:
        temporary = self._retry and isinstance(error, OSError) and not isinstance(error, RecordTooLarge)
        kept = []
        for request in group:
            if temporary and request.done is None:
                kept.append(request)
            else:
                self._give_up(request, error)
        return kept, error if kept else None

    def _give_up(self, request: _Waiting, error: Exception) -> None:
        self._bytes -= request.size
        if request.done is None:
            _log.error("%d events could not be appended: %s", len(request.entries), error)
            self._thread.submit(self._keep_letters, request.entries, str(error))
        elif not request.done.done():
            request.done.set_exception(error)

    def _keep_letters(self, entries: Sequence[Entry], reason: str) -> None:
        for _, value in entries:
            self._dead.put("lost", reason, value, source="http")


def _split(group: list[_Waiting]) -> list[_Waiting]:
    """Parts that can be appended separately: requests, or the entries of a request that nobody waits for."""
    if len(group) > 1 or group[0].done is not None:
        return group
    return [_Waiting([entry], None) for entry in group[0].entries]
