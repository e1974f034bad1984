"""With all blocks, pooled vectors learn what vectors in a table learn; with fewer, only these."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learners.contract.small import SCHEMA
from learners.contract.worlds import cut, world
from learners.kernels.factorization import PRIOR
from learners.networks.field_embedding import FieldEmbedding, Fields
from learners.networks.sparse.embedding import PooledEmbedding
from memory.sparse.block_pool import BlockPool
from streams.batch import Feedback

FACTORS, BITS, RATES = 8, 12, (0.7, 0.35)
FIELDS = Fields.of(SCHEMA)
TABLE = FACTORS, BITS, *RATES, 0.1, 3


def pooled(share: float = 1.0, block: int = 1) -> PooledEmbedding:
    """An embedding whose users and items are in pools."""
    pools = {
        side: BlockPool(1 << BITS, FACTORS, share, block=block, learning_rate=RATES[1], accumulator=PRIOR, init=0.1, seed=seed)
        for side, seed in (("user", 1), ("item", 2))
    }
    made = PooledEmbedding(*TABLE, pools)
    made.bind(SCHEMA)
    return made


def same_start(feedback: Feedback, pools: PooledEmbedding) -> FieldEmbedding:
    """A table with the first values of the pools."""
    table = FieldEmbedding(*TABLE)
    for column, side in enumerate(("user", "item")):
        rows = feedback.features[:, column] & ((1 << BITS) - 1)
        table.rows["weights"][rows, 1:] = getattr(pools.pools, side).pool.gather(rows)
    return table


def learn(embedding: FieldEmbedding, rows: Feedback, gradient: np.ndarray, weight: float = 1.0) -> None:
    weights, others = np.full(rows.rows, weight, np.float32), np.zeros(rows.rows, np.float32)
    embedding.learn(rows, FIELDS, slice(None), rows.reward, weights, others, gradient.astype(np.float32))


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_with_all_blocks_of_one_number_it_learns_like_a_table(weight: float) -> None:
    pools, feedback, rng = pooled(), world(5), np.random.default_rng(0)
    table = same_start(feedback, pools)
    assert np.unique(feedback.features & ((1 << BITS) - 1)).size == np.unique(feedback.features).size, "no collisions"
    for n in range(4):
        rows = cut(feedback, 60 * n, 60 * n + 60)
        one, other = pools.read(rows, FIELDS), table.read(rows, FIELDS)
        np.testing.assert_allclose(one.odds, other.odds, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(one.fields, other.fields, rtol=1e-3, atol=1e-4)
        # With a weight, a table takes the network's gradient for that of one row: there, only the machine's is compared.
        gradient = (weight == 1.0) * rng.normal(size=one.fields.shape).astype(np.float32)
        learn(pools, rows, gradient, weight)
        learn(table, rows, gradient, weight)


def test_only_blocks_that_exist_are_read_and_learned() -> None:
    pools, feedback = pooled(0.5, block=2), world(5)
    read = pools.read(feedback, FIELDS).fields
    user, other = FIELDS.users[0], FIELDS.field[3]
    assert np.count_nonzero(read[:, user]) == feedback.rows * 2, "one of four blocks at first"
    assert np.count_nonzero(read[:, other]) == feedback.rows * FACTORS
    learn(pools, feedback, np.zeros_like(read))
    pool = pools.pools.user.pool  # type: ignore[attr-defined]
    assert len(pool) == pool.used == np.unique(feedback.user).size
    pools.prune_and_grow(0.5, 0.0, 1.0)
    assert pool.used == 2 * len(pool), "growth fills the budget"
    assert np.count_nonzero(pools.read(feedback, FIELDS).fields[:, user]) == feedback.rows * 2, "new blocks begin at zero"
    learn(pools, feedback, np.zeros_like(read))
    assert np.count_nonzero(pools.read(feedback, FIELDS).fields[:, user]) > feedback.rows * 2


def test_a_missing_column_is_refused_by_name() -> None:
    made = pooled()
    with pytest.raises(ValueError, match=r"item\.id: no such feature"):
        made.bind(replace(SCHEMA, features=SCHEMA.features[:1]))
