"""A factorization machine over all feature columns, learning one event at a time in one compiled call.

References
----------
S. Rendle, "Factorization Machines", ICDM 2010: the model (equation 1) and its computation in linear time (lemma 3.1).
J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011:
the step of each coordinate (diagonal AdaGrad).
K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009: weights by hashed feature.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Ranker, WeightDelta
from learners.bounds import bounded
from learners.registry import register
from memory.arrays import Arrays
from memory.jit import njit
from streams.batch import Batch, Feedback, Floats

__all__ = ["FactorizationMachine"]

STEEPEST = np.float32(3.0)
"""Slope past which constant steps do not grow: without it large numbers make larger weights, and these larger slopes."""


@register("fm")
class FactorizationMachine(Ranker):
    """Logistic factorization machine: log-odds = w0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j.

    Each row of a micro-batch is predicted and learned before the next one is looked at, so the result does not depend on how
    the stream was cut into batches.

    Parameters
    ----------
    factors : int
        Length k of each feature's vector v.
    bits : int
        Features share 2**bits rows of weights by their hash; memory is 8 * (factors + 1) * 2**bits bytes.
    step : float
        Step size of the weights w.
    factor_step : float
        Step size of the vectors v.
    adaptive : bool
        True: AdaGrad, steps shrink with the gradients seen (accurate). False: constant steps (recovers fastest after a shift).
    initial_accumulator : float
        AdaGrad's sum of squares before the first event: smaller learns faster from few events, larger is steadier over many.
    l2 : float
        Weight decay of the vectors v, applied to the rows that an event touches.
    init : float
        Standard deviation of the vectors v before learning.
    seed : int
        Of the initial vectors.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {"bits": 12}

    def __init__(
        self,
        factors: Annotated[int, Field(gt=0, le=1024)] = 32,
        bits: Annotated[int, Field(ge=1, le=28)] = 18,
        step: Annotated[float, Field(gt=0)] = 0.1,
        factor_step: Annotated[float, Field(gt=0)] = 0.1,
        adaptive: bool = True,
        initial_accumulator: Annotated[float, Field(gt=0)] = 0.3,
        l2: Annotated[float, Field(ge=0)] = 0.0,
        init: Annotated[float, Field(ge=0)] = 0.05,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.step, self.factor_step, self.adaptive, self.l2 = step, factor_step, adaptive, l2
        self.hidden_width = factors

        def first() -> dict[str, Floats]:
            weights = np.zeros((1 << bits, factors + 1), np.float32)
            weights[:, 1:] = np.random.default_rng(seed).normal(0.0, init, (1 << bits, factors))
            return {"weights": weights, "squares": np.full_like(weights, initial_accumulator)}

        self.rows = Arrays.made_by(first)
        self.intercept = Arrays(weights=np.zeros(1, np.float32), squares=np.full(1, initial_accumulator, np.float32))

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``score`` with the click probability and ``hidden`` (N, k) with sum_{i<j} of v_i x_i * v_j x_j."""
        hidden = np.empty((batch.rows, self.rows["weights"].shape[1] - 1), np.float32)
        _score(batch.features, bounded(batch.values), self.intercept["weights"], self.rows["weights"], batch.score, hidden)
        batch.hidden = hidden

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows in order; the label is the reward clipped to [0, 1]."""
        _learn(
            feedback.features,
            bounded(feedback.values),
            feedback.reward,
            bounded(feedback.weight),
            self.intercept["weights"],
            self.intercept["squares"],
            self.rows["weights"],
            self.rows["squares"],
            self.rows.dirty,
            self.step,
            self.factor_step,
            self.adaptive,
            self.l2,
        )
        if feedback.rows:
            self.intercept.mark()

    def explain(self, batch: Batch) -> Floats:
        """Contribution of each column to the log-odds, (N, F): its weight plus half of each pair it is in."""
        contributions = np.empty(batch.features.shape, np.float32)
        _explain(batch.features, bounded(batch.values), self.rows["weights"], contributions)
        return contributions


@njit(cache=True, nogil=True, fastmath=True)
def _sum_vectors(keys, values, rows, total, squared):  # type: ignore[no-untyped-def]
    """Sum of v x over the columns into `total`, of (v x)^2 into `squared`; returns the linear part."""
    mask = rows.shape[0] - 1
    total[:] = np.float32(0.0)
    squared[:] = np.float32(0.0)
    linear = np.float32(0.0)
    for c in range(keys.size):
        x = values[c]
        if x != 0.0:
            row = rows[keys[c] & mask]
            linear += row[0] * x
            for k in range(total.size):
                vx = row[k + 1] * x
                total[k] += vx
                squared[k] += vx * vx
    return linear


@njit(cache=True, nogil=True, fastmath=True)
def _probability(linear, total, squared):  # type: ignore[no-untyped-def]
    pairs = np.float32(0.0)
    for k in range(total.size):
        pairs += total[k] * total[k] - squared[k]
    odds = linear + np.float32(0.5) * pairs
    odds = min(max(odds, np.float32(-30.0)), np.float32(30.0))
    return np.float32(1.0) / (np.float32(1.0) + np.exp(-odds))


@njit(cache=True, nogil=True, fastmath=True)
def _score(features, values, intercept, rows, score, hidden):  # type: ignore[no-untyped-def]
    width = rows.shape[1] - 1
    total, squared = np.empty(width, np.float32), np.empty(width, np.float32)
    for n in range(features.shape[0]):
        linear = intercept[0] + _sum_vectors(features[n], values[n], rows, total, squared)
        score[n] = _probability(linear, total, squared)
        for k in range(width):
            hidden[n, k] = np.float32(0.5) * (total[k] * total[k] - squared[k])


@njit(cache=True, nogil=True, fastmath=True)
def _learn(  # type: ignore[no-untyped-def]
    features, values, reward, weight, intercept, intercept_squares, rows, squares, dirty, step, factor_step, adaptive, l2,
):  # fmt: skip
    width, mask = rows.shape[1] - 1, rows.shape[0] - 1
    step, factor_step, l2 = np.float32(step), np.float32(factor_step), np.float32(l2)
    total, squared = np.empty(width, np.float32), np.empty(width, np.float32)
    for n in range(features.shape[0]):
        linear = intercept[0] + _sum_vectors(features[n], values[n], rows, total, squared)
        label = min(max(reward[n], np.float32(0.0)), np.float32(1.0))
        slope = (_probability(linear, total, squared) - label) * weight[n]
        if adaptive:
            intercept_squares[0] += slope * slope
            intercept[0] -= step * slope / np.sqrt(intercept_squares[0])
        else:
            intercept[0] -= step * slope
        for c in range(features.shape[1]):
            x = values[n, c]
            if x == 0.0:
                continue
            at = features[n, c] & mask
            row, square = rows[at], squares[at]
            dirty[at] = True
            gradient = slope * x
            if adaptive:
                square[0] += gradient * gradient
                row[0] -= step * gradient / np.sqrt(square[0])
                for k in range(width):
                    part = gradient * (total[k] - row[k + 1] * x) + l2 * row[k + 1]
                    square[k + 1] += part * part
                    row[k + 1] -= factor_step * part / np.sqrt(square[k + 1])
            else:
                row[0] -= step * min(max(gradient, -STEEPEST), STEEPEST)
                for k in range(width):
                    part = gradient * (total[k] - row[k + 1] * x) + l2 * row[k + 1]
                    row[k + 1] -= factor_step * min(max(part, -STEEPEST), STEEPEST)


@njit(cache=True, nogil=True, fastmath=True)
def _explain(features, values, rows, contributions):  # type: ignore[no-untyped-def]
    width, mask = rows.shape[1] - 1, rows.shape[0] - 1
    total, squared = np.empty(width, np.float32), np.empty(width, np.float32)
    for n in range(features.shape[0]):
        _sum_vectors(features[n], values[n], rows, total, squared)
        for c in range(features.shape[1]):
            x = values[n, c]
            row = rows[features[n, c] & mask]
            pairs = np.float32(0.0)
            for k in range(width):
                vx = row[k + 1] * x
                pairs += vx * (total[k] - vx)
            contributions[n, c] = row[0] * x + np.float32(0.5) * pairs
