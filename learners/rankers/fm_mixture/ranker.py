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
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Ranker, WeightDelta
from learners.bounds import bounded, graded
from learners.kernels.crosses import live_crosses, new_crosses, no_crosses
from learners.kernels.factorization import FINITE, PRIOR
from learners.lookups import Catalogues, UserHistory
from learners.rankers.fm_mixture.models import State, explain_rows, learn_rows, score_rows
from learners.registry import register
from learners.schema import Schema
from learners.tunable import CROSSES, Scale, Tunable
from memory.arrays import Arrays
from streams.batch import Batch, Feedback, Floats

__all__ = ["FactorizationMachineMixture"]

_Rates = tuple[Annotated[float, Field(gt=0, le=10)], ...]


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
    crosses : tuple of str
        Pairs of columns that have a weight of their own in each model, such as ``"user.id * item.genres"``; as in `fm`.
    cross_scale : float
        Euclidean length of the vector of a row's pairs; as in `fm`.
    cross_bits : int
        Pairs are hashed to 2**cross_bits rows of weights. Memory is (8 * (M + L) + 1) * 2**cross_bits bytes if there are
        crosses.

    Raises
    ------
    ValueError
        When the machines' parameters differ in number. From `bind`, when there is no column of a name in `crosses`.

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
        "crosses": CROSSES,
        "cross_scale": Scale(0.1, 2.0, log=True),
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
        crosses: tuple[str, ...] = (),
        cross_scale: Annotated[float, Field(gt=0, le=10)] = 0.5,
        cross_bits: Annotated[int, Field(ge=1, le=28)] = 20,
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
        self._pairs, self._cross_scale, self.fixed_columns = crosses, cross_scale, bool(crosses)
        self.crosses = new_crosses(cross_bits, models) if crosses else None
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
        self._state = State(
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
            crosses=no_crosses(models),
        )

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Receive the columns; see `Learner.bind`."""
        if self.crosses is not None:
            self._state = self._state._replace(crosses=live_crosses(self.crosses, schema.pairs(self._pairs), self._cross_scale))

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``score`` and ``hidden``.

        The score is the probability of a positive reward, whose odds grow with rewards above 1; see `learners.bounds.graded`.
        The hidden vectors (N, M * k) are those of the machines, sum_{i<j} v_i x_i * v_j x_j, one machine after the other.
        """
        hidden = np.empty((batch.rows, self.hidden_width), np.float32)
        score_rows(batch.features, bounded(batch.values, FINITE), self._state, batch.score, hidden)
        batch.hidden = hidden

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows in order, with the labels and weights of `learners.bounds.graded`. A weight multiplies the loss."""
        label, weight, capped = graded(feedback.reward, feedback.weight)
        self._capped += capped
        learn_rows(feedback.features, bounded(feedback.values, FINITE), label, weight, self._state)
        if feedback.rows:
            self.intercepts.mark()
            self.mixing.mark()

    def explain(self, batch: Batch) -> Floats:
        """Return the contribution of each column to the log-odds, (N, F), mixed.

        It is the column's weight plus half of all its pairs and crosses.
        """
        contributions = np.empty(batch.features.shape, np.float32)
        explain_rows(batch.features, bounded(batch.values, FINITE), self._state, contributions)
        return contributions

    def metrics(self) -> Mapping[str, float]:
        """Return the mixing weights, and ``capped``, the rows whose weight was limited; see `learners.bounds.graded`.

        The weights are ``machine_0``, ``machine_1``, ... in the order of `learning_rates`, then ``linear_0``, ``linear_1``, ...
        """
        return {"capped": float(self._capped), **dict(zip(self._names, self.mixing["weights"].tolist(), strict=True))}
