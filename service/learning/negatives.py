"""Draws items that a user did not choose, for interactions that no impression explains.

References
----------
X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019: sampled negatives are
corrected by the probability with which they were drawn (logQ).
G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014: SplitMix64.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays
from memory.jit import njit
from memory.stateful import Stateful
from service.ranking.pipeline import Pipeline
from service.sections import Negatives
from streams.batch import Batch, Feedback, Floats, Ids, Requests

__all__ = ["NegativeSampler", "RecentLikes"]

RECENT = 4096
"""Likes of which popular negatives are drawn: the latest ones."""

LARGEST_WEIGHT = 10.0
"""Of a popular negative that is rare: drawn seldom, it would otherwise have a great weight."""

_Numbers = npt.NDArray[np.uint64]


class RecentLikes(Stateful):
    """The latest likes of all users: to draw one of them is to draw an item in proportion to its recent popularity.

    Parameters
    ----------
    capacity : int
        Likes at most.
    """

    def __init__(self, capacity: int = RECENT) -> None:
        self.likes = Arrays(item=np.zeros(capacity, np.int64), private=["item"])
        self.clock = Arrays(count=np.zeros(1, np.int64), private=["count"])

    @property
    def items(self) -> Ids:
        """Items of the likes, (n,) int64, in no particular order."""
        return self.likes["item"][: int(self.clock["count"][0])]

    def add(self, item: Ids) -> None:
        """Remember likes of items (N,), in order. The oldest leave."""
        capacity, count = len(self.likes), int(self.clock["count"][0])
        last = item[-capacity:]
        at = (count + item.size - last.size + np.arange(last.size)) % capacity
        self.likes["item"][at] = last
        self.clock["count"][0] += item.size
        self.likes.mark(at)
        self.clock.mark()


class NegativeSampler(Stateful):
    """Adds negatives to the rows that the ranker and what corrects it learn from.

    For each row with a positive reward and without an impression, `n` items are drawn for the same request, as rows without an
    interaction. Items that the user has touched, deleted items and repetitions are left out. So a score is the probability that
    the item is the chosen one among itself and n others, which are drawn uniformly from the catalogue (``uniform`` and
    ``popular``), or from what the retrievers have for the user (``candidates``).

    Popular items are harder negatives. They are drawn in proportion to their share q of the last 4,096 likes, and their rows
    weigh 1 / (M q) for M items in the catalogue, at most 10: so the score stays that of uniform negatives.

    The draw depends on the row alone (user, item and time) and on the state, so a replay draws the same.

    Parameters
    ----------
    pipeline : Pipeline
    config : Negatives
    """

    def __init__(self, pipeline: Pipeline, config: Negatives) -> None:
        self._pipeline, self._n, self._source = pipeline, config.n, config.source

    def extended(self, feedback: Feedback) -> Feedback:
        """The rows with negatives behind those of their request; `feedback` itself if there are none."""
        rows = np.flatnonzero((feedback.reward > 0) & (feedback.weight > 0) & (feedback.position < 0) & ~feedback.correction)
        if not self._n or not rows.size:
            return feedback
        request = np.repeat(feedback.request[rows], self._n)
        number = _numbers(feedback.user[feedback.request[rows]], feedback.item[rows], feedback.outcome_time[rows], self._n)
        item, weight = self._draw(feedback, rows, number)
        self._pipeline.likes.add(feedback.item[rows])
        kept = self._kept(feedback, rows, request, item)
        return _merged(feedback, self._rows(feedback, request[kept], item[kept]), weight[kept])

    def _draw(self, feedback: Feedback, rows: Ids, number: _Numbers) -> tuple[Ids, Floats]:
        """Item, 0 for none, and weight of each negative."""
        catalogue = self._pipeline.items.items()
        ones = np.ones(number.size, np.float32)
        if self._source == "popular":
            likes = self._pipeline.likes.items
            if not likes.size:
                return np.zeros(number.size, np.int64), ones
            item = likes[(number % np.uint64(likes.size)).astype(np.int64)]
            share = _shares(item, likes)
            return item, np.minimum(1.0 / (max(catalogue.size, 1) * share), LARGEST_WEIGHT).astype(np.float32)
        if self._source == "candidates":
            batch = self._pipeline.evidence.candidates(Requests(**feedback.columns(feedback.request[rows])))
            start = np.searchsorted(batch.request, np.arange(rows.size + 1))
            size = np.repeat(np.diff(start), self._n)
            at = np.repeat(start[:-1], self._n) + (number % np.maximum(size, 1).astype(np.uint64)).astype(np.int64)
            return np.where(size > 0, np.append(batch.item, 0)[np.minimum(at, batch.rows)], 0), ones
        if not catalogue.size:
            return np.zeros(number.size, np.int64), ones
        return catalogue[(number % np.uint64(catalogue.size)).astype(np.int64)], ones
