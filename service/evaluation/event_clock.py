"""When the rows of a replay happened."""

from __future__ import annotations

import numpy as np

from streams.batch import Times

__all__ = ["EventClock"]

_POINTS = 4096


class EventClock:
    """Event times by number of rows, kept at a few thousand points at most.

    Examples
    --------
    >>> clock = EventClock()
    >>> clock.add(10, 1000.0)
    >>> clock.add(20, 2000.0)
    >>> clock.at([15, 20]).tolist()
    [1500.0, 2000.0]
    """

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._times: list[float] = []
        self._spacing = 1

    def add(self, rows: int, time: float) -> None:
        """Add that `rows` rows had happened at `time`, Unix seconds. Both grow."""
        if self._rows and rows - self._rows[-1] < self._spacing:
            return
        self._rows.append(rows)
        self._times.append(max(time, self._times[-1]) if self._times else time)
        if len(self._rows) > _POINTS:
            del self._rows[1::2], self._times[1::2]
            self._spacing = 2 * (self._rows[-1] - self._rows[0]) // _POINTS + 1

    def at(self, rows: list[int]) -> Times:
        """Return the times after these numbers of rows, (n,); NaN where nothing was added."""
        if not self._rows:
            return np.full(len(rows), np.nan)
        return np.interp(rows, self._rows, self._times)
