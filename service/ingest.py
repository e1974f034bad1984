"""From requests to the log: what concurrent requests bring is appended together, and acknowledged when they are there."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from streams.codec import encode, partition_key
from streams.events import Event
from streams.log import Log, LogFull, Offsets, TooLarge

__all__ = ["Entry", "Ingest", "LogBusy", "entry"]

Entry = tuple[bytes, bytes]
"""Key and value, as a log takes them."""


def entry(event: Event) -> Entry:
    """Make an event ready for the log.

    Raises
    ------
    BadEvent
        For an event that JSON cannot carry.
    """
    return partition_key(event), encode(event)


class LogBusy(OSError):
    """More waits to be appended than may wait: the log's disk is slower than what comes in. Nothing of the append was kept."""


@dataclass(slots=True)
class _Waiting:
    entries: Sequence[Entry]
    done: asyncio.Future[Offsets]


class Ingest:
    """The one writer of a process to its log, for callers on one event loop.

    While one append is on its way to the disk, whatever comes meanwhile gathers and makes the next one (group commit). Order
    is kept: what was handed over first is first in the log.

    Parameters
    ----------
    log : Log
        Where to append.
    wake : callable
        Called after every append, from the event loop: the one who learns has something to read.
    most_waiting : int
        Bytes that may wait for the disk; past it appends are refused with `LogBusy`.

    Attributes
    ----------
    lost : int
        Entries given to `post` that could not be appended.
    """

    def __init__(self, log: Log, wake: Callable[[], None], most_waiting: int = 64 << 20) -> None:
        self._log, self._wake, self._most = log, wake, most_waiting
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, "freshet-ingest")
        self._writer: asyncio.Task[None] | None = None
        self.lost = 0

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
        return await asyncio.shield(self._hand_over(entries))

    def post(self, entry: Entry, failed: Callable[[Entry, Exception], None]) -> None:
        """Append an entry without waiting for it.

        Where that fails, `lost` counts it and `failed` is called with the entry and the reason.
        """

        def settle(done: asyncio.Future[Offsets]) -> None:
            error = done.exception()
            if isinstance(error, Exception):
                self.lost += 1
                failed(entry, error)

        try:
            self._hand_over([entry]).add_done_callback(settle)
        except OSError as error:
            self.lost += 1
            failed(entry, error)

    async def close(self) -> None:
        """Wait for what was handed over, then stop the writing thread."""
        while self._writer is not None:
            await self._writer
        self._thread.shutdown()

    def _hand_over(self, entries: Sequence[Entry]) -> asyncio.Future[Offsets]:
        size = _size(entries)
        if self._bytes and self._bytes + size > self._most:
            problem = (
                f"{self._bytes} bytes of events already wait to be appended; send more slowly, or give the log a faster disk"
            )
            raise LogBusy(errno.EAGAIN, problem)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(entries, loop.create_future())
        self._waiting.append(waiting)
        self._bytes += size
        if self._writer is None:
            self._writer = loop.create_task(self._write())
        return waiting.done

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                await self._append(group)
            except (LogFull, TooLarge):
                # A large request that does not fit, or a large record, must not take small ones with it.
                for one in group:
                    try:
                        await self._append([one])
                    except Exception as error:
                        _refuse([one], error)
            except Exception as error:
                _refuse(group, error)
            self._bytes -= sum(_size(one.entries) for one in group)
        self._writer = None

    async def _append(self, group: list[_Waiting]) -> None:
        entries = [entry for one in group for entry in one.entries]
        end = await asyncio.get_running_loop().run_in_executor(self._thread, self._log.append, entries)
        for one in group:
            if not one.done.done():
                one.done.set_result(end)
        self._wake()


def _refuse(group: list[_Waiting], error: Exception) -> None:
    for one in group:
        if not one.done.done():
            one.done.set_exception(error)


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(key) + len(value) for key, value in entries)
