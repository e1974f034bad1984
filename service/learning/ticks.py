"""Writes the passing of time into the log, so that open batches and windows close (decision 0003)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from service.learning.event_reader import EventReader
from streams.codec import encode
from streams.events import Tick
from streams.lmdb_log import LmdbLog
from streams.log import Log, key_for_partition

__all__ = ["TickWriter"]


class TickWriter:
    """Appends a `Tick` to each partition whose open batch has waited long enough, or in which an impression has to close.

    Parameters
    ----------
    log : Log
    reader : EventReader
        Has the joiners.
    failed : callable
        Called when a tick cannot be appended. The tick is tried again; until then, only freshness suffers.
    remote : bool
        True: the log may hang, so ticks are appended on another thread and do not block the caller.
    """

    def __init__(self, log: Log, reader: EventReader, failed: Callable[[str, OSError], None], *, remote: bool = False) -> None:
        self._log, self._reader, self._failed = log, reader, failed
        self._waiting_since: dict[int, float] = {}
        self._thread = ThreadPoolExecutor(1, "tick") if remote else None
        self._appending: Future[None] | None = None

    def due(self, now: float, flush: float) -> list[int]:
        """Return the partitions that need a tick: their open batch has waited `flush` seconds, or an impression has to close.

        Parameters
        ----------
        now : float
            Unix seconds.
        flush : float
            Seconds that an open batch may wait.
        """
        if self._appending is not None and not self._appending.done():
            return []
        due = []
        for partition, joiner in self._reader.joiners.items():
            if not joiner.pending:
                self._waiting_since.pop(partition, None)
            waited = joiner.pending and now - self._waiting_since.setdefault(partition, now) >= flush
            if waited or (joiner.deadline is not None and joiner.deadline <= now):
                due.append(partition)
        return due

    def tick(self, partitions: Sequence[int], now: float) -> None:
        """Append a tick to these partitions. Reading it closes their open batch."""
        for partition in partitions:
            self._waiting_since.pop(partition, None)
        if self._thread is None:
            self._append(partitions, now)
        else:
            self._appending = self._thread.submit(self._append, partitions, now)

    def close(self) -> None:
        """Wait until pending ticks are appended."""
        if self._thread is not None:
            self._thread.shutdown()

    def _append(self, partitions: Sequence[int], now: float) -> None:
        tick = encode(Tick(timestamp=now))
        count = len(self._log.end())
        try:
            ticks = [(key_for_partition(partition, count), tick) for partition in partitions]
            # A full log is trimmed once its windows have ended, and they end with ticks.
            self._log.append_to_full(ticks) if isinstance(self._log, LmdbLog) else self._log.append(ticks)
        except OSError as error:
            self._failed("tick", error)
