"""Epsilon-greedy policy."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Policy, Ranking, Values
from learners.kernels.ordering import among_best, best_in_order, checked_scores, positions_to_fill, remaining_rows
from learners.registry import register
from learners.tunable import Scale, Tunable
from memory.jit import njit
from streams.batch import Floats, Ids

__all__ = ["EpsilonGreedy"]


@register("epsilon_greedy")
class EpsilonGreedy(Policy):
    """For each position, chooses the best remaining row, or with probability epsilon any remaining row.

    Parameters
    ----------
    epsilon : float
        Probability of a random choice. A random choice may be the best row, too.

    References
    ----------
    R. Sutton, A. Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, section 2.2.
    """

    tunable: ClassVar[Tunable] = {
        "epsilon": Scale(0.01, 0.3, log=True),
    }

    def __init__(self, epsilon: Annotated[float, Field(ge=0, le=1)] = 0.1) -> None:
        self.epsilon = epsilon

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """See `Policy.select`; `uncertainty` is not used."""
        values, k = checked_scores(score), positions_to_fill(score, k)
        rows, probabilities = _explore(best_in_order(values, k, rng), values, self.epsilon, rng.random((k, 2)))
        return Ranking(rows, probabilities.astype(np.float32))

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`; `uncertainty` is not used."""
        values, left = checked_scores(score), remaining_rows(score, above)
        return left * (self.epsilon / np.count_nonzero(left)) + (1 - self.epsilon) * among_best(values, left)


@njit(cache=True, nogil=True)
def _explore(order: Ids, values: Values, epsilon: float, draws: Values) -> tuple[Ids, Values]:
    """Fill each position with the first remaining row of `order` or, with probability epsilon, with any remaining row."""
    left, slot_of = np.arange(values.size), np.arange(values.size)
    used = np.zeros(values.size, np.bool_)
    rows, probabilities = np.empty(draws.shape[0], np.int64), np.empty(draws.shape[0])
    head = 0
    for position in range(draws.shape[0]):
        remaining = values.size - position
        while used[order[head]]:
            head += 1
        best = values[order[head]]
        pick = order[head]
        if draws[position, 0] < epsilon:
            pick = left[min(int(draws[position, 1] * remaining), remaining - 1)]
        rows[position], probabilities[position] = pick, epsilon / remaining
        if values[pick] == best:
            probabilities[position] += (1 - epsilon) / np.sum((values == best) & ~used)
        used[pick] = True
        end = left[remaining - 1]
        left[slot_of[pick]] = end
        slot_of[end] = slot_of[pick]
    return rows, probabilities
