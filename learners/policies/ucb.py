"""UCB policy: upper confidence bounds, for bandits."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Policy, Ranking, Values
from learners.kernels.ordering import (
    among_best,
    best_first,
    checked_scores,
    checked_uncertainty,
    positions_to_fill,
    remaining_rows,
)
from learners.registry import register
from learners.tunable import Scale, Tunable
from streams.batch import Floats, Ids

__all__ = ["Ucb"]


@register("ucb")
class Ucb(Policy):
    """Orders items by their upper confidence bound, score + alpha * uncertainty, highest first.

    Parameters
    ----------
    alpha : float
        Distance of the bound from the score, in standard errors.
    top : int
        Number of best remaining rows to choose among for each position, all equally likely. Use more than 1 if scores are
        stale when they are used: otherwise all similar users get the same item until its outcomes are known.

    References
    ----------
    L. Li, W. Chu, J. Langford, R. Schapire, "A Contextual-Bandit Approach to Personalized News Article Recommendation",
    WWW 2010.
    X. Yi et al., "Online Matching: A Real-time Bandit System for Large-scale Recommendations", RecSys 2023: `top`.
    """

    needs_uncertainty: ClassVar[bool] = True
    tunable: ClassVar[Tunable] = {
        "alpha": Scale(0.1, 4.0, log=True),
    }

    def __init__(self, alpha: Annotated[float, Field(ge=0)] = 1.0, top: Annotated[int, Field(gt=0)] = 1) -> None:
        self.alpha, self.top = alpha, top

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """See `Policy.select`. Raises ValueError without `uncertainty`."""
        return best_first(self._bound(score, uncertainty), positions_to_fill(score, k), rng, self.top)

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`. Raises ValueError without `uncertainty`."""
        return among_best(self._bound(score, uncertainty), remaining_rows(score, above), self.top)

    def _bound(self, score: Floats, uncertainty: Floats | None) -> Values:
        values, width = checked_scores(score), checked_uncertainty("ucb", score, uncertainty)
        return values + self.alpha * width if self.alpha else values
