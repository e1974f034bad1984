"""Mixture of factorization machines and linear models that learn at different speeds.

Which learning rate is best depends on the stream, and changes with it: a large one right after a change of taste, a small one
in quiet times. So several models learn every row, each from its own error, and their log-odds are averaged by weights that
follow what each is worth at the moment.

References
----------
`learners.rankers.fm` has the references of the machines.
J. Kivinen, M. Warmuth, "Exponentiated Gradient versus Gradient Descent for Linear Predictors", Information and Computation
1997: the update of the mixing weights, here for the logistic loss.
M. Herbster, M. Warmuth, "Tracking the Best Expert", Machine Learning 1998: a small share of the weights is given back to all
models with each row (fixed share), so that a model that was bad can return at once.
C. Mattern, "Mixing Strategies in Data Compression", DCC 2012: averages of log-odds, with weights learned by gradient descent.
N. Cesa-Bianchi, G. Lugosi, "Prediction, Learning, and Games", Cambridge University Press 2006: both, and their regret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from learners.base import Ranker, WeightDelta
from learners.bounds import bounded, graded
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
from learners.registry import register
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from memory.jit import njit
from streams.batch import Batch, Feedback, Floats

__all__ = ["FactorizationMachineMixture"]

_Rates = tuple[Annotated[float, Field(gt=0, le=10)], ...]

_STEP = 1.0
"""Limit of what one row changes in the logarithm of a mixing weight."""


@register("fm_mixture")
class FactorizationMachineMixture(Ranker):
    """Log-odds = sum_m a_m z_m, with the log-odds z_m of M factorization machines and L linear models, and weights a_m.

    The models share the features and their normalisation, and each of them learns as `fm` does, from its own error (a linear
    model: without vectors). The mixing weights are positive and sum to 1. They learn by exponentiated gradient:
    a_m is multiplied by exp(-`mixing_rate` * (p - label) * (z_m - z)). Then all models get `mixing_share` / (M + L) of the sum.

    Rows are learned one after the other, so the result does not depend on the micro-batch size.

    Parameters
    ----------
    factors : int
        Length k of the vectors of each machine.
    bits : int
        Features are hashed to 2**bits rows of weights. Memory is 4 * (M * (factors + 3) + 2 * L + 1) * 2**bits bytes.
    learning_rates, factor_learning_rates : tuple of float
        Learning rates of the weights and of the vectors of each of the M machines (AdaGrad).
    keep : tuple of float
        Share of its sums of squared gradients that a machine keeps with each touch of a feature. With 1, learning rates fall
        as in AdaGrad. Below 1 they stay large: such a machine forgets, and follows changes. Intercepts do not forget, because
        every row touches them.
    linear_learning_rates : tuple of float
        Learning rates of the L linear models. They know no pairs, and so they need fewer rows.
    mixing_rate : float
        Learning rate of the mixing weights.
    mixing_share : float
        Share of the mixing weights that is divided evenly among all models with each row.
    l2 : float
        Weight decay of the vectors, applied to the vectors of each learned row.
    init : float
        Standard deviation of the initial vectors.
    seed : int
        Seed of the initial vectors.

    Raises
    ------
    ValueError
        When the machines' parameters differ in number.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {"bits": 12}
    learns_hidden: ClassVar[bool] = False
    tunable: ClassVar[Tunable] = {
        "factors": Scale(4, 64, log=True),
        "learning_rates": Scale(0.1, 3.5, log=True, times=True),
        "factor_learning_rates": Scale(0.1, 3.5, log=True, times=True),
        "linear_learning_rates": Scale(0.1, 3.5, log=True, times=True),
        "mixing_rate": Scale(0.01, 1.0, log=True),
    }

    def __init__(
        self,
        factors: Annotated[int, Field(gt=0, le=256)] = 24,
        bits: Annotated[int, Field(ge=1, le=28)] = 18,
        learning_rates: Annotated[_Rates, Field(min_length=1, max_length=8)] = (0.7, 2.8, 0.35),
        factor_learning_rates: Annotated[_Rates, Field(min_length=1, max_length=8)] = (0.35, 1.4, 0.175),
        keep: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (1.0, 1.0, 0.997),
        linear_learning_rates: Annotated[_Rates, Field(max_length=8)] = (0.35, 1.4),
        mixing_rate: Annotated[float, Field(ge=0, le=10)] = 0.1,
        mixing_share: Annotated[float, Field(ge=0, le=1)] = 3e-5,
        l2: Annotated[float, Field(ge=0)] = 0.0,
        init: Annotated[float, Field(ge=0, le=1)] = 0.1,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        machines, lines, rows = len(learning_rates), len(linear_learning_rates), 1 << bits
        if not machines == len(factor_learning_rates) == len(keep):
            raise ValueError(
                f"learning_rates: {machines} of them, {len(factor_learning_rates)} factor_learning_rates and {len(keep)} keep; "
                "give one of each for every machine"
            )
        models = machines + lines
        self._names = [f"machine_{m}" for m in range(machines)] + [f"linear_{m}" for m in range(lines)]
        self._capped = 0
        self.hidden_width = machines * factors

        def first() -> dict[str, Floats]:
            vectors = np.random.default_rng(seed).normal(0.0, init, (rows, machines, factors)).astype(np.float32)
            return {
                "weights": np.concatenate([np.zeros((rows, machines, 1), np.float32), vectors], 2),
                "linear": np.zeros((rows, lines), np.float32),
                "scales": np.zeros(rows, np.float32),
                "squares": np.full((rows, machines, 2), PRIOR, np.float32),
                "linear_squares": np.full((rows, lines), PRIOR, np.float32),
            }

        self.rows = Arrays.from_factory(first, private=["squares", "linear_squares"])
        squares = np.full(models, PRIOR, np.float32)
        self.intercepts = Arrays(weights=np.zeros(models, np.float32), squares=squares, private=["squares"])
        self.mixing = Arrays(weights=np.full(models, 1.0 / models))
        self._state = _State(
            weights=self.rows["weights"].reshape(rows * machines, factors + 1),
            linear=self.rows["linear"],
            scales=self.rows["scales"],
            squares=self.rows["squares"].reshape(rows * machines, 2),
            linear_squares=self.rows["linear_squares"],
            dirty=self.rows.dirty,
            intercepts=self.intercepts["weights"],
            intercept_squares=self.intercepts["squares"],
            mixing=self.mixing["weights"],
            rates=np.array([learning_rates, factor_learning_rates, keep], np.float32),
            linear_rates=np.array(linear_learning_rates, np.float32),
            l2=np.float32(l2),
            mixing_rate=mixing_rate,
            mixing_share=mixing_share,
        )

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``score`` and ``hidden``.

        The score is the probability of a positive reward, whose odds grow with rewards above 1; see `learners.bounds.graded`.
        The hidden vectors (N, M * k) are those of the machines, sum_{i<j} v_i x_i * v_j x_j, one machine after the other.
        """
        hidden = np.empty((batch.rows, self.hidden_width), np.float32)
        _score(batch.features, bounded(batch.values, FINITE), self._state, batch.score, hidden)
        batch.hidden = hidden

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows in order, with the labels and weights of `learners.bounds.graded`. A weight multiplies the loss."""
        label, weight, capped = graded(feedback.reward, feedback.weight)
        self._capped += capped
        _learn(feedback.features, bounded(feedback.values, FINITE), label, weight, self._state)
        if feedback.rows:
            self.intercepts.mark()
            self.mixing.mark()

    def explain(self, batch: Batch) -> Floats:
        """Return the contribution of each column to the log-odds, (N, F): its weight plus half of all its pairs, mixed."""
        contributions = np.empty(batch.features.shape, np.float32)
        _explain(batch.features, bounded(batch.values, FINITE), self._state, contributions)
        return contributions

    def metrics(self) -> Mapping[str, float]:
        """Return the mixing weights, and ``capped``, the rows whose weight was limited; see `learners.bounds.graded`.

        The weights are ``machine_0``, ``machine_1``, ... in the order of `learning_rates`, then ``linear_0``, ``linear_1``, ...
        """
        return {"capped": float(self._capped), **dict(zip(self._names, self.mixing["weights"].tolist(), strict=True))}


class _State(NamedTuple):
    """Arrays of the stores, and parameters. A feature's machines follow each other in `weights` and `squares`."""

    weights: Floats
    linear: Floats
    scales: Floats
    squares: Floats
    linear_squares: Floats
    dirty: npt.NDArray[np.bool_]
    intercepts: Floats
    intercept_squares: Floats
    mixing: npt.NDArray[np.float64]
    rates: Floats
    linear_rates: Floats
    l2: np.float32
    mixing_rate: float
    mixing_share: float


@njit(cache=True, nogil=True, fastmath=True)
def _odds(keys, x, mask, weights, linear, intercepts, totals, squared, odds):  # type: ignore[no-untyped-def]
    """Fill `odds` (M + L,) with the log-odds of the models, and `totals` and `squared` (M, k); see `sum_vectors`."""
    machines, lines = totals.shape[0], linear.shape[1]
    for m in range(machines):
        part = intercepts[m] + sum_vectors(keys, x, mask, machines, m, weights, totals[m], squared[m])
        odds[m] = log_odds(part, totals[m], squared[m])
    for line in range(lines):
        part = intercepts[machines + line]
        for c in range(keys.size):
            part += linear[keys[c] & mask, line] * x[c]
        odds[machines + line] = min(max(part, np.float32(-30.0)), np.float32(30.0))


@njit(cache=True, nogil=True, fastmath=True)
def _mixed(odds, mixing):  # type: ignore[no-untyped-def]
    mixed = 0.0
    for m in range(odds.size):
        mixed += mixing[m] * odds[m]
    return np.float32(mixed)


@njit(cache=True, nogil=True, fastmath=True)
def _score(features, values, state, score, hidden):  # type: ignore[no-untyped-def]
    weights, linear, scales, intercepts, mixing = state.weights, state.linear, state.scales, state.intercepts, state.mixing
    machines, factors, mask = state.rates.shape[1], weights.shape[1] - 1, scales.size - 1
    totals, squared = np.empty((machines, factors), np.float32), np.empty((machines, factors), np.float32)
    x, odds = np.empty(features.shape[1], np.float32), np.empty(mixing.size, np.float32)
    for n in range(features.shape[0]):
        normalize(features[n], values[n], scales, x)
        _odds(features[n], x, mask, weights, linear, intercepts, totals, squared, odds)
        score[n] = probability(_mixed(odds, mixing))
        for m in range(machines):
            for k in range(factors):
                hidden[n, m * factors + k] = np.float32(0.5) * (totals[m, k] * totals[m, k] - squared[m, k])


@njit(cache=True, nogil=True, fastmath=True)
def _learn(features, values, label, weight, state):  # type: ignore[no-untyped-def]
    weights, squares, linear, linear_squares = state.weights, state.squares, state.linear, state.linear_squares
    intercepts, intercept_squares, scales, dirty = state.intercepts, state.intercept_squares, state.scales, state.dirty
    rates, linear_rates, mixing, l2 = state.rates, state.linear_rates, state.mixing, state.l2
    columns, machines, factors, mask = features.shape[1], rates.shape[1], weights.shape[1] - 1, scales.size - 1
    totals, squared = np.empty((machines, factors), np.float32), np.empty((machines, factors), np.float32)
    x, lengths = np.empty(columns, np.float32), np.empty(columns, np.float32)
    odds, misses = np.empty(mixing.size, np.float32), np.empty(mixing.size, np.float32)
    for n in range(features.shape[0]):
        keys = features[n]
        raise_scales(keys, values[n], scales)
        normalize(keys, values[n], scales, x)
        _odds(keys, x, mask, weights, linear, intercepts, totals, squared, odds)
        for m in range(odds.size):
            misses[m] = probability(odds[m]) - label[n]
        for m in range(machines):
            slope_lengths(keys, x, mask, machines, m, weights, totals[m], lengths)
            _learn_machine(
                keys,
                x,
                mask,
                m,
                misses[m],
                weight[n],
                intercepts,
                intercept_squares,
                weights,
                squares,
                rates,
                l2,
                totals[m],
                lengths,
            )
        _learn_linear(
            keys, x, mask, machines, misses, weight[n], intercepts, intercept_squares, linear, linear_squares, linear_rates
        )
        for c in range(columns):
            if x[c] != 0.0:
                dirty[keys[c] & mask] = True
        _learn_mixing(odds, label[n], weight[n], mixing, state.mixing_rate, state.mixing_share)


@njit(cache=True, nogil=True, fastmath=True)
def _learn_machine(  # type: ignore[no-untyped-def]
    keys, x, mask, m, miss, weight, intercepts, intercept_squares, weights, squares, rates, l2, total, lengths,
):  # fmt: skip
    """Update machine `m` by one row; like `learners.rankers.fm`, with sums that may forget."""
    machines, rate_w, rate_v, keep = rates.shape[1], rates[0, m], rates[1, m], rates[2, m]
    one, quarter, share = np.float32(1.0), np.float32(0.25), np.float32(1.0 / total.size)
    speed = rate_w / np.sqrt(intercept_squares[m])
    for c in range(keys.size):
        if x[c] != 0.0:
            at = (keys[c] & mask) * machines + m
            speed += rate_w * x[c] * x[c] / np.sqrt(squares[at, 0]) + rate_v * lengths[c] / np.sqrt(squares[at, 1])
    slope = miss * weight / (one + quarter * weight * speed)
    # The sums fall to their initial value, not to 0: no learning rate is larger than in the beginning.
    seen, regained = miss * miss * weight, (one - keep) * np.float32(PRIOR)
    intercept_squares[m] += seen
    intercepts[m] -= rate_w * slope / np.sqrt(intercept_squares[m])
    for c in range(keys.size):
        if x[c] == 0.0:
            continue
        at = (keys[c] & mask) * machines + m
        squares[at, 0] = keep * squares[at, 0] + regained + seen * x[c] * x[c]
        squares[at, 1] = keep * squares[at, 1] + regained + seen * lengths[c] * share
        weights[at, 0] -= rate_w * slope * x[c] / np.sqrt(squares[at, 0])
        rate = rate_v / np.sqrt(squares[at, 1])
        decay = one / (one + rate * l2)
        pull = decay * rate * slope * x[c]
        kept = decay + pull * x[c]
        for k in range(total.size):
            weights[at, k + 1] = kept * weights[at, k + 1] - pull * total[k]


@njit(cache=True, nogil=True, fastmath=True)
def _learn_linear(  # type: ignore[no-untyped-def]
    keys, x, mask, machines, misses, weight, intercepts, intercept_squares, linear, squares, rates,
):  # fmt: skip
    """Update the linear models by one row: like machines without vectors, whose sums do not forget."""
    one, quarter = np.float32(1.0), np.float32(0.25)
    for line in range(rates.size):
        m, rate = machines + line, rates[line]
        miss = misses[m]
        speed = rate / np.sqrt(intercept_squares[m])
        for c in range(keys.size):
            if x[c] != 0.0:
                speed += rate * x[c] * x[c] / np.sqrt(squares[keys[c] & mask, line])
        slope = miss * weight / (one + quarter * weight * speed)
        seen = miss * miss * weight
        intercept_squares[m] += seen
        intercepts[m] -= rate * slope / np.sqrt(intercept_squares[m])
        for c in range(keys.size):
            if x[c] != 0.0:
                at = keys[c] & mask
                squares[at, line] += seen * x[c] * x[c]
                linear[at, line] -= rate * slope * x[c] / np.sqrt(squares[at, line])


@njit(cache=True, nogil=True, fastmath=True)
def _learn_mixing(odds, label, weight, mixing, rate, share):  # type: ignore[no-untyped-def]
    """Exponentiated gradient on the log loss of the mixture, then fixed share."""
    mixed = _mixed(odds, mixing)
    slope = rate * weight * (probability(mixed) - label)
    total = 0.0
    for m in range(odds.size):
        mixing[m] *= np.exp(min(max(-slope * (odds[m] - mixed), -_STEP), _STEP))
        total += mixing[m]
    kept, given = (1.0 - share) / total, share / odds.size
    for m in range(odds.size):
        mixing[m] = kept * mixing[m] + given


@njit(cache=True, nogil=True, fastmath=True)
def _explain(features, values, state, contributions):  # type: ignore[no-untyped-def]
    weights, linear, mixing = state.weights, state.linear, state.mixing
    machines, mask, factors = state.rates.shape[1], state.scales.size - 1, weights.shape[1] - 1
    totals, squared = np.empty((machines, factors), np.float32), np.empty((machines, factors), np.float32)
    x, odds = np.empty(features.shape[1], np.float32), np.empty(mixing.size, np.float32)
    for n in range(features.shape[0]):
        keys = features[n]
        normalize(keys, values[n], state.scales, x)
        _odds(keys, x, mask, weights, linear, state.intercepts, totals, squared, odds)
        for c in range(keys.size):
            at, mixed = keys[c] & mask, 0.0
            for m in range(machines):
                mixed += mixing[m] * contribution(weights[at * machines + m], x[c], totals[m])
            for m in range(machines, odds.size):
                mixed += mixing[m] * linear[at, m - machines] * x[c]
            contributions[n, c] = mixed
