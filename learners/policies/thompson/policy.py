"""Thompson sampling policy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from learners.base import Policy, Ranking, Values
from learners.kernels.ordering import (
    checked_scores,
    checked_uncertainty,
    followed_by,
    positions_to_fill,
    remaining_rows,
    untried_first,
)
from learners.policies.thompson.gaussian import all_win_probabilities, win_probabilities
from learners.registry import register
from streams.batch import Floats, Ids

__all__ = ["Thompson"]


@register("thompson")
class Thompson(Policy):
    """For each position, draws from N(score, uncertainty^2) for every remaining row and chooses the highest draw.

    Propensities are integrals over the draw of the chosen row, computed by quadrature with an absolute error below 1e-9.

    References
    ----------
    O. Chapelle, L. Li, "An Empirical Evaluation of Thompson Sampling", NIPS 2011.
    """

    needs_uncertainty: ClassVar[bool] = True

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """See `Policy.select`. Raises ValueError without `uncertainty`."""
        values, width = self._draws(score, uncertainty)
        k = positions_to_fill(score, k)
        first = untried_first(values + width, k, rng)
        # The order is random, so that ties (rows without uncertainty) are broken at random.
        rest = rng.permutation(np.flatnonzero(np.isfinite(values + width)))
        mean, deviation = values[rest], width[rest]
        chosen = np.empty(k - first.rows.size, np.int64)
        mask = np.zeros(rest.size)
        for position in range(chosen.size):
            chosen[position] = np.argmax(rng.standard_normal(rest.size) * deviation + mean + mask)
            mask[chosen[position]] = -np.inf
        return followed_by(first, rest[chosen], win_probabilities(mean, deviation, chosen))

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`. Raises ValueError without `uncertainty`."""
        values, width = self._draws(score, uncertainty)
        left = remaining_rows(score, above)
        infinite = left & np.isinf(values + width)
        if infinite.any():
            return infinite / np.count_nonzero(infinite)
        probabilities = np.zeros(values.size)
        probabilities[left] = all_win_probabilities(values[left], width[left])
        return probabilities

    def _draws(self, score: Floats, uncertainty: Floats | None) -> tuple[Values, Values]:
        """Return the mean and the standard deviation of each row's draws."""
        values, width = checked_scores(score), checked_uncertainty("thompson", score, uncertainty)
        # The quadrature cannot resolve narrower distributions. Such rows count as certain.
        width[width < 1e-8 * np.abs(values)] = 0.0
        return values, width
