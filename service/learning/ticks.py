"""Writes the passing of time into the log, so that open batches and windows close (decisions 0003 and 0042)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from service.learning.event_reader import EventReader
from streams.codec import encode
from streams.events import Tick
from streams.join import Joiner
from streams.lmdb_log import LmdbLog
from streams.log import Log, key_for_partition

__all__ = ["RETRY", "TickWriter"]

IDLE = 0.05
"""Seconds between reads of a log that has nothing new."""


class TickWriter:
    """Appends a `Tick` to each partition that needs one; see `due`.

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
        self._clocks: dict[int, _Clock] = {}
        self._looked_at = 0.0
        self._thread = ThreadPoolExecutor(1, "tick") if remote else None
        self._appending: Future[None] | None = None

    def due(self, now: float, flush: float) -> list[int]:
        """Return the partitions that need a tick.

        Their open batch has waited `flush` seconds, or an impression has to close, or the next record waits to be judged, or
        the partition's clock has stood still although impressions are open.

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
            if joiner.pending:
                # The clock of this machine may have been set back.
                self._waiting_since[partition] = min(self._waiting_since.get(partition, now), now)
            else:
                self._waiting_since.pop(partition, None)
            waited = joiner.pending and now - self._waiting_since[partition] >= flush
            if waited or partition == self._reader.held or self._clock(partition).needs_tick(joiner, now):
                due.append(partition)
        return due

    def rest(self, flush: float, *, hurry: bool) -> float:
        """Append the ticks that are due while there is nothing to learn. Return the seconds to sleep.

        Parameters
        ----------
        flush : float
            As for `due`.
        hurry : bool
            Whether an open batch is due at once.
        """
        now = time.time()
        due = self.due(now, 0.0 if hurry else flush)
        if due:
            self.tick(due, now)
            return 0.0
        return flush / 2 if self._reader.pending else IDLE

    def keep_time(self, now: float) -> list[str]:
        """Append the ticks that cannot wait until there is nothing to learn. Return what is wrong with clocks, if anything.

        Call it often: it looks at the clocks every `LOOK` seconds.
        """
        if time.monotonic() - self._looked_at < LOOK:
            return []
        self._looked_at = time.monotonic()
        joiners = self._reader.joiners.items()
        late = [partition for partition, joiner in joiners if self._clock(partition).stands(joiner)]
        if late and (self._appending is None or self._appending.done()):
            self.tick(late, now)
        return [f"partition {p}: {problem}" for p, joiner in joiners for problem in self._clock(p).watch(joiner, now)]

    def gauges(self, now: float) -> dict[str, float]:
        """Return for how long a clock has stood still although impressions are open, and how far one is ahead, in seconds."""
        joiners = list(self._reader.joiners.items())
        return {
            "clock_stuck_seconds": max((self._clock(p).stuck(joiner) for p, joiner in joiners), default=0.0),
            "clock_lead_seconds": max(
                (joiner.clock.time - now for _, joiner in joiners if joiner.clock.time > now), default=0.0
            ),
        }

    def tick(self, partitions: Sequence[int], now: float) -> None:
        """Append a tick to these partitions. Reading it closes their open batch."""
        for partition in partitions:
            self._waiting_since.pop(partition, None)
            self._clock(partition).ticked(self._reader.joiners[partition], now)
        if self._thread is None:
            self._append(partitions, now)
        else:
            self._appending = self._thread.submit(self._append, partitions, now)

    def close(self) -> None:
        """Wait until pending ticks are appended."""
        if self._thread is not None:
            self._thread.shutdown()

    def _clock(self, partition: int) -> _Clock:
        return self._clocks.setdefault(partition, _Clock())

    def _append(self, partitions: Sequence[int], now: float) -> None:
        tick = encode(Tick(timestamp=now))
        count = len(self._log.end())
        try:
            ticks = [(key_for_partition(partition, count), tick) for partition in partitions]
            # A full log is trimmed once its windows have ended, and they end with ticks.
            self._log.append_to_full(ticks) if isinstance(self._log, LmdbLog) else self._log.append(ticks)
        except OSError as error:
            self._failed("tick", error)


class _Clock:
    """What was seen of the clock of a partition, by this machine's monotonic clock, which nobody can set."""

    def __init__(self) -> None:
        self._time, self._since = 0.0, 0.0
        self._deadline: float | None = None
        self._ticked_at = 0.0
        self._moved: tuple[float, float] | None = None
        self._corrections = 0
        self._told: set[str] = set()

    def needs_tick(self, joiner: Joiner, now: float) -> bool:
        """Whether an impression has to close by `now`, or the clock stands although one is open."""
        deadline = joiner.deadline
        if deadline is None or deadline > now:
            return self.stands(joiner)
        # The log's clock may be behind: then a tick does not close it, and more of them would not help.
        return deadline != self._deadline or time.monotonic() - self._ticked_at >= RETRY

    def stands(self, joiner: Joiner) -> bool:
        """Whether the clock has stood still for half its limit although an impression is open."""
        now = time.monotonic()
        if joiner.clock.time != self._time or not joiner.open_impressions:
            self._time, self._since = joiner.clock.time, now
        return now - self._since >= joiner.clock.limit / 2

    def stuck(self, joiner: Joiner) -> float:
        """Seconds for which the clock has not advanced although an impression is open."""
        now = time.monotonic()
        if self._moved is None or joiner.clock.time != self._moved[0] or not joiner.open_impressions:
            self._moved = joiner.clock.time, now
        return now - self._moved[1]

    def watch(self, joiner: Joiner, now: float) -> Iterator[str]:
        """Yield each problem once, when it begins."""
        clock = joiner.clock
        if clock.corrections > self._corrections:
            yield (
                f"the clock of the log was {clock.corrected:.0f} s ahead and was set back; windows go on from there. "
                "Check the clock that dates its records"
            )
        self._corrections = clock.corrections
        stuck, lead = self.stuck(joiner), clock.time - now
        problems = {}
        if stuck > max(STUCK, clock.limit):
            problems["stuck"] = f"its clock has stood still for {stuck:.0f} s: no window ends. Check that ticks can be appended"
        if lead > max(STUCK, clock.limit):
            problems["lead"] = f"the times of its records are {lead:.0f} s ahead of this machine's clock: check both"
        yield from (text for name, text in problems.items() if name not in self._told)
        self._told = set(problems)

    def ticked(self, joiner: Joiner, now: float) -> None:
        """Note that a tick is appended."""
        self._since = self._ticked_at = time.monotonic()
        if joiner.deadline is not None and joiner.deadline <= now:
            self._deadline = joiner.deadline


STUCK = 60.0
"""Seconds from which a clock that stands still, or is ahead, is reported."""

LOOK = 0.05
"""Seconds between two looks at the clocks while there is something to learn."""

RETRY = 1.0
"""Seconds until a second tick is appended for an impression that the first one did not close."""
