"""From requests to the log: events of concurrent requests are appended together, and acknowledged when they are there."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from streams.codec import encode, partition_key
from streams.events import Event
from streams.log import Log, LogFull, Offsets

__all__ = ["Ingest", "LogBusy"]


class LogBusy(OSError):
    """More waits to be appended than may wait: the log's disk is slower than what comes in. Nothing of the append was kept."""


@dataclass(slots=True)
class _Waiting:
    records: list[tuple[bytes, bytes]]
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
        Events given to `post` that could not be appended.
    """

    def __init__(self, log: Log, wake: Callable[[], None], most_waiting: int = 64 << 20) -> None:
        self._log, self._wake, self._most = log, wake, most_waiting
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, "freshet-ingest")
        self._writer: asyncio.Task[None] | None = None
        self.lost = 0

    async def append(self, events: Sequence[Event]) -> Offsets:
        """Append events, in order and all or none; return when they are in the log.

        Returns
        -------
        Offsets
            By partition, an offset past these events.

        Raises
        ------
        BadEvent
            For an event that JSON cannot carry.
        LogFull
            Where there is no room.
        OSError
            Where the log cannot be written.
        """
        return await asyncio.shield(self._hand_over(events))

    def post(self, event: Event, failed: Callable[[Event, Exception], None]) -> None:
        """Append an event without waiting for it.

        Where that fails, `lost` counts it and `failed` is called with the event and the reason.
        """

        def settle(done: asyncio.Future[Offsets]) -> None:
            error = done.exception()
            if isinstance(error, Exception):
                self.lost += 1
                failed(event, error)

        try:
            self._hand_over([event]).add_done_callback(settle)
        except (OSError, ValueError) as error:
            self.lost += 1
            failed(event, error)

    async def close(self) -> None:
        """Wait for what was handed over, then stop the writing thread."""
        while self._writer is not None:
            await self._writer
        self._thread.shutdown()

    def _hand_over(self, events: Sequence[Event]) -> asyncio.Future[Offsets]:
        records = [(partition_key(event), encode(event)) for event in events]
        size = _size(records)
        if self._bytes and self._bytes + size > self._most:
            problem = (
                f"{self._bytes} bytes of events already wait to be appended; send more slowly, or give the log a faster disk"
            )
            raise LogBusy(errno.EAGAIN, problem)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(records, loop.create_future())
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
            except LogFull:
                # A large request that does not fit must not take small ones with it.
                for one in group:
                    try:
                        await self._append([one])
                    except Exception as error:
                        _refuse([one], error)
            except Exception as error:
                _refuse(group, error)
            self._bytes -= sum(_size(one.records) for one in group)
        self._writer = None

    async def _append(self, group: list[_Waiting]) -> None:
        records = [record for one in group for record in one.records]
        end = await asyncio.get_running_loop().run_in_executor(self._thread, self._log.append, records)
        for one in group:
            if not one.done.done():
                one.done.set_result(end)
        self._wake()


def _refuse(group: list[_Waiting], error: Exception) -> None:
    for one in group:
        if not one.done.done():
            one.done.set_exception(error)


def _size(records: list[tuple[bytes, bytes]]) -> int:
    return sum(len(key) + len(value) for key, value in records)
