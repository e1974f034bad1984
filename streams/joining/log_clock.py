"""Elapsed time of a partition by its records' append times. One wrong clock neither jumps it nor stops it (decision 0042)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ClockState", "LogClock"]


class ClockState(NamedTuple):
    """State of a `LogClock`.

    Attributes
    ----------
    time : float
        The clock, Unix seconds: the append time that the log has reached. 0 before the first append time.
    shift : float
        Seconds by which `time` is ahead of elapsed time: the parts of jumps that were not counted.
    """

    time: float = 0.0
    shift: float = 0.0


class LogClock:
    """The clock of one partition, which bounds its watermark.

    A record moves the clock forward by at most `limit` seconds; one that is further ahead does not move it. A tick, whose
    writer is the trainer, sets it: forward to any time, and back if the clock is ahead by more than `limit`. Elapsed time never
    goes back, and one step adds at most `limit` seconds to it. Everything follows from the records.

    Parameters
    ----------
    window : float
        Seconds of the joiner's window, which `limit` follows: a tenth, but at least `MIN_LIMIT`, or half of a shorter window.

    Attributes
    ----------
    limit : float
        Seconds, less than the window.
    time, shift : float
        See `ClockState`.
    corrections : int
        How often a tick has set the clock back, in this process.
    corrected : float
        Seconds by which the last one did.
    """

    def __init__(self, window: float) -> None:
        self.limit = max(window / 10, min(window / 2, MIN_LIMIT))
        self.time, self.shift = ClockState()
        self.corrections, self.corrected = 0, 0.0

    def record(self, appended: float) -> None:
        """Follow the append time of a record. 0: it has none."""
        if self.time < appended <= self.time + self.limit or not self.time:
            self.time = appended

    def tick(self, appended: float) -> None:
        """Follow the append time of a tick."""
        step = appended - self.time
        if not self.time or not appended:
            self.record(appended)
        elif step >= 0:
            self.time = appended
            self.shift += max(step - self.limit, 0.0)
        elif step < -self.limit:
            self.time = appended
            self.shift += step
            self.corrections, self.corrected = self.corrections + 1, -step

    def watermark(self, timestamp: float) -> float:
        """Return the elapsed time of an event: that of its timestamp, or the clock's if the timestamp is ahead of the clock."""
        return min(timestamp, self.time) - self.shift if self.time else timestamp


MIN_LIMIT = 0.25
"""Smallest limit of a window that is longer than twice this, seconds. Ticks must come more often."""
