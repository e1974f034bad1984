"""Upper confidence bounds: the policy of bandits."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Policy, Ranking, Values
from learners.ordering import among_best, best_first, checked_scores, checked_uncertainty, positions_to_fill, remaining_rows
from learners.registry import register
from streams.batch import Floats, Ids

__all__ = ["Ucb"]


@register("ucb")
class Ucb(Policy):
    """Highest upper confidence bound first: score + alpha * uncertainty.

    Parameters
    ----------
    alpha : float
        Standard errors that the bound lies above the score.
    top : int
        Rows to choose among at each place, all equally likely. More than 1 where scores are old when used: else everybody
        alike gets the same item until what came of it is known.

    References
    ----------
    L. Li, W. Chu, J. Langford, R. Schapire, "A Contextual-Bandit Approach to Personalized News Article Recommendation",
    WWW 2010.
    X. Yi et al., "Online Matching: A Real-time Bandit System for Large-scale Recommendations", RecSys 2023: `top`.
    """

    needs_uncertainty: ClassVar[bool] = True

    def __init__(self, alpha: Annotated[float, Field(ge=0)] = 1.0, top: Annotated[int, Field(gt=0)] = 1) -> None:
        self.alpha, self.top = alpha, top

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """Choose, see `Policy.select`. Raises ValueError without `uncertainty`."""
        return best_first(self._bound(score, uncertainty), positions_to_fill(score, k), rng, self.top)

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`. Raises ValueError without `uncertainty`."""
        return among_best(self._bound(score, uncertainty), remaining_rows(score, above), self.top)

    def _bound(self, score: Floats, uncertainty: Floats | None) -> Values:
        values, width = checked_scores(score), checked_uncertainty("ucb", score, uncertainty)
        return values + self.alpha * width if self.alpha else values
