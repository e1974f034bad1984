"""Uniform choice among the best rows."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Policy, Ranking, Values
from learners.kernels.ordering import among_best, best_first, checked_scores, positions_to_fill, remaining_rows
from learners.registry import register
from learners.tunable import Scale, Tunable
from streams.batch import Floats, Ids

__all__ = ["TopKRandom"]


@register("top_k_random")
class TopKRandom(Policy):
    """For each position, chooses one of the `top` best remaining rows, all equally likely.

    Parameters
    ----------
    top : int
        Rows to choose among.
    """

    tunable: ClassVar[Tunable] = {
        "top": Scale(2, 50, log=True),
    }

    def __init__(self, top: Annotated[int, Field(gt=0)] = 10) -> None:
        self.top = top

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """See `Policy.select`; `uncertainty` is not used."""
        return best_first(checked_scores(score), positions_to_fill(score, k), rng, self.top)

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`; `uncertainty` is not used."""
        return among_best(checked_scores(score), remaining_rows(score, above), self.top)
