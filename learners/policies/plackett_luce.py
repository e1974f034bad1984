"""Plackett-Luce policy: softmax sampling without replacement."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Policy, Ranking, Values
from learners.kernels.ordering import best_rows, checked_scores, followed_by, positions_to_fill, remaining_rows, untried_first
from learners.registry import register
from learners.tunable import Scale, Tunable
from streams.batch import Floats, Ids

__all__ = ["PlackettLuce"]


@register("plackett_luce")
class PlackettLuce(Policy):
    """For each position, draws a remaining row with probability proportional to exp(score / temperature).

    Parameters
    ----------
    temperature : float
        A score that is higher by this much makes a row e times as likely. Small: nearly greedy. Large: nearly uniform.

    References
    ----------
    R. Plackett, "The Analysis of Permutations", Applied Statistics 24 (1975).
    W. Kool, H. van Hoof, M. Welling, "Stochastic Beams and Where to Find Them", ICML 2019: sampling by the largest scores
    plus Gumbel noise (section 2.3).
    """

    tunable: ClassVar[Tunable] = {
        "temperature": Scale(0.01, 1.0, log=True),
    }

    def __init__(self, temperature: Annotated[float, Field(ge=1e-6)] = 0.1) -> None:
        self.temperature = temperature

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """See `Policy.select`; `uncertainty` is not used."""
        values, k = checked_scores(score), positions_to_fill(score, k)
        first = untried_first(values, k, rng)
        rest = np.flatnonzero(np.isfinite(values))
        logits = values[rest] / self.temperature
        chosen = best_rows(logits + rng.gumbel(size=rest.size), k - first.rows.size, rng)[0]
        left = np.ones(rest.size, np.bool_)
        left[chosen] = False
        remaining = np.logaddexp.reduce(logits[left]) if left.any() else -np.inf
        # Summing from the last position backwards avoids differences of large numbers.
        totals = np.logaddexp.accumulate(np.concatenate(([remaining], logits[chosen][::-1])))[1:][::-1]
        return followed_by(first, rest[chosen], np.exp(logits[chosen] - totals))

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`; `uncertainty` is not used."""
        values, left = checked_scores(score), remaining_rows(score, above)
        infinite = left & np.isinf(values)
        if infinite.any():
            return infinite / np.count_nonzero(infinite)
        logits = np.where(left, values, -np.inf) / self.temperature
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()  # type: ignore[no-any-return]
