"""Error estimates of ReLoop2: attention over the outcomes of similar rows.

References
----------
J. Zhu et al., "ReLoop2: Building Self-Adaptive Recommendation Models via Responsive Error Compensation Loop", KDD 2023,
arXiv 2306.08808.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.error_memory import Evidence
from memory.jit import njit
from streams.batch import Bools

__all__ = ["attention", "estimate_error"]

Values = npt.NDArray[Any]


def attention(evidence: Evidence, temperature: float | None, horizons: Sequence[int] = ()) -> Values:
    """Return the attention weights of K earlier outcomes: equation 12, times the weights of their rows.

    Parameters
    ----------
    evidence : Evidence
        K outcomes for each of q rows.
    temperature : float or None
        Temperature of the softmax over the similarities. None: weights are proportional to the similarities, which must be
        positive.
    horizons : sequence of int, decreasing
        Age limits in rows.

    Returns
    -------
    (q, 1 + h, K) float64
        First the weights over all outcomes, then for each of the h horizons the weights over the outcomes younger than it. If
        there are none, the weights of the previous horizon are repeated. Weights sum to 1, or to 0 if there are no outcomes.
    """
    weights = np.zeros((len(evidence.slots), 1 + len(horizons), evidence.slots.shape[1]))
    _attention(evidence.similarity, evidence.age, evidence.weight, *_numbers(temperature, horizons), weights)
    return weights


def estimate_error(
    score: Values, evidence: Evidence, gamma: float, temperature: float | None, horizons: Sequence[int] = ()
) -> tuple[Values, Bools]:
    """Estimate the errors of scores from similar rows (equations 11 and 13). A positive error means that a score is too low.

    Parameters
    ----------
    score : (q,) array
        Scores of the ranker.
    gamma : float
        1: mean label of the similar rows minus the score. 0: mean error of the ranker on the similar rows.
    evidence, temperature, horizons
        As for `attention`.

    Returns
    -------
    error : (1 + h, q) float64
        Estimates from all outcomes, and from those younger than each of the h horizons.
    hit : (q,) bool
        Whether a row has any similar rows. If not, its error is 0.
    """
    error, hit = np.zeros((1 + len(horizons), len(score))), np.zeros(len(score), np.bool_)
    outcomes = evidence.similarity, evidence.age, evidence.weight, evidence.label, evidence.base_score
    _estimate(score, *outcomes, *_numbers(temperature, horizons), gamma, error, hit)
    return error, hit


def _numbers(temperature: float | None, horizons: Sequence[int]) -> tuple[float, Values]:
    return math.nan if temperature is None else temperature, np.array(horizons, np.int64)


# Compiled part. It keeps the GIL: with other threads running, getting the GIL back may take longer than the work itself.


@njit(cache=True)
def _attend(similarity, age, weight, temperature, horizons, weights):  # type: ignore[no-untyped-def]
    """Fill `weights` (1 + h, K) with the attention of one row. Returns whether the row has outcomes."""
    best, total = -np.inf, 0.0
    for n in range(similarity.size):
        best = max(best, similarity[n])
    if best == -np.inf:
        return False
    for n in range(similarity.size):
        close = similarity[n]
        weights[0, n] = 0.0 if close == -np.inf else close if np.isnan(temperature) else np.exp((close - best) / temperature)
        weights[0, n] *= weight[n]
        total += weights[0, n]
    for n in range(similarity.size):
        weights[0, n] /= total
    for one in range(horizons.size):
        total = 0.0
        for n in range(similarity.size):
            total += weights[0, n] * (age[n] < horizons[one])
        for n in range(similarity.size):
            weights[one + 1, n] = weights[0, n] * (age[n] < horizons[one]) / total if total > 0.0 else weights[one, n]
    return True


@njit(cache=True)
def _attention(similarity, age, weight, temperature, horizons, weights):  # type: ignore[no-untyped-def]
    for row in range(similarity.shape[0]):
        _attend(similarity[row], age[row], weight[row], temperature, horizons, weights[row])


@njit(cache=True)
def _estimate(score, similarity, age, weight, labels, base_scores, temperature, horizons, gamma, error, hit):  # type: ignore[no-untyped-def]
    weights = np.empty((1 + horizons.size, similarity.shape[1]))
    for row in range(score.size):
        hit[row] = _attend(similarity[row], age[row], weight[row], temperature, horizons, weights)
        if not hit[row]:
            continue
        for one in range(error.shape[0]):
            label = base = 0.0
            for n in range(similarity.shape[1]):
                label += weights[one, n] * labels[row, n]
                base += weights[one, n] * base_scores[row, n]
            error[one, row] = gamma * (label - score[row]) + (1.0 - gamma) * (label - base)
