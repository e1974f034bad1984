"""A field embedding in which the vectors of users, or of users and items, have only some of their blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from learners.bounds import bounded
from learners.kernels.factorization import FINITE, PRIOR
from learners.networks.field_embedding import Embedded, FieldEmbedding, Fields
from learners.networks.sparse.factorization import Beginning, Chains, Side, backward, forward, rows_of
from learners.schema import Schema
from memory.arrays import Arrays
from memory.sparse.block_pool import BlockPool
from memory.stateful import Stateful
from streams.batch import Batch, Floats

__all__ = ["PooledEmbedding"]


class PooledRows(Stateful):
    """A pool of blocks, and a linear weight for each of its rows.

    Parameters
    ----------
    pool : BlockPool
        Its number of rows is a power of two.
    """

    def __init__(self, pool: BlockPool) -> None:
        rows = pool.rows

        def first() -> dict[str, Floats]:
            return {"weight": np.zeros(rows, np.float32), "squares": np.full(rows, PRIOR, np.float32)}

        self.pool = pool
        self.linear = Arrays.from_factory(first, private=["squares"])


class Pools(Stateful):
    """One `PooledRows` for each side, ``user`` and ``item``, that has any."""

    def __init__(self, pools: Mapping[str, BlockPool]) -> None:
        for side, pool in pools.items():
            setattr(self, side, PooledRows(pool))


class PooledEmbedding(FieldEmbedding):
    """A `FieldEmbedding` that has the vectors of ids in pools. Its table has no rows for them.

    Parameters
    ----------
    pools : mapping of {"user", "item"} to BlockPool
        At least one.

    Other parameters are those of `FieldEmbedding`.
    """

    def __init__(
        self,
        factors: int,
        bits: int,
        learning_rate: float,
        factor_learning_rate: float,
        init: float,
        seed: int,
        pools: Mapping[str, BlockPool],
    ) -> None:
        super().__init__(factors, bits, learning_rate, factor_learning_rate, init, seed)
        self.pools = Pools(pools)
        self._sides = list(pools)
        parts: list[PooledRows] = [getattr(self.pools, side) for side in pools]
        self._parts = tuple(parts)
        self._sizes = np.array([part.pool.rows for part in parts])
        learned = [
            Side(
                part.pool.pool,
                part.pool.settings,
                part.linear["weight"],
                part.linear["squares"],
                part.linear.dirty,
                part.pool.evidence["sums"],
            )
            for part in parts
        ]
        self._first, self._second = learned[0], learned[-1]

    def bind(self, schema: Schema) -> None:
        """Find the columns of the ids.

        Raises
        ------
        ValueError
            If a column is missing.
        """
        names = [column.name for column in schema.features]
        for side in self._sides:
            if f"{side}.id" not in names:
                raise ValueError(
                    f'{side}.id: no such feature; add id = "category" to [features.{side}], or set its budget to 1'
                )
        ids = [f"{side}.id" for side in self._sides]
        self._pooled = np.array([ids.index(name) if name in ids else -1 for name in names], np.int64)
        self._columns = np.array([names.index(name) for name in ids], np.int64)
        # All arrays are the same objects for good, so that a request need not collect them.
        self._read = (
            self._pooled,
            self._columns,
            self._sizes,
            tuple(
                (
                    *(getattr(part.pool.pool, name) for name in Chains._fields),
                    *(getattr(part.pool.settings, name) for name in Beginning._fields),
                )
                for part in self._parts
            ),
            tuple(part.linear["weight"] for part in self._parts),
            self.intercept["weights"],
            self.rows["weights"],
            self.rows["scales"],
        )

    def read(self, batch: Batch, fields: Fields, rows: slice = slice(None)) -> Embedded:
        """Compute the log-odds and the fields' vectors of some rows."""
        keys, values = batch.features[rows], bounded(batch.values[rows], FINITE)
        odds = np.empty(len(keys), np.float32)
        vectors = np.empty((len(keys), fields.total, self._factors), np.float32)
        forward(keys, values, fields.field, *self._read, odds, vectors)
        return Embedded(odds, vectors)

    def learn(
        self, batch: Batch, fields: Fields, rows: slice, label: Floats, weight: Floats, others: Floats, gradient: Floats
    ) -> None:
        """Learn rows in order, see `FieldEmbedding.learn`."""
        keys, values = batch.features[rows], bounded(batch.values[rows], FINITE)
        at_pool = rows_of(keys, values, self._columns, self._sizes)
        slots, fresh = np.empty_like(at_pool), np.empty(at_pool.shape, np.bool_)
        for n, part in enumerate(self._parts):
            # Not that of the table, which resets fresh rows itself: numpy takes as long for that as the pass for everything.
            slots[n], fresh[n] = part.pool.evidence.index.insert(at_pool[n])
        backward(
            keys,
            values,
            fields.field,
            label,
            weight,
            others,
            gradient,
            self._pooled,
            self._first,
            self._second,
            at_pool,
            slots,
            fresh,
            self.intercept["weights"],
            self.intercept["squares"],
            self.rows["weights"],
            self.rows["scales"],
            self.rows["squares"],
            self.rows.dirty,
            *self._rates,
        )
        self.intercept.mark()

    def prune_and_grow(self, ratio: float, before: float, now: float) -> None:
        """Exchange the blocks of as many shards of each pool as the time from `before` to `now` has, if all of them take 1."""
        for part in self._parts:
            shards = part.pool.shards
            for _ in range(int(now * shards) - int(before * shards)):
                part.pool.prune_and_grow(ratio)

    def metrics(self) -> dict[str, float]:
        """Return, for each side, its rows, their blocks, rows that lost all blocks, and rows whose evidence was forgotten."""
        found: dict[str, float] = {}
        for side, part in zip(self._sides, self._parts, strict=True):
            pool = part.pool
            found |= {f"{side}_rows": len(pool), f"{side}_blocks": pool.used}
            found |= {f"{side}_evictions": pool.evictions, f"{side}_evidence_evictions": pool.evidence.evictions}
        return found
