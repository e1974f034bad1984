"""Helpers of the policies: input checks, and rankings with the exact probability of each choice.

A policy fills positions 0, 1, 2 ... in this order. ``propensities[j]`` is the probability of the row at position j, given the
rows at earlier positions. The product of all propensities is the probability of the whole ranking. Rows with equal scores are
tied and equally likely. A score or uncertainty of +infinity (an item that was never shown) ranks above all finite ones.
"""

from __future__ import annotations

import numpy as np

from learners.base import Ranking, Values
from memory.jit import njit
from streams.batch import Bools, Floats, Ids

__all__ = [
    "among_best",
    "best_first",
    "best_in_order",
    "best_rows",
    "checked_scores",
    "checked_uncertainty",
    "followed_by",
    "positions_to_fill",
    "remaining_rows",
    "untried_first",
]


def checked_scores(score: Floats) -> Values:
    """Return the scores as float64. Raises ValueError for NaN and -inf."""
    values = score.astype(np.float64)
    good = values > -np.inf
    if not good.all():
        bad = np.flatnonzero(~good)
        raise ValueError(f"score: {values[bad[0]]} in row {bad[0]}; give a number, or +inf for an item to be shown first")
    return values


def checked_uncertainty(policy: str, score: Floats, uncertainty: Floats | None) -> Values:
    """Return the standard errors as float64. Raises ValueError if they are missing or negative, or have the wrong shape."""
    if uncertainty is None:
        raise ValueError(
            f"uncertainty: None, and policy {policy!r} needs the standard error of each score; use a retriever or ranker that "
            "estimates it (such as diag_linucb), or another policy (such as greedy or epsilon_greedy)"
        )
    if uncertainty.shape != score.shape:
        raise ValueError(f"uncertainty: shape {uncertainty.shape} for scores of shape {score.shape}; give one for each score")
    values = uncertainty.astype(np.float64)
    bad = np.flatnonzero(~(values >= 0))
    if bad.size:
        raise ValueError(
            f"uncertainty: {values[bad[0]]} in row {bad[0]}; give 0 or more, or +inf for an item that was never shown"
        )
    return values


def positions_to_fill(score: Floats, k: int) -> int:
    """Return `k`, or the number of rows if that is smaller. Raises ValueError for a negative `k`."""
    if k < 0:
        raise ValueError(f"k: {k} positions; ask for 0 or more")
    return min(k, score.size)


def remaining_rows(score: Floats, above: Ids) -> Bools:
    """Return a mask of the rows that are not in `above`. Raises ValueError if `above` has duplicates, or contains all rows."""
    remaining = np.ones(score.size, np.bool_)
    remaining[above] = False
    if np.count_nonzero(remaining) != score.size - above.size or not remaining.any():
        raise ValueError(f"above: {above.size} of {score.size} rows; give different rows, and leave at least one out")
    return remaining


def among_best(values: Values, remaining: Bools, top: int = 1) -> Values:
    """Return the probabilities of a uniform choice among the `top` best remaining rows. Tied rows share theirs."""
    candidates = values[remaining]
    window = min(top, candidates.size)
    edge = np.partition(candidates, candidates.size - window)[candidates.size - window]
    higher, tied = remaining & (values > edge), remaining & (values == edge)
    open_positions = window - np.count_nonzero(higher)
    probabilities: Values = higher / window + tied * (open_positions / window / np.count_nonzero(tied))
    return probabilities


def best_rows(values: Values, m: int, rng: np.random.Generator) -> tuple[Ids, int]:
    """Return the best `m` rows as `best_in_order` does, and the number of other rows tied with the last one."""
    best = best_in_order(values, m, rng)
    if m == 0:
        return best, 0
    last = values[best[-1]]
    return best, int(np.count_nonzero(values == last) - np.count_nonzero(values[best] == last))


def best_in_order(values: Values, m: int, rng: np.random.Generator) -> Ids:
    """Return the best `m` rows, best first with ties in random order."""
    if m == 0:
        return np.empty(0, np.int64)
    shuffled = rng.permutation(values.size)
    negated = -values[shuffled]
    part = negated.argpartition(m - 1)[:m] if m < values.size else np.arange(values.size)
    # The rows are in random order, so a stable sort leaves tied rows in random order.
    part.sort()
    return shuffled[part[negated[part].argsort(kind="stable")]]


def best_first(values: Values, k: int, rng: np.random.Generator, top: int = 1) -> Ranking:
    """Fill `k` positions. Each gets one of the `top` best remaining rows, all equally likely."""
    order, beyond = best_rows(values, min(k + top - 1, values.size) if k else 0, rng)
    picks, probabilities = _window(values[order], beyond, top, rng.random(k) if top > 1 else np.zeros(k))
    return Ranking(order[picks], probabilities.astype(np.float32))


def untried_first(values: Values, k: int, rng: np.random.Generator) -> Ranking:
    """Fill up to `k` positions with the rows of infinite value, in random order."""
    rows = np.flatnonzero(np.isinf(values))
    positions = min(k, rows.size)
    propensities = (1 / np.arange(rows.size, rows.size - positions, -1.0)).astype(np.float32)
    return Ranking(rng.permutation(rows)[:positions], propensities)


def followed_by(first: Ranking, rows: Ids, probabilities: Values) -> Ranking:
    """Return a ranking extended by more rows with their probabilities."""
    propensities = np.minimum(probabilities, 1.0).astype(np.float32)
    return Ranking(np.concatenate((first.rows, rows)), np.concatenate((first.propensities, propensities)))


@njit(cache=True, nogil=True)
def _window(values: Values, beyond: int, top: int, draws: Values) -> tuple[Ids, Values]:
    """Fill each position with one of the `top` best remaining values.

    `values` is descending, and `beyond` more rows equal its last entry. `draws` holds one uniform random number per position.
    """
    left = np.arange(values.size)
    remaining, last = values.size, values[-1] if values.size else 0.0
    picks, probabilities = np.empty(draws.size, np.int64), np.empty(draws.size)
    for position in range(draws.size):
        window = min(top, remaining)
        at = min(int(draws[position] * window), window - 1)
        pick = left[at]
        edge = values[left[window - 1]]
        if values[pick] > edge:
            probabilities[position] = 1 / window
        else:
            above = 0
            while values[left[above]] > edge:
                above += 1
            tied = above
            while tied < remaining and values[left[tied]] == edge:
                tied += 1
            tied += (beyond if edge == last else 0) - above
            probabilities[position] = (window - above) / window / tied
        picks[position] = pick
        left[at : remaining - 1] = left[at + 1 : remaining].copy()
        remaining -= 1
    return picks, probabilities
