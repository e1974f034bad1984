"""What policies share: checks of their input, and orders with the exact probability of each choice.

A policy fills positions 0, 1, 2 ... one after the other. ``propensities[j]`` is the probability of the row at position j given
the rows at the positions before it, so their product is the probability of the whole order. Rows of equal score are tied: each
is as likely as the other. A score or an uncertainty of +infinity (an item never tried) stands above everything finite.
"""

from __future__ import annotations

import numpy as np

from learners.base import Ranking, Values
from memory.jit import njit
from streams.batch import Bools, Floats, Ids

__all__ = [
    "among_best",
    "best_first",
    "best_rows",
    "checked_scores",
    "checked_uncertainty",
    "followed_by",
    "positions_to_fill",
    "remaining_rows",
    "untried_first",
]


def checked_scores(score: Floats) -> Values:
    """Scores as float64. Raises ValueError for NaN and -inf."""
    values = score.astype(np.float64)
    bad = np.flatnonzero(np.isnan(values) | (values == -np.inf))
    if bad.size:
        raise ValueError(f"score: {values[bad[0]]} in row {bad[0]}; a policy needs numbers, or +inf for a row to try first")
    return values


def checked_uncertainty(policy: str, score: Floats, uncertainty: Floats | None) -> Values:
    """Standard errors as float64. Raises ValueError where they are missing, negative or of another shape."""
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


def positions_to_fill(score: Floats, k: int) -> int:
    """At most `k`, and at most one for each row. Raises ValueError for a negative `k`."""
    if k < 0:
        raise ValueError(f"k: {k} places; ask for 0 or more")
    return min(k, score.size)


def remaining_rows(score: Floats, above: Ids) -> Bools:
    """Rows that are not `above` yet. Raises ValueError where `above` has a row twice, or leaves none."""
    left = np.ones(score.size, np.bool_)
    left[above] = False
    if np.count_nonzero(left) != score.size - above.size or not left.any():
        raise ValueError(f"above: {above.size} rows of {score.size}; give different rows, and leave one at least")
    return left


def among_best(values: Values, left: Bools, top: int = 1) -> Values:
    """Probabilities of a choice among the `top` best of the rows that are left, all equally likely; ties share."""
    remaining = values[left]
    window = min(top, remaining.size)
    edge = np.partition(remaining, remaining.size - window)[remaining.size - window]
    higher, tied = left & (values > edge), left & (values == edge)
    places = window - np.count_nonzero(higher)
    chances: Values = higher / window + tied * (places / window / np.count_nonzero(tied))
    return chances


def best_rows(values: Values, m: int, rng: np.random.Generator) -> tuple[Ids, int]:
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


def best_first(values: Values, k: int, rng: np.random.Generator, top: int = 1) -> Ranking:
    """Fill `k` positions, each with one of the `top` best remaining rows, all equally likely."""
    order, beyond = best_rows(values, min(k + top - 1, values.size) if k else 0, rng)
    picks, chances = _window(values[order], beyond, top, rng.random(k) if top > 1 else np.zeros(k))
    return Ranking(order[picks], chances.astype(np.float32))


def untried_first(values: Values, k: int, rng: np.random.Generator) -> Ranking:
    """Choose among rows of infinite value, tied with each other, for as many of the `k` places as there are such rows."""
    rows = np.flatnonzero(np.isinf(values))
    places = min(k, rows.size)
    return Ranking(rng.permutation(rows)[:places], (1 / np.arange(rows.size, rows.size - places, -1.0)).astype(np.float32))


def followed_by(first: Ranking, rows: Ids, chances: Values) -> Ranking:
    """One ranking, followed by more rows with their probabilities."""
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
