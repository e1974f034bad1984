"""Draws items that a user did not choose, for interactions that no impression explains.

References
----------
X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019: sampled negatives
are corrected by the probability with which they were drawn (logQ).
G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014: SplitMix64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.jit import njit
from service.ranking.pipeline import Pipeline
from service.tables.rows import Negatives
from streams.batch import Feedback, Floats, Ids, Requests

__all__ = ["NegativeSampler"]

LARGEST_WEIGHT = 10.0
"""Of a popular negative that is rare: drawn seldom, it would otherwise weigh much."""

_Numbers = npt.NDArray[np.uint64]


class NegativeSampler:
    """Adds negatives to the rows that the ranker, and what corrects it, learn from.

    For each row with a positive reward and without an impression, `n` items are drawn for the same request, as rows without an
    interaction. Items that the user has touched and deleted items are left out. A score is then the probability that the item
    is the chosen one among itself and n others, which are drawn uniformly from the catalogue (``uniform`` and ``popular``), or
    from what the retrievers have for the user (``candidates``).

    ``popular`` items are harder negatives. They are drawn by their share q of the latest likes, and their rows weigh 1 / (M q)
    for M items in the catalogue, at most 10: in expectation, the loss is that of uniform negatives.

    The draw depends on the row (user, item and time) and on the state alone, so a replay draws the same.

    Parameters
    ----------
    pipeline : Pipeline
        Its ``likes`` are the latest likes.
    config : Negatives
    """

    def __init__(self, pipeline: Pipeline, config: Negatives) -> None:
        self._pipeline, self._n, self._source = pipeline, config.n, config.source

    def extended(self, feedback: Feedback) -> Feedback:
        """Return the rows and their negatives, which follow the rows of their request; the same object if there are none."""
        if not self._n:
            return feedback
        rows = np.flatnonzero((feedback.reward > 0) & (feedback.weight > 0) & (feedback.position < 0) & ~feedback.correction)
        if not rows.size:
            return feedback
        request = np.repeat(feedback.request[rows], self._n)
        user = feedback.user[request]
        item, weight = self._draw(feedback, rows)
        usable = (item != 0) & (item != np.repeat(feedback.item[rows], self._n))
        usable &= self._pipeline.items.alive(item) & ~self._pipeline.seen.has(user, item)
        if not usable.any():
            return feedback
        time = np.repeat(feedback.outcome_time[rows], self._n)[usable]
        return self._merged(feedback, request[usable], item[usable], weight[usable], time)

    def _draw(self, feedback: Feedback, rows: Ids) -> tuple[Ids, Floats]:
        """Item and weight of each negative, n for each row; item 0 where there is nothing to draw."""
        number = _numbers(feedback.user[feedback.request[rows]], feedback.item[rows], feedback.outcome_time[rows], self._n)
        items, likes = self._pipeline.items, self._pipeline.likes
        nothing, ones = np.zeros(number.size, np.int64), np.ones(number.size, np.float32)
        if self._source == "popular":
            if likes is None or not len(likes):
                return nothing, ones
            item, share = likes.draw(number)
            return item, np.minimum(1.0 / (max(len(items), 1) * share), np.float32(LARGEST_WEIGHT))
        if self._source == "candidates":
            request, item = self._pipeline.evidence.candidates(Requests(**feedback.columns(feedback.request[rows])))
            start = np.searchsorted(request, np.arange(rows.size + 1))
            size = np.repeat(np.diff(start), self._n)
            at = np.repeat(start[:-1], self._n) + (number % np.maximum(size, 1).astype(np.uint64)).astype(np.int64)
            return np.where(size > 0, np.append(item, 0)[at], 0), ones
        # Slots fill from the first on, so nearly all below the number of items are in use.
        slots = (number % np.uint64(max(len(items), 1))).astype(np.int64)
        return items.index.keys[slots], ones

    def _merged(self, feedback: Feedback, request: Ids, item: Ids, weight: Floats, time: npt.NDArray[np.float64]) -> Feedback:
        # Each is a request of its own, like the interaction: together they would look like a ranking of n candidates.
        batch = self._pipeline.rows.batch(Requests(**feedback.columns(request)), np.arange(item.size), item)
        rows, none = item.size, np.zeros(item.size, np.float32)
        order = np.argsort(np.concatenate((feedback.request, request)), kind="stable")

        def both(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.concatenate((first, second))[order]

        return Feedback(
            **feedback.columns(),
            item=both(feedback.item, item),
            request=both(feedback.request, request),
            position=both(feedback.position, np.full(rows, -1)),
            features=both(feedback.features, batch.features),
            values=both(feedback.values, batch.values),
            reward=both(feedback.reward, none),
            propensity=both(feedback.propensity, np.full(rows, np.nan, np.float32)),
            weight=both(feedback.weight, weight.astype(np.float32)),
            kind=both(feedback.kind, np.zeros(rows, np.int32)),
            outcome_time=both(feedback.outcome_time, time),
            correction=both(feedback.correction, np.zeros(rows, np.bool_)),
        )


@njit(cache=True, nogil=True)
def _numbers(user: Ids, item: Ids, time: npt.NDArray[np.float64], n: int) -> _Numbers:
    """Random numbers, n for each row: SplitMix64 from a seed that mixes the row's user, item and time."""
    numbers = np.empty(user.size * n, np.uint64)
    for row in range(user.size):
        state = np.uint64(user[row]) * np.uint64(0xD1342543DE82EF95) + np.uint64(item[row])
        state = state * np.uint64(0xD1342543DE82EF95) + np.uint64(np.int64(time[row] * 1000.0))
        for draw in range(n):
            state += np.uint64(0x9E3779B97F4A7C15)
            mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            numbers[row * n + draw] = mixed ^ (mixed >> np.uint64(31))
    return numbers
