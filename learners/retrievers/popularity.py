"""Popularity retriever: a decayed count of positive rewards for each item.

References
----------
G. Cormode, V. Shkapenyuk, D. Srivastava, B. Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009:
events get growing weights, instead of counts that shrink as time passes (section III).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from learners.base import Candidates, Exclusion, Retriever
from learners.kernels.leaders import Leaders
from learners.registry import register
from learners.schema import EvidenceColumn
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from memory.jit import njit
from memory.keyed.table import Column, Table
from streams.batch import Batch, Feedback, Floats, Ids, Requests, Times

__all__ = ["Popularity"]

_Values = npt.NDArray[np.float64]

_MAX_HALF_LIVES = 512.0  # after the reference time; then counts are rescaled, because float64 overflows at 1024
_OUTLIERS_TO_FOLLOW = 20  # successive rows more than _MAX_HALF_LIVES from the latest time until the clock follows them
_REFERENCE, _LATEST, _OUTLIERS = 0, 1, 2
_COUNT_OFFSET = 0.02  # added to counts before their logarithm is taken


@register("popularity")
class Popularity(Retriever):
    """Orders items by their number of positive rewards, with exponential decay.

    The score is x / (1 + x), where x is the decayed count at the time of the latest event: 0 for an item without positive
    rewards, and 0.5 for one with a single reward just now. Results do not depend on the micro-batch size. A timestamp more than
    512 half-lives from the latest one is treated as an error. If it is in the future, the latest time replaces it. The clock
    follows such timestamps after 20 of them in succession.

    Parameters
    ----------
    capacity : int
        Maximum number of items. The one with the oldest last positive reward is evicted.
    half_life : float
        Seconds of event time after which a reward counts half (a week by default). 0 or inf: no decay.

    References
    ----------
    See the module.
    """

    tunable: ClassVar[Tunable] = {
        "half_life": Scale(600.0, 1e8, log=True),
    }

    def __init__(
        self, capacity: Annotated[int, Field(gt=0)] = 100_000, half_life: Annotated[float, Field(ge=0)] = 604_800.0
    ) -> None:
        self.half_life = half_life or np.inf
        # Each reward counts 2 ** ((its time - reference) / half_life).
        self.items = Table(capacity, count=Column(None, np.float64))
        self.clock = Arrays(time=np.array([[-np.inf, -np.inf, 0.0]]))
        self._leaders = Leaders(self.items["count"])

    def learn(self, feedback: Feedback) -> None:
        """Count the rows with a positive reward, with their weights."""
        rows = np.flatnonzero(feedback.reward > 0)
        for start in range(0, rows.size, self.items.capacity):
            part = rows[start : start + self.items.capacity]
            slots = self.items.insert(feedback.item[part])
            rescaled = _count(
                slots,
                feedback.timestamp[feedback.request[part]],
                feedback.weight[part],
                self.items["count"],
                self.clock["time"][0],
                self.half_life,
            )
            self.clock.mark()
            if rescaled:
                self.items.dirty[:] = True
                self._leaders.reset()
            self._leaders.changed(slots)

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """Return at most `k` items per request, by count. Ties are ordered by slot."""
        slot, request = self._leaders.without(self.items.find(exclude.item), exclude.start, k)
        score = np.empty(slot.size, np.float32)
        _score(self.items["count"], slot, request, self._decay(requests.timestamp), score)
        return Candidates(self.items.keys[slot], request, score)

    def score(self, batch: Batch) -> Floats:
        """Return x / (1 + x), (N,) float32; 0 for unknown items."""
        score = np.empty(batch.rows, np.float32)
        _score(self.items["count"], self.items.find(batch.item), batch.request, self._decay(batch.timestamp), score)
        return score

    @property
    def evidence_columns(self) -> tuple[EvidenceColumn, ...]:
        """The logarithm of the count: unlike the score, it still grows for large counts."""
        return (EvidenceColumn("log_count", 0.05),)

    def evidence(self, batch: Batch) -> Floats:
        """Return log(count + 0.02) of the decayed count, (N, 1) float32."""
        slots, decay = self.items.find(batch.item), self._decay(batch.timestamp)[batch.request]
        present = np.where(slots >= 0, self.items["count"][slots] * decay, 0.0)
        return np.log(present + _COUNT_OFFSET).astype(np.float32)[:, None]

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

    def _decay(self, timestamp: Times) -> _Values:
        """Return the factors, (B,), from scaled counts to counts at the latest event.

        Counts do not decay further for later requests, because they would underflow and lose their order.
        """
        reference, latest, _ = self.clock["time"][0]
        return np.full(timestamp.size, 1.0 if reference == -np.inf else np.exp2((reference - latest) / self.half_life))


@njit(cache=True, nogil=True)
def _count(slots: Ids, timestamp: Times, weight: Floats, count: _Values, clock: _Values, half_life: float) -> bool:
    """Count rows in order. Returns whether all counts were rescaled."""
    rescaled = False
    for n in range(slots.size):
        now = timestamp[n]
        if clock[_REFERENCE] == -np.inf:
            clock[_REFERENCE] = clock[_LATEST] = now
        jump = (now - clock[_LATEST]) / half_life
        clock[_OUTLIERS] = clock[_OUTLIERS] + 1.0 if abs(jump) > _MAX_HALF_LIVES else 0.0
        if clock[_OUTLIERS] >= _OUTLIERS_TO_FOLLOW:
            clock[_OUTLIERS] = 0.0
            if jump < 0.0:
                # The clock was ahead: treat all counts so far as counted just now.
                count *= 2.0 ** ((clock[_REFERENCE] - clock[_LATEST]) / half_life)
                clock[_REFERENCE] = clock[_LATEST] = now
                rescaled = True
        elif clock[_OUTLIERS] > 0.0 and jump > 0.0:
            now = clock[_LATEST]
        age = (now - clock[_REFERENCE]) / half_life
        if age > _MAX_HALF_LIVES:
            count *= 2.0**-age
            clock[_REFERENCE] = now
            age = 0.0
            rescaled = True
        clock[_LATEST] = max(clock[_LATEST], now)
        if slots[n] >= 0:
            count[slots[n]] += weight[n] * 2.0**age
    return rescaled


@njit(cache=True, nogil=True)
def _score(count: _Values, slots: Ids, request: Ids, decay: _Values, score: Floats) -> None:
    for n in range(slots.size):
        present = count[slots[n]] * decay[request[n]] if slots[n] >= 0 else 0.0
        score[n] = present / (1.0 + present)
