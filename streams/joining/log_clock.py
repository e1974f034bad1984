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

    A record moves the clock forward by at most `limit` seconds; one that is further ahead does not move it. A tick, whose writer
    is the trainer, sets it: forward to any time, and back if the clock is ahead by more than `limit`. Elapsed time never goes
    back, and one step adds at most `limit` seconds to it. Everything follows from the records.

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
    """

    def __init__(self, window: float) -> None:
        self.limit = max(window / 10, min(window / 2, MIN_LIMIT))
        self.time, self.shift = ClockState()

    def record(self, appended: float) -> None:
        """Follow the append time of a record. 0: it has none."""
        if self.time < appended <= self.time + self.limit or not self.time:
            self.time = appended

    def tick(self, appended: float) -> float:
        """Follow the append time of a tick. Return the seconds by which the clock was set back; 0 if it was not."""
        step = appended - self.time
        if not self.time or not appended:
            self.record(appended)
        elif step >= 0 or step < -self.limit:
            self.shift += step if step < 0 else max(step - self.limit, 0.0)
            self.time = appended
            return max(-step, 0.0)
        return 0.0

    def watermark(self, timestamp: float) -> float:
        """Return the elapsed time of an event: that of its timestamp, or the clock's if the timestamp is ahead of the clock."""
        return min(timestamp, self.time) - self.shift if self.time else timestamp

    @property
    def elapsed(self) -> float:
        """Elapsed time, comparable with `watermark`."""
        return self.time - self.shift


MIN_LIMIT = 0.25
"""Smallest limit of a window that is longer than twice this, seconds. Ticks must come more often."""
