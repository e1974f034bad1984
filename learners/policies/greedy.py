"""Greedy policy."""

from __future__ import annotations

import numpy as np

from learners.base import Policy, Ranking, Values
from learners.kernels.ordering import among_best, best_first, checked_scores, positions_to_fill, remaining_rows
from learners.registry import register
from streams.batch import Floats, Ids

__all__ = ["Greedy"]


@register("greedy")
class Greedy(Policy):
    """Orders items by score, highest first."""

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """See `Policy.select`; `uncertainty` is not used."""
        return best_first(checked_scores(score), positions_to_fill(score, k), rng)

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`; `uncertainty` is not used."""
        return among_best(checked_scores(score), remaining_rows(score, above))
