"""Decayed numbers of shows and clicks of each key, at several speeds: the record of an item, or of a user.

References
----------
D. Agarwal, B.-C. Chen, P. Elango, "Spatio-Temporal Models for Estimating Click-through Rate", WWW 2009: discounted counts of
clicks and shows, shrunk to a prior.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Bools, Floats, Ids
from memory.jit import njit
from memory.keyed.table import Column, Table
from memory.stateful import Stateful

__all__ = ["ClickStatistics"]

PRIOR_SHOWS = 10.0
"""Shows at the average click rate that every key is given beforehand, so that one click in one show is no rate of 1."""

LEAST = 0.1
"""Added to numbers of clicks before their logarithm is taken."""

_Values = npt.NDArray[np.float64]
_State = tuple[_Values, _Values, _Values]  # shows (n, S), clicks (n, S), times of the first and the last row (n, 2)


class ClickStatistics(Stateful):
    """Shows and clicks of each of the last `capacity` keys, halved by each half-life, beside those of all keys together.

    A show is a row that was learned, a click one with a positive reward. Memory is 16 bytes * (1 + number of half-lives) a key,
    and the index.

    Parameters
    ----------
    capacity : int
        Keys; the one longest without a row gives way.
    half_lives : sequence of float
        Seconds, at least one.

    Raises
    ------
    ValueError
        When a half-life is missing, not positive or given twice.

    Examples
    --------
    >>> items = ClickStatistics(100, [3600.0])
    >>> items.add(np.array([7, 7, 9]), np.zeros(3), np.array([True, False, False]), np.ones(3, np.bool_))
    >>> items.describe(np.array([7]), np.array([3600.0])).astype(float).round(2).tolist()
    [[0.05, -0.51, 4.11]]
    """

    def __init__(self, capacity: int, half_lives: Sequence[float]) -> None:
        if not half_lives or min(half_lives) <= 0 or len(set(half_lives)) < len(half_lives):
            raise ValueError(f"half_lives: {list(half_lives)}; give different positive numbers of seconds")
        self._half_life: _Values = np.array(half_lives, np.float64)
        speeds, f64 = len(half_lives), np.float64
        self.counts = Table(capacity, shows=Column(speeds, f64), clicks=Column(speeds, f64), times=Column(2, f64, fill=-np.inf))
        self.totals = Arrays(shows=np.zeros((1, speeds)), clicks=np.zeros((1, speeds)), times=np.full((1, 2), -np.inf))
        self._rows: _State = self.counts["shows"], self.counts["clicks"], self.counts["times"]
        self._total: _State = self.totals["shows"], self.totals["clicks"], self.totals["times"]

    @staticmethod
    def names(half_lives: Sequence[float]) -> tuple[str, ...]:
        """Names of the columns of `describe`: the rates, the clicks, then the age."""
        return (*(f"click_rate_{h:.10g}" for h in half_lives), *(f"clicks_{h:.10g}" for h in half_lives), "age")

    def __len__(self) -> int:
        return len(self.counts)

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    @property
    def evictions(self) -> int:
        """Keys that had to give way since construction; not part of the state."""
        return self.counts.evictions

    def add(self, key: Ids, timestamp: _Values, clicked: Bools, shown: Bools) -> None:
        """Count rows, in order. Rows with key 0 are left out.

        Parameters
        ----------
        key : (N,) int64
        timestamp : (N,) float64
            Unix seconds. A row from before the last one of its key counts as of that.
        clicked, shown : (N,) bool
            Whether the row is a click, and whether it is a show: a click that comes late was shown before.
        """
        if key.size:
            _add(self.counts.insert(key), timestamp, clicked, shown, self._half_life, self._rows, self._total)
            self.totals.mark()

    def describe(self, key: Ids, timestamp: _Values) -> Floats:
        """What is known of keys (N,) at Unix seconds (N,), as (N, 2 S + 1) float32 for S half-lives.

        The columns are, for each half-life, how the click rate differs from the rate r of all keys in log odds,
        ``logit((c + 10 r) / (s + 10)) - logit(r)`` with c clicks in s shows; for each half-life log(c + 0.1); and log(1 + age),
        in minutes since the first row. A key that is not known has c = s = age = 0.
        """
        described = np.empty((key.size, 2 * self._half_life.size + 1), np.float32)
        _describe(self.counts.find(key), timestamp, self._half_life, self._rows, self._total, described)
        return described

    def describe_in_order(self, key: Ids, timestamp: _Values, clicked: Bools) -> Floats:
        """`describe` rows that will be added as shows: each as if those before it had been added, and not itself."""
        described = np.empty((key.size, 2 * self._half_life.size + 1), np.float32)
        if key.size:
            slots, rows = self.counts.find(key), self._rows
            if ((slots < 0) & (key != 0)).any():
                slots, rows = self._with_unknown(key)
            _describe_in_order(slots, timestamp, clicked, self._half_life, rows, self._total, described)
        return described

    def _with_unknown(self, key: Ids) -> tuple[Ids, _State]:
        """Slots of keys (N,) in rows of their own, where unknown keys have one, too. Describing must not add them."""
        keys, slots = np.unique(key, return_inverse=True)
        known = self.counts.find(keys)
        shows, clicks, times = (array[known] for array in self._rows)
        shows[known < 0] = clicks[known < 0] = 0.0
        times[known < 0] = -np.inf
        return np.where(key == 0, -1, slots), (shows, clicks, times)

    def forget(self, keys: Ids) -> None:
        """Erase what is known of `keys` (N,). The totals stay: they are nobody's in particular."""
        self.counts.delete(keys)


@njit(cache=True, nogil=True)
def _count(slot: int, time: float, clicked: bool, shown: bool, half_life: _Values, rows: _State) -> None:
    shows, clicks, times = rows
    if times[slot, 0] == -np.inf:
        times[slot, 0] = times[slot, 1] = time
    passed = max(time - times[slot, 1], 0.0)
    for s in range(half_life.size):
        left = np.exp2(-passed / half_life[s])
        shows[slot, s] = shows[slot, s] * left + shown
        clicks[slot, s] = clicks[slot, s] * left + clicked
    times[slot, 1] += passed


@njit(cache=True, nogil=True)
def _add(slots: Ids, timestamp: _Values, clicked: Bools, shown: Bools, half_life: _Values, rows: _State, total: _State) -> None:
    for n in range(slots.size):
        if slots[n] >= 0:
            _count(slots[n], timestamp[n], clicked[n], shown[n], half_life, rows)
            _count(0, timestamp[n], clicked[n], shown[n], half_life, total)


@njit(cache=True, nogil=True)
def _describe_row(slot: int, time: float, half_life: _Values, rows: _State, total: _State, described: Floats) -> None:
    shows, clicks, times = rows
    speeds = half_life.size
    known = slot >= 0 and times[slot, 0] > -np.inf
    for s in range(speeds):
        c = d = 0.0
        if known:
            left = np.exp2(-max(time - times[slot, 1], 0.0) / half_life[s])
            c, d = clicks[slot, s] * left, shows[slot, s] * left
        # Half a click and a whole show more, so that there are odds from the beginning.
        rate = (total[1][0, s] + 0.5) / (total[0][0, s] + 1.0)
        # More clicks than shows are clicks that came late, whose shows were of before the key was forgotten.
        mine = (min(c, d) + PRIOR_SHOWS * rate) / (d + PRIOR_SHOWS)
        described[s] = np.log(mine / (1.0 - mine)) - np.log(rate / (1.0 - rate))
        described[speeds + s] = np.log(c + LEAST)
    described[2 * speeds] = np.log1p(max(time - times[slot, 0], 0.0) / 60.0) if known else 0.0


@njit(cache=True, nogil=True)
def _describe(slots: Ids, timestamp: _Values, half_life: _Values, rows: _State, total: _State, described: Floats) -> None:
    for n in range(slots.size):
        _describe_row(slots[n], timestamp[n], half_life, rows, total, described[n])


@njit(cache=True, nogil=True)
def _describe_in_order(
    slots: Ids, timestamp: _Values, clicked: Bools, half_life: _Values, rows: _State, total: _State, described: Floats
) -> None:
    """Describe and count row by row; then undo the counting, latest row first."""
    before = np.empty((slots.size, 2 * half_life.size + 2))
    total_before = total[0].copy(), total[1].copy(), total[2].copy()
    for n in range(slots.size):
        _describe_row(slots[n], timestamp[n], half_life, rows, total, described[n])
        if slots[n] >= 0:
            _copy(slots[n], half_life.size, rows, before[n], True)
            _count(slots[n], timestamp[n], clicked[n], True, half_life, rows)
            _count(0, timestamp[n], clicked[n], True, half_life, total)
    for n in range(slots.size - 1, -1, -1):
        if slots[n] >= 0:
            _copy(slots[n], half_life.size, rows, before[n], False)
    for field in range(3):
        total[field][:] = total_before[field]


@njit(cache=True, nogil=True)
def _copy(slot: int, speeds: int, rows: _State, kept: _Values, keep: bool) -> None:
    """Copy a row to `kept`, or back."""
    shows, clicks, times = rows
    for s in range(speeds):
        if keep:
            kept[s], kept[speeds + s] = shows[slot, s], clicks[slot, s]
        else:
            shows[slot, s], clicks[slot, s] = kept[s], kept[speeds + s]
    for t in range(2):
        if keep:
            kept[2 * speeds + t] = times[slot, t]
        else:
            times[slot, t] = kept[2 * speeds + t]
