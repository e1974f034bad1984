"""When the passing of time has to be written into the log, and how it gets there (decision 0003)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from service.learning.event_reader import EventReader
from streams.codec import encode
from streams.events import Tick
from streams.log import Log, key_to

__all__ = ["TickWriter"]


class TickWriter:
    """Appends a `Tick` to each partition in which rows have waited long enough, or a window has ended.

    Parameters
    ----------
    log : Log
    reader : EventReader
        Whose joiners wait.
    failed : callable
        Told when a tick cannot be appended. That costs freshness, not the service: it is tried again.
    remote : bool
        The log is elsewhere: it may hang, and must not hold up the caller, so ticks are appended on a thread of their own.
    """

    def __init__(self, log: Log, reader: EventReader, failed: Callable[[str, OSError], None], *, remote: bool = False) -> None:
        self._log, self._reader, self._failed = log, reader, failed
        self._since: dict[int, float] = {}
        self._thread = ThreadPoolExecutor(1, "tick") if remote else None
        self._appending: Future[None] | None = None

    def due(self, now: float, flush: float) -> list[int]:
        """Partitions that need a tick: their open batch has waited `flush` seconds, or a window has ended.

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
                self._since.pop(partition, None)
            waited = joiner.pending and now - self._since.setdefault(partition, now) >= flush
            if waited or (joiner.deadline is not None and joiner.deadline <= now):
                due.append(partition)
        return due

    def tick(self, partitions: Sequence[int], now: float) -> None:
        """Append a tick to these partitions; it closes their open batch when it is read."""
        for partition in partitions:
            self._since.pop(partition, None)
        if self._thread is None:
            self._append(partitions, now)
        else:
            self._appending = self._thread.submit(self._append, partitions, now)

    def close(self) -> None:
        """Wait for a tick that is being appended."""
        if self._thread is not None:
            self._thread.shutdown()

    def _append(self, partitions: Sequence[int], now: float) -> None:
        tick = encode(Tick(timestamp=now))
        count = len(self._log.end())
        try:
            self._log.append([(key_to(partition, count), tick) for partition in partitions])
        except OSError as error:
            self._failed("tick", error)
