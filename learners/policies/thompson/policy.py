"""Thompson sampling: the best of one draw each."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from learners.base import Policy, Ranking, Values
from learners.ordering import checked_scores, checked_uncertainty, followed_by, positions_to_fill, remaining_rows, untried_first
from learners.policies.thompson.gaussian import all_win_probabilities, win_probabilities
from learners.registry import register
from streams.batch import Floats, Ids

__all__ = ["Thompson"]


@register("thompson")
class Thompson(Policy):
    """At each place the remaining row with the highest draw from N(score, uncertainty^2), all drawn anew for each place.

    Propensities are integrals over the draw of the chosen row, by quadrature: absolute error below 1e-9.

    References
    ----------
    O. Chapelle, L. Li, "An Empirical Evaluation of Thompson Sampling", NIPS 2011.
    """

    needs_uncertainty: ClassVar[bool] = True

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """Choose, see `Policy.select`. Raises ValueError without `uncertainty`."""
        values, width = self._draws(score, uncertainty)
        k = positions_to_fill(score, k)
        first = untried_first(values + width, k, rng)
        # In random order, so that the first of equal draws (rows without uncertainty) is any of them.
        rest = rng.permutation(np.flatnonzero(np.isfinite(values + width)))
        mean, deviation = values[rest], width[rest]
        chosen = np.empty(k - first.rows.size, np.int64)
        left = np.zeros(rest.size)
        for place in range(chosen.size):
            chosen[place] = np.argmax(rng.standard_normal(rest.size) * deviation + mean + left)
            left[chosen[place]] = -np.inf
        return followed_by(first, rest[chosen], win_probabilities(mean, deviation, chosen))

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`. Raises ValueError without `uncertainty`."""
        values, width = self._draws(score, uncertainty)
        left = remaining_rows(score, above)
        infinite = left & np.isinf(values + width)
        if infinite.any():
            return infinite / np.count_nonzero(infinite)
        chances = np.zeros(values.size)
        chances[left] = all_win_probabilities(values[left], width[left])
        return chances

    def _draws(self, score: Floats, uncertainty: Floats | None) -> tuple[Values, Values]:
        """Mean and deviation of the draws."""
        values, width = checked_scores(score), checked_uncertainty("thompson", score, uncertainty)
        # Narrower than this, the quadrature cannot tell a row from a certain one; nor, nearly, can floating-point draws.
        width[width < 1e-8 * np.abs(values)] = 0.0
        return values, width
