"""Factorization machine over all feature columns. It learns one row at a time, in one compiled call per micro-batch.

References
----------
S. Rendle, "Factorization Machines", ICDM 2010: the model (equation 1) and its computation in linear time (lemma 3.1).
S. Ross, P. Mineiro, J. Langford, "Normalized Online Learning", UAI 2013: values divided by the largest one seen for their key.
Y. Juan, Y. Zhuang, W.-S. Chin, C.-J. Lin, "Field-aware Factorization Machines for CTR Prediction", RecSys 2016: rows of unit
length (section 3.2).
J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011:
learning rates that shrink with the gradients seen (AdaGrad).
D. Mudigere et al., "Software-Hardware Co-design for Fast and Scalable Training of Deep Learning Recommendation Models",
ISCA 2022: AdaGrad with one sum per vector (row-wise).
B. Kulis, P. Bartlett, "Implicit Online Learning", ICML 2010: steps that do not overshoot.
D. Bohning, B. Lindsay, "Monotonicity of Quadratic-Approximation Algorithms", Annals of the Institute of Statistical
Mathematics 1988: 1/4 bounds the curvature of the logistic loss.
`learners.kernels.crosses` has the references of crosses.
K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009: weights by hashed feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Ranker, WeightDelta
from learners.bounds import bounded, graded
from learners.kernels.crosses import (
    Crosses,
    add_shares,
    find_pairs,
    learn_pairs,
    live_crosses,
    new_crosses,
    no_crosses,
    pair_speeds,
)
from learners.kernels.factorization import (
    FINITE,
    PRIOR,
    contribution,
    log_odds,
    normalize,
    probability,
    raise_scales,
    slope_lengths,
    sum_vectors,
)
from learners.lookups import Catalogues, UserHistory
from learners.registry import register
from learners.schema import Schema
from learners.tunable import CROSSES, Scale, Tunable
from memory.arrays import Arrays
from memory.jit import njit
from streams.batch import Batch, Feedback, Floats

__all__ = ["FactorizationMachine"]


@register("fm")
class FactorizationMachine(Ranker):
    """Logistic factorization machine: log-odds = w0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j.

    The values of a row are normalised in two steps. Each value is divided by the largest magnitude seen for its key. Then the
    row is divided by its Euclidean length. So the update depends neither on the unit of a number nor on the number of columns.
    One row can at most double the magnitude of a key, and larger values count as 1, so one wrong value does little harm.

    The gradient of a row's log loss is divided by 1 + S / 4, where S is the change of the log-odds by a gradient of 1. So an
    update never overshoots, even with large learning rates.

    Rows are learned one after the other, so the result does not depend on the micro-batch size.

    Parameters
    ----------
    factors : int
        Length k of each feature's vector v.
    bits : int
        Features are hashed to 2**bits rows of weights. Memory is 4 * (factors + 4) * 2**bits bytes.
    learning_rate : float
        Learning rate of the weights w and w0 (AdaGrad). Larger adapts faster, smaller is more stable.
    factor_learning_rate : float
        Learning rate of the vectors v (AdaGrad, with one sum of squares per vector).
    l2 : float
        Weight decay of the vectors v, applied to the vectors of each learned row.
    init : float
        Standard deviation of the initial vectors v.
    seed : int
        Seed of the initial vectors.
    crosses : tuple of str
        Pairs of columns that have a weight of their own, such as ``"user.id * item.genres"``. ``user``, ``item`` and
        ``context`` stand for all columns of the side but its numbers: ``"user * item"``. Their weights learn at
        `learning_rate`.
    cross_scale : float
        Euclidean length of the vector of a row's pairs. Smaller learns them more slowly, which is better if they come back
        seldom.
    cross_bits : int
        Pairs are hashed to 2**cross_bits rows of weights. Memory is 9 * 2**cross_bits bytes if there are crosses.

    Raises
    ------
    ValueError
        From `bind`, when there is no column of a name in `crosses`.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {"bits": 12}
    learns_hidden: ClassVar[bool] = False
    state_version: ClassVar[int | str] = 3
    """Version 1 had one sum of squares per weight, and no scales. Version 2 clipped rewards."""
    tunable: ClassVar[Tunable] = {
        "factors": Scale(4, 64, log=True),
        "learning_rate": Scale(0.05, 5.0, log=True),
        "factor_learning_rate": Scale(0.02, 3.0, log=True),
        "init": Scale(0.01, 0.5, log=True),
        "crosses": CROSSES,
        "cross_scale": Scale(0.1, 2.0, log=True),
    }

    def __init__(
        self,
        factors: Annotated[int, Field(gt=0, le=1024)] = 32,
        bits: Annotated[int, Field(ge=1, le=28)] = 18,
        learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.7,
        factor_learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.35,
        l2: Annotated[float, Field(ge=0)] = 0.0,
        init: Annotated[float, Field(ge=0, le=1)] = 0.1,
        seed: Annotated[int, Field(ge=0)] = 0,
        crosses: tuple[str, ...] = (),
        cross_scale: Annotated[float, Field(gt=0, le=10)] = 0.5,
        cross_bits: Annotated[int, Field(ge=1, le=28)] = 20,
    ) -> None:
        self.learning_rate, self.factor_learning_rate, self.l2 = learning_rate, factor_learning_rate, l2
        self.hidden_width = factors

        def first() -> dict[str, Floats]:
            weights = np.zeros((1 << bits, factors + 1), np.float32)
            weights[:, 1:] = np.random.default_rng(seed).normal(0.0, init, (1 << bits, factors))
            return {
                "weights": weights,
                "scales": np.zeros(1 << bits, np.float32),
                "squares": np.full((1 << bits, 2), PRIOR, np.float32),
            }

        self._capped = 0
        self._pairs, self._cross_scale, self.fixed_columns = crosses, cross_scale, bool(crosses)
        self.crosses = new_crosses(cross_bits, 1) if crosses else None
        self._crosses = no_crosses(1)
        self.rows = Arrays.from_factory(first, private=["squares"])
        self.intercept = Arrays(weights=np.zeros(1, np.float32), squares=np.full(1, PRIOR, np.float32), private=["squares"])

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Receive the columns; see `Learner.bind`."""
        if self.crosses is not None:
            self._crosses = live_crosses(self.crosses, schema.pairs(self._pairs), self._cross_scale)

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``score`` and ``hidden``.

        The score is the probability of a positive reward, whose odds grow with rewards above 1; see `learners.bounds.graded`.
        The hidden vectors (N, k) are sum_{i<j} v_i x_i * v_j x_j. Crosses have no part in them.
        """
        hidden = np.empty((batch.rows, self.hidden_width), np.float32)
        rows, values = self.rows, bounded(batch.values, FINITE)
        _score(
            batch.features,
            values,
            self.intercept["weights"],
            rows["weights"],
            rows["scales"],
            *self._crosses,
            batch.score,
            hidden,
        )
        batch.hidden = hidden

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows in order, with the labels and weights of `learners.bounds.graded`. A weight multiplies the loss."""
        label, weight, capped = graded(feedback.reward, feedback.weight)
        self._capped += capped
        _learn(
            feedback.features,
            bounded(feedback.values, FINITE),
            label,
            weight,
            self.intercept["weights"],
            self.intercept["squares"],
            self.rows["weights"],
            self.rows["scales"],
            self.rows["squares"],
            self.rows.dirty,
            self.learning_rate,
            self.factor_learning_rate,
            self.l2,
            *self._crosses,
        )
        if feedback.rows:
            self.intercept.mark()

    def explain(self, batch: Batch) -> Floats:
        """Return the contribution of each column to the log-odds, (N, F): its weight plus half of all its pairs and crosses."""
        contributions = np.empty(batch.features.shape, np.float32)
        values = bounded(batch.values, FINITE)
        _explain(batch.features, values, self.rows["weights"], self.rows["scales"], *self._crosses, contributions)
        return contributions

    def metrics(self) -> Mapping[str, float]:
        """Return ``capped``, the rows whose weight was limited; see `learners.bounds.graded`."""
        return {"capped": float(self._capped)}


@njit(cache=True, nogil=True, fastmath=True)
def _score(  # type: ignore[no-untyped-def]
    features, values, intercept, weights, scales, pairs, cross_weights, cross_squares, cross_dirty, cross_scale, score, hidden,
):  # fmt: skip
    crosses = Crosses(pairs, cross_weights, cross_squares, cross_dirty, cross_scale)
    width, mask = weights.shape[1] - 1, weights.shape[0] - 1
    total, squared, x = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(features.shape[1], np.float32)
    at, z, crossed = np.empty(pairs.shape[0], np.int64), np.empty(pairs.shape[0], np.float32), np.zeros(1, np.float32)
    for n in range(features.shape[0]):
        keys = features[n]
        normalize(keys, values[n], scales, x)
        linear = intercept[0] + sum_vectors(keys, x, mask, 1, 0, weights, total, squared)
        if at.size:
            find_pairs(keys, x, crosses, at, z, crossed)
            linear += crossed[0]
        score[n] = probability(log_odds(linear, total, squared))
        for k in range(width):
            hidden[n, k] = np.float32(0.5) * (total[k] * total[k] - squared[k])


@njit(cache=True, nogil=True, fastmath=True)
def _learn(  # type: ignore[no-untyped-def]
    features, values, label, weight, intercept, intercept_squares, rows, scales, squares, dirty, rate_w, rate_v, l2,
    pairs, cross_weights, cross_squares, cross_dirty, cross_scale,
):  # fmt: skip
    crosses = Crosses(pairs, cross_weights, cross_squares, cross_dirty, cross_scale)
    width, mask, columns = rows.shape[1] - 1, rows.shape[0] - 1, features.shape[1]
    rate_w, rate_v, l2 = np.float32(rate_w), np.float32(rate_v), np.float32(l2)
    one, quarter, share = np.float32(1.0), np.float32(0.25), np.float32(1.0 / width)
    total, squared = np.empty(width, np.float32), np.empty(width, np.float32)
    x, lengths = np.empty(columns, np.float32), np.empty(columns, np.float32)
    speeds, slopes, sums = np.empty(1, np.float32), np.empty(1, np.float32), np.empty(1, np.float32)
    rates, keep = np.full(1, rate_w), np.ones(1, np.float32)
    at, z, crossed = np.empty(pairs.shape[0], np.int64), np.empty(pairs.shape[0], np.float32), np.zeros(1, np.float32)
    for n in range(features.shape[0]):
        keys = features[n]
        raise_scales(keys, values[n], scales)
        normalize(keys, values[n], scales, x)
        linear = intercept[0] + sum_vectors(keys, x, mask, 1, 0, rows, total, squared)
        if at.size:
            find_pairs(keys, x, crosses, at, z, crossed)
            linear += crossed[0]
        miss = probability(log_odds(linear, total, squared)) - label[n]
        slope_lengths(keys, x, mask, 1, 0, rows, total, lengths)
        speed = rate_w / np.sqrt(intercept_squares[0])
        if at.size:
            pair_speeds(at, z, crosses, rates, speeds)
            speed += speeds[0]
        for c in range(columns):
            if x[c] != 0.0:
                row = keys[c] & mask
                speed += rate_w * x[c] * x[c] / np.sqrt(squares[row, 0]) + rate_v * lengths[c] / np.sqrt(squares[row, 1])
        slope = miss * weight[n] / (one + quarter * weight[n] * speed)
        seen = miss * miss * weight[n]
        intercept_squares[0] += seen
        intercept[0] -= rate_w * slope / np.sqrt(intercept_squares[0])
        if at.size:
            slopes[0], sums[0] = slope, seen
            learn_pairs(at, z, crosses, slopes, sums, rates, keep)
        for c in range(columns):
            if x[c] == 0.0:
                continue
            row = keys[c] & mask
            dirty[row] = True
            squares[row, 0] += seen * x[c] * x[c]
            squares[row, 1] += seen * lengths[c] * share
            rows[row, 0] -= rate_w * slope * x[c] / np.sqrt(squares[row, 0])
            rate = rate_v / np.sqrt(squares[row, 1])
            decay = one / (one + rate * l2)
            pull = decay * rate * slope * x[c]
            kept = decay + pull * x[c]
            for k in range(width):
                rows[row, k + 1] = kept * rows[row, k + 1] - pull * total[k]


@njit(cache=True, nogil=True, fastmath=True)
def _explain(  # type: ignore[no-untyped-def]
    features, values, weights, scales, pairs, cross_weights, cross_squares, cross_dirty, cross_scale, contributions,
):  # fmt: skip
    crosses = Crosses(pairs, cross_weights, cross_squares, cross_dirty, cross_scale)
    width, mask = weights.shape[1] - 1, weights.shape[0] - 1
    total, squared, x = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(features.shape[1], np.float32)
    at, z, crossed = np.empty(pairs.shape[0], np.int64), np.empty(pairs.shape[0], np.float32), np.zeros(1, np.float32)
    for n in range(features.shape[0]):
        keys = features[n]
        normalize(keys, values[n], scales, x)
        sum_vectors(keys, x, mask, 1, 0, weights, total, squared)
        for c in range(keys.size):
            contributions[n, c] = contribution(weights[keys[c] & mask], x[c], total)
        find_pairs(keys, x, crosses, at, z, crossed)
        add_shares(at, z, crosses, np.ones(1), contributions[n])
