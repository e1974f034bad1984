"""Policies: from one request's scores to an order, with the exact probability of each choice.

A policy fills places 0, 1, 2 ... one after the other. ``propensities[j]`` is the probability of the row at place j given the
rows at the places before it, so their product is the probability of the whole order. Rows of equal score are tied: each is as
likely as the other. A score or an uncertainty of +infinity (an item never tried) stands above everything finite.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Policy, Ranking, Values
from learners.gaussian import all_win_probabilities, win_probabilities
from learners.registry import register
from memory.jit import njit
from streams.batch import Bools, Floats, Ids

__all__ = ["EpsilonGreedy", "Greedy", "PlackettLuce", "Thompson", "TopKRandom", "Ucb"]


@register("greedy")
class Greedy(Policy):
    """Highest score first."""

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """Choose, see `Policy.select`; `uncertainty` is not used."""
        return _best_first(_checked(score), _places(score, k), rng)

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`; `uncertainty` is not used."""
        return _among_best(_checked(score), _left(score, above))


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
        return _best_first(self._bound(score, uncertainty), _places(score, k), rng, self.top)

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`. Raises ValueError without `uncertainty`."""
        return _among_best(self._bound(score, uncertainty), _left(score, above), self.top)

    def _bound(self, score: Floats, uncertainty: Floats | None) -> Values:
        values, width = _checked(score), _checked_uncertainty("ucb", score, uncertainty)
        return values + self.alpha * width if self.alpha else values


@register("epsilon_greedy")
class EpsilonGreedy(Policy):
    """At each place the best remaining row, or with probability epsilon any of the remaining rows.

    Parameters
    ----------
    epsilon : float
        Probability of choosing at random; the best row may be chosen then, too.

    References
    ----------
    R. Sutton, A. Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, section 2.2.
    """

    def __init__(self, epsilon: Annotated[float, Field(ge=0, le=1)] = 0.1) -> None:
        self.epsilon = epsilon

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """Choose, see `Policy.select`; `uncertainty` is not used."""
        values, k = _checked(score), _places(score, k)
        rows, chances = _explore(_top(values, k, rng)[0], values, self.epsilon, rng.random((k, 2)))
        return Ranking(rows, chances.astype(np.float32))

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`; `uncertainty` is not used."""
        values, left = _checked(score), _left(score, above)
        return left * (self.epsilon / np.count_nonzero(left)) + (1 - self.epsilon) * _among_best(values, left)


@register("top_k_random")
class TopKRandom(Policy):
    """At each place one of the `top` best remaining rows, all equally likely.

    Parameters
    ----------
    top : int
        Rows to choose among.
    """

    def __init__(self, top: Annotated[int, Field(gt=0)] = 10) -> None:
        self.top = top

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """Choose, see `Policy.select`; `uncertainty` is not used."""
        return _best_first(_checked(score), _places(score, k), rng, self.top)

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`; `uncertainty` is not used."""
        return _among_best(_checked(score), _left(score, above), self.top)


@register("plackett_luce")
class PlackettLuce(Policy):
    """At each place one of the remaining rows, with probability proportional to exp(score / temperature).

    Parameters
    ----------
    temperature : float
        Scores this far apart differ by a factor of e in probability. Small: nearly greedy; large: nearly uniform.

    References
    ----------
    R. Plackett, "The Analysis of Permutations", Applied Statistics 24 (1975).
    W. Kool, H. van Hoof, M. Welling, "Stochastic Beams and Where to Find Them", ICML 2019: sampling it by the largest of
    score plus Gumbel noise (section 2.3).
    """

    def __init__(self, temperature: Annotated[float, Field(ge=1e-6)] = 0.1) -> None:
        self.temperature = temperature

    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """Choose, see `Policy.select`; `uncertainty` is not used."""
        values, k = _checked(score), _places(score, k)
        first = _infinite(values, k, rng)
        rest = np.flatnonzero(np.isfinite(values))
        logits = values[rest] / self.temperature
        places = k - first.rows.size
        chosen = _top(logits + rng.gumbel(size=rest.size), places, rng)[0]
        left = np.ones(rest.size, np.bool_)
        left[chosen] = False
        remaining = np.logaddexp.reduce(logits[left]) if left.any() else -np.inf
        # From the last place backwards, so that a sum of remaining weights is never a difference of two large numbers.
        totals = np.logaddexp.accumulate(np.concatenate(([remaining], logits[chosen][::-1])))[1:][::-1]
        return _then(first, rest[chosen], np.exp(logits[chosen] - totals))

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`; `uncertainty` is not used."""
        values, left = _checked(score), _left(score, above)
        infinite = left & np.isinf(values)
        if infinite.any():
            return infinite / np.count_nonzero(infinite)
        logits = np.where(left, values, -np.inf) / self.temperature
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()  # type: ignore[no-any-return]


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
        k = _places(score, k)
        first = _infinite(values + width, k, rng)
        # In random order, so that the first of equal draws (rows without uncertainty) is any of them.
        rest = rng.permutation(np.flatnonzero(np.isfinite(values + width)))
        mean, deviation = values[rest], width[rest]
        chosen = np.empty(k - first.rows.size, np.int64)
        left = np.zeros(rest.size)
        for place in range(chosen.size):
            chosen[place] = np.argmax(rng.standard_normal(rest.size) * deviation + mean + left)
            left[chosen[place]] = -np.inf
        return _then(first, rest[chosen], win_probabilities(mean, deviation, chosen))

    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Policy.distribution`. Raises ValueError without `uncertainty`."""
        values, width = self._draws(score, uncertainty)
        left = _left(score, above)
        infinite = left & np.isinf(values + width)
        if infinite.any():
            return infinite / np.count_nonzero(infinite)
        chances = np.zeros(values.size)
        chances[left] = all_win_probabilities(values[left], width[left])
        return chances

    def _draws(self, score: Floats, uncertainty: Floats | None) -> tuple[Values, Values]:
        """Mean and deviation of the draws."""
        values, width = _checked(score), _checked_uncertainty("thompson", score, uncertainty)
        # Narrower than this, the quadrature cannot tell a row from a certain one; nor, nearly, can floating-point draws.
        width[width < 1e-8 * np.abs(values)] = 0.0
        return values, width


def _checked(score: Floats) -> Values:
    values = score.astype(np.float64)
    bad = np.flatnonzero(np.isnan(values) | (values == -np.inf))
    if bad.size:
        raise ValueError(f"score: {values[bad[0]]} in row {bad[0]}; a policy needs numbers, or +inf for a row to try first")
    return values


def _checked_uncertainty(policy: str, score: Floats, uncertainty: Floats | None) -> Values:
    if uncertainty is None:
        raise ValueError(
            f"uncertainty: policy {policy!r} needs the standard error of each score, and none was filled in; use a "
            "retriever or ranker that knows it (such as diag_linucb), or another policy (such as greedy or epsilon_greedy)"
        )
    if uncertainty.shape != score.shape:
        raise ValueError(f"uncertainty: shape {uncertainty.shape} for scores of shape {score.shape}; give one for each score")
    values = uncertainty.astype(np.float64)
    bad = np.flatnonzero(~(values >= 0))
    if bad.size:
        raise ValueError(
            f"uncertainty: {values[bad[0]]} in row {bad[0]}; a standard error is 0 or more, +inf where nothing is known"
        )
    return values


def _places(score: Floats, k: int) -> int:
    if k < 0:
        raise ValueError(f"k: {k} places; ask for 0 or more")
    return min(k, score.size)


def _left(score: Floats, above: Ids) -> Bools:
    left = np.ones(score.size, np.bool_)
    left[above] = False
    if np.count_nonzero(left) != score.size - above.size or not left.any():
        raise ValueError(f"above: {above.size} rows of {score.size}; give different rows, and leave one at least")
    return left


def _among_best(values: Values, left: Bools, top: int = 1) -> Values:
    """Probabilities of a choice among the `top` best of the rows that are left, all equally likely; ties share."""
    remaining = values[left]
    window = min(top, remaining.size)
    edge = np.partition(remaining, remaining.size - window)[remaining.size - window]
    higher, tied = left & (values > edge), left & (values == edge)
    places = window - np.count_nonzero(higher)
    chances: Values = higher / window + tied * (places / window / np.count_nonzero(tied))
    return chances


def _top(values: Values, m: int, rng: np.random.Generator) -> tuple[Ids, int]:
    """Best `m` rows, best first and tied rows in random order, and how many rows beyond them are tied with the last one."""
    if m == 0:
        return np.empty(0, np.int64), 0
    shuffled = rng.permutation(values.size)
    negated = -values[shuffled]
    part = np.argpartition(negated, m - 1)[:m] if m < values.size else np.arange(values.size)
    # A stable sort of rows that lie in random order leaves tied rows in random order.
    part.sort()
    best = part[np.argsort(negated[part], kind="stable")]
    beyond = np.count_nonzero(negated == negated[best[-1]]) - np.count_nonzero(negated[best] == negated[best[-1]])
    return shuffled[best], int(beyond)


def _best_first(values: Values, k: int, rng: np.random.Generator, top: int = 1) -> Ranking:
    order, beyond = _top(values, min(k + top - 1, values.size) if k else 0, rng)
    picks, chances = _window(values[order], beyond, top, rng.random(k) if top > 1 else np.zeros(k))
    return Ranking(order[picks], chances.astype(np.float32))


def _infinite(values: Values, k: int, rng: np.random.Generator) -> Ranking:
    """Choose among rows of infinite value, tied with each other, for as many of the `k` places as there are such rows."""
    rows = np.flatnonzero(np.isinf(values))
    places = min(k, rows.size)
    return Ranking(rng.permutation(rows)[:places], (1 / np.arange(rows.size, rows.size - places, -1.0)).astype(np.float32))


def _then(first: Ranking, rows: Ids, chances: Values) -> Ranking:
    chances = np.minimum(chances, 1.0).astype(np.float32)
    return Ranking(np.concatenate((first.rows, rows)), np.concatenate((first.propensities, chances)))


@njit(cache=True, nogil=True)
def _window(values: Values, beyond: int, top: int, draws: Values) -> tuple[Ids, Values]:
    """Fill each place from the `top` best remaining of `values` (descending; `beyond` more rows equal the last of them)."""
    left = np.arange(values.size)
    remaining, last = values.size, values[-1] if values.size else 0.0
    picks, chances = np.empty(draws.size, np.int64), np.empty(draws.size)
    for place in range(draws.size):
        window = min(top, remaining)
        at = min(int(draws[place] * window), window - 1)
        pick = left[at]
        edge = values[left[window - 1]]
        if values[pick] > edge:
            chances[place] = 1 / window
        else:
            above = 0
            while values[left[above]] > edge:
                above += 1
            tied = above
            while tied < remaining and values[left[tied]] == edge:
                tied += 1
            tied += (beyond if edge == last else 0) - above
            chances[place] = (window - above) / window / tied
        picks[place] = pick
        left[at : remaining - 1] = left[at + 1 : remaining].copy()
        remaining -= 1
    return picks, chances


@njit(cache=True, nogil=True)
def _explore(order: Ids, values: Values, epsilon: float, draws: Values) -> tuple[Ids, Values]:
    """Fill each place with the first row of `order` that remains or, with probability epsilon, with any row that remains."""
    left, place_of = np.arange(values.size), np.arange(values.size)
    used = np.zeros(values.size, np.bool_)
    rows, chances = np.empty(draws.shape[0], np.int64), np.empty(draws.shape[0])
    head = 0
    for place in range(draws.shape[0]):
        remaining = values.size - place
        while used[order[head]]:
            head += 1
        best = values[order[head]]
        pick = order[head]
        if draws[place, 0] < epsilon:
            pick = left[min(int(draws[place, 1] * remaining), remaining - 1)]
        rows[place], chances[place] = pick, epsilon / remaining
        if values[pick] == best:
            chances[place] += (1 - epsilon) / np.sum((values == best) & ~used)
        used[pick] = True
        end = left[remaining - 1]
        left[place_of[pick]] = end
        place_of[end] = place_of[pick]
    return rows, chances
