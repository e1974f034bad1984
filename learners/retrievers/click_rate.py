"""Items by how often they are clicked when they are shown, at several speeds.

References
----------
D. Agarwal, B.-C. Chen, P. Elango, "Spatio-Temporal Models for Estimating Click-through Rate", WWW 2009: click rates that are
tracked over time and shrunk to the average where an item was shown little.
G. Cormode, V. Shkapenyuk, D. Srivastava, B. Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from learners.base import Candidates, Exclusion, Retriever
from learners.bounds import bounded
from learners.kernels.leaders import Leaders
from learners.registry import register
from learners.schema import EvidenceColumn
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from memory.jit import njit
from memory.keyed.table import Column, Table
from streams.batch import Batch, Feedback, Floats, Ids, Requests

__all__ = ["ClickRate"]

_Values = npt.NDArray[np.float64]

_SHOWS, _CLICKS = 0, 1  # rows of the clock: decayed totals of all items; the number of shows so far is beside them


class _State(NamedTuple):
    """The live arrays, as the compiled functions take them."""

    shows: _Values  # (items, speeds): decayed as of `at`
    clicks: _Values  # (items, speeds): decayed as of `at`
    at: _Values  # (items,): shows of any item so far when the item's counts were brought up to date
    lift: Floats  # (items,): as of `at`; 0 in free slots
    totals: _Values  # (2, speeds): decayed shows and clicks of all items, as of now
    now: _Values  # (1,): shows of any item so far
    half_life: _Values  # (speeds,)


@register("click_rate")
class ClickRate(Retriever):
    """Orders items by their click rate relative to the average one.

    A show is an item in an impression, and a click is a positive reward for an item that an impression showed; other
    interactions are not counted. The lift of an item at one speed is ``(clicks + prior) / (shows * rate + prior)``, where
    ``rate`` is the share of all shows that were clicked, and all counts are halved by each half-life. So it is 1 for an item
    that was never shown, and goes back to 1 while an item is not shown: what is not known is taken for average, and gets its
    chance before what is known to be worse. Where there are no impressions, all items have lift 1.

    The score is the geometric mean of the lifts at all speeds, as of the item's last show or click. Results do not depend on
    the micro-batch size.

    Parameters
    ----------
    capacity : int
        Maximum number of items. The one longest not shown is evicted. Memory is 8 bytes * capacity * (2 + 2 * speeds).
    half_lives : tuple of float
        Shows of any items after which a show or a click counts half, all different; inf: no decay.
    prior : float
        Strength of the average, in expected clicks.

    Raises
    ------
    ValueError
        When a half-life is given twice, or none is given.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {"capacity": 24}
    tunable: ClassVar[Tunable] = {
        "prior": Scale(0.1, 100.0, log=True),
        "half_lives": Scale(0.1, 10.0, log=True, times=True),
    }

    def __init__(
        self,
        capacity: Annotated[int, Field(gt=0, le=2**24)] = 20_000,
        half_lives: tuple[Annotated[float, Field(gt=0)], ...] = (1_000.0, 10_000.0, 100_000.0, np.inf),
        prior: Annotated[float, Field(gt=0, le=1e6)] = 1.0,
    ) -> None:
        if not half_lives or len(set(half_lives)) < len(half_lives):
            raise ValueError(f"half_lives: {half_lives} has one twice or none at all; give each of them once")
        self.half_lives, self._prior = half_lives, prior
        speeds = len(half_lives)
        self.items = Table(
            capacity,
            shows=Column(speeds, np.float64),
            clicks=Column(speeds, np.float64),
            at=Column(None, np.float64),
            lift=Column(None, np.float32),
        )
        self.clock = Arrays(totals=np.zeros((1, 2, speeds)), now=np.zeros((1, 1)))
        self._leaders = Leaders(self.items["lift"])
        self._state = _State(
            shows=self.items["shows"],
            clicks=self.items["clicks"],
            at=self.items["at"],
            lift=self.items["lift"],
            totals=self.clock["totals"][0],
            now=self.clock["now"][0],
            half_life=np.array(half_lives, np.float64),
        )

    def observe(self, batch: Batch) -> None:
        """Count each row as a show."""
        self._count(batch.item, np.ones(batch.rows), show=True)

    def learn(self, feedback: Feedback) -> None:
        """Count the rows of impressions with a positive reward as clicks, with their weights."""
        rows = np.flatnonzero((feedback.reward > 0) & (feedback.weight > 0) & (feedback.position >= 0))
        self._count(feedback.item[rows], bounded(feedback.weight[rows]).astype(np.float64), show=False)

    def _count(self, item: Ids, weight: _Values, show: bool) -> None:
        for start in range(0, item.size, self.items.capacity):
            part = slice(start, start + self.items.capacity)
            slots = self.items.insert(item[part])
            _count(slots, weight[part], show, self._prior, self._state)
            self._leaders.changed(slots)
        if item.size:
            self.clock.mark()

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """Return at most `k` items per request, by lift, from those that were shown. Ties are ordered by slot."""
        slot, request = self._leaders.without(self.items.find(exclude.item), exclude.start, k)
        return Candidates(self.items.keys[slot], request, self._state.lift[slot])

    def score(self, batch: Batch) -> Floats:
        """Return the lift as of each item's last show or click, (N,) float32; 1 for unknown items."""
        slots = self.items.find(batch.item)
        return np.where(slots >= 0, self._state.lift[slots], np.float32(1.0))

    @property
    def evidence_columns(self) -> tuple[EvidenceColumn, ...]:
        """The logarithm of the lift at each speed."""
        return tuple(EvidenceColumn(f"log_lift_{h:.10g}") for h in self.half_lives)

    def evidence(self, batch: Batch) -> Floats:
        """Return the logarithms of the lifts as of now, (N, speeds) float32; 0 for unknown items."""
        evidence = np.zeros((batch.rows, len(self.half_lives)), np.float32)
        _evidence(self.items.find(batch.item), self._prior, self._state, evidence)
        return evidence

    def remove(self, items: Ids) -> None:
        """Delete the counts of these items."""
        self.items.delete(items)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace all counts by those of `state`."""
        super().load_state_dict(state)
        self._leaders.reset()

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Apply changes that another copy returned from `take_changes`."""
        super().apply_changes(changes)
        if "items.rows.rows" in changes:
            self._leaders.changed(changes["items.rows.rows"].astype(np.int64))


@njit(cache=True, nogil=True)
def _log_lift(slot: int, speed: int, prior: float, state: _State) -> float:
    decay = np.exp2((state.at[slot] - state.now[0]) / state.half_life[speed])
    all_shows, all_clicks = state.totals[_SHOWS, speed], state.totals[_CLICKS, speed]
    expected = decay * state.shows[slot, speed] * all_clicks / all_shows if all_shows > 0 else 0.0
    return float(np.log((decay * state.clicks[slot, speed] + prior) / (expected + prior)))


@njit(cache=True, nogil=True)
def _count(slots: Ids, weight: _Values, show: bool, prior: float, state: _State) -> None:
    for n in range(slots.size):
        if slots[n] < 0:
            continue
        slot = slots[n]
        if show:
            state.now[0] += weight[n]
        counts, row, total = state.shows if show else state.clicks, _SHOWS if show else _CLICKS, 0.0
        for speed in range(state.half_life.size):
            if show:
                step = np.exp2(-weight[n] / state.half_life[speed])
                state.totals[_SHOWS, speed] *= step
                state.totals[_CLICKS, speed] *= step
            state.totals[row, speed] += weight[n]
            decay = np.exp2((state.at[slot] - state.now[0]) / state.half_life[speed])
            state.shows[slot, speed] *= decay
            state.clicks[slot, speed] *= decay
            counts[slot, speed] += weight[n]
        state.at[slot] = state.now[0]
        for speed in range(state.half_life.size):
            total += _log_lift(slot, speed, prior, state)
        state.lift[slot] = np.exp(total / state.half_life.size)


@njit(cache=True, nogil=True)
def _evidence(items: Ids, prior: float, state: _State, evidence: Floats) -> None:
    for n in range(items.size):
        if items[n] >= 0:
            for speed in range(state.half_life.size):
                evidence[n, speed] = _log_lift(items[n], speed, prior, state)
