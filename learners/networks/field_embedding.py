"""Hashed vectors of feature columns: a factorization machine, and the input of a network."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np

from learners.bounds import bounded
from learners.kernels.factorization import FINITE, PRIOR
from learners.networks.factorization import backward, forward
from learners.schema import Schema
from memory.arrays import Arrays
from memory.stateful import Stateful
from streams.batch import Batch, Floats, Ids

__all__ = ["Embedded", "FieldEmbedding", "Fields"]

LARGEST_NUMBER = 5.0
"""Magnitude to which numbers are clipped for a network. They are standardised before."""


class Fields(NamedTuple):
    """Which columns of a batch a network reads, and how.

    Attributes
    ----------
    field : (F,) int64
        Field of each column, whose vectors are added up; -1 for numbers, which have no vector in a network.
    total : int
        Number of fields.
    numbers : (D,) int64
        Columns whose values a network reads as they are.
    users, items : (U,) int64, (V,) int64
        Fields of the user, and of the item.
    """

    field: Ids
    total: int
    numbers: Ids
    users: Ids
    items: Ids

    @classmethod
    def of(cls, schema: Schema) -> Fields:
        """Return the fields of a schema. Columns of equal names are one field.

        Raises
        ------
        ValueError
            If all columns are numbers.
        """
        is_number = np.array([column.type == "number" for column in schema.features], np.bool_)
        names = list(dict.fromkeys(column.name for column in schema.features if column.type != "number"))
        field = [-1 if column.type == "number" else names.index(column.name) for column in schema.features]
        if not names:
            raise ValueError(f"features: {len(schema.features)} numbers and nothing else; a network needs an id or a category")
        sides = {column.name: column.side for column in schema.features}
        users, items = (
            np.array([n for n, name in enumerate(names) if sides[name] == side], np.int64) for side in ("user", "item")
        )
        return cls(np.array(field, np.int64), len(names), np.flatnonzero(is_number), users, items)


class Embedded(NamedTuple):
    """What `FieldEmbedding.read` returns of n rows.

    Attributes
    ----------
    odds : (n,) float32
        Log-odds of the factorization machine.
    fields : (n, fields, k) float32
        Vector of each field.
    """

    odds: Floats
    fields: Floats


class FieldEmbedding(Stateful):
    """A factorization machine that hands its vectors to a network, and learns with the network's gradients of them.

    Parameters
    ----------
    factors : int
        Length k of each vector.
    bits : int
        Features are hashed to 2**bits rows of weights. Memory is 8 * (factors + 2) * 2**bits bytes.
    learning_rate, factor_learning_rate : float
        Learning rates of the weights and of the vectors (AdaGrad).
    init : float
        Standard deviation of the initial vectors.
    seed : int
        Seed of the initial vectors.
    """

    state_version: ClassVar[int | str] = 1

    def __init__(
        self, factors: int, bits: int, learning_rate: float, factor_learning_rate: float, init: float, seed: int
    ) -> None:
        self._factors, self._rates = factors, (learning_rate, factor_learning_rate)

        def first() -> dict[str, Floats]:
            weights = np.zeros((1 << bits, factors + 1), np.float32)
            weights[:, 1:] = np.random.default_rng(seed).normal(0.0, init, (1 << bits, factors))
            return {
                "weights": weights,
                "scales": np.zeros(1 << bits, np.float32),
                "squares": np.full((1 << bits, factors + 1), PRIOR, np.float32),
            }

        self.rows = Arrays.from_factory(first, private=["squares"])
        self.intercept = Arrays(weights=np.zeros(1, np.float32), squares=np.full(1, PRIOR, np.float32), private=["squares"])

    def read(self, batch: Batch, fields: Fields, rows: slice = slice(None)) -> Embedded:
        """Compute the log-odds and the fields' vectors of some rows."""
        keys, values = batch.features[rows], bounded(batch.values[rows], FINITE)
        odds = np.empty(len(keys), np.float32)
        vectors = np.empty((len(keys), fields.total, self._factors), np.float32)
        weights = self.intercept["weights"], self.rows["weights"], self.rows["scales"]
        forward(keys, values, fields.field, *weights, odds, vectors)
        return Embedded(odds, vectors)

    def learn(
        self, batch: Batch, fields: Fields, rows: slice, label: Floats, weight: Floats, others: Floats, gradient: Floats
    ) -> None:
        """Learn rows in order.

        Parameters
        ----------
        batch : Batch
        fields : Fields
        rows : slice
            The n rows of the batch to learn.
        label, weight : (n,) float32
            As `learners.bounds.graded` returns them.
        others : (n,) float32
            Part of the log-odds that the network adds.
        gradient : (n, fields, k) float32
            Gradient of the rows' summed loss by the fields' vectors, through the network only.
        """
        backward(
            batch.features[rows],
            bounded(batch.values[rows], FINITE),
            fields.field,
            label,
            weight,
            others,
            gradient,
            self.intercept["weights"],
            self.intercept["squares"],
            self.rows["weights"],
            self.rows["scales"],
            self.rows["squares"],
            self.rows.dirty,
            *self._rates,
        )
        self.intercept.mark()
