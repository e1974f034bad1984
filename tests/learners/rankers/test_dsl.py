"""DSL: the deep ranker where it has all blocks, a constant budget where it has not, and no table of users anywhere."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch

from learners.base import Ranker
from learners.contract.small import bind_to_world
from learners.contract.worlds import batch_of, cut, world
from learners.rankers.deep import Deep
from learners.rankers.dsl import SHARDS, DynamicSparse
from memory.sparse.block_pool import BlockPool
from memory.stateful import digest
from streams.batch import Feedback

SIZES: dict[str, Any] = {"factors": 16, "hidden": 16, "bits": 8}


def make(**options: Any) -> DynamicSparse:
    defaults = {"user_bits": 12, "item_bits": 12, "exchange_every": 80, "period": 500, "first_ratio": 0.3, "ratio": 0.1}
    return bind_to_world(DynamicSparse(**(SIZES | defaults | options)))


def pool_of(ranker: DynamicSparse, side: str = "user") -> BlockPool:
    pool: BlockPool = getattr(ranker.embedding.pools, side).pool  # type: ignore[attr-defined]
    return pool


def learn(ranker: Ranker, feedback: Feedback, rows: int = 40) -> None:
    for start in range(0, feedback.rows, rows):
        ranker.learn(cut(feedback, start, start + rows))


def scores(ranker: Ranker, feedback: Feedback) -> np.ndarray:
    batch = batch_of(feedback)
    ranker.score(batch)
    return batch.score


def test_with_the_whole_budget_it_is_the_deep_ranker() -> None:
    dsl, deep = make(budget=1.0), bind_to_world(Deep(**SIZES))
    for seed in range(3):
        learn(dsl, world(seed))
        learn(deep, world(seed))
    assert np.array_equal(scores(dsl, world(7)), scores(deep, world(7)))


def test_the_budget_is_exact_while_it_learns() -> None:
    ranker = make(budget=0.5, item_budget=0.25)
    for seed in range(8):
        learn(ranker, world(seed, users=24 + 8 * seed, items=30 + 5 * seed))
        for side, average in (("user", 2), ("item", 1)):
            pool = pool_of(ranker, side)
            assert pool.events == 240 * (seed + 1) * SHARDS // 80
            assert pool.used == average * len(pool) > 0
            assert pool.state_dict()["size"].min() >= 1
    assert pool_of(ranker).state_dict()["size"].max() > 2, "blocks moved"


def test_a_new_user_is_known_at_the_next_request() -> None:
    ranker = make()
    for seed in range(4):
        learn(ranker, world(seed))
    stranger = cut(world(50, users=1, first=400), 0, 5)
    stranger.features[:, 1:] = world(0).features[:5, 1:]
    before = scores(ranker, stranger)
    assert pool_of(ranker).gather(stranger.features[:1, 0] & 4095).any(), "a vector before anything is known"
    known = len(pool_of(ranker))
    stranger.reward[:] = 1.0
    ranker.learn(stranger)
    assert len(pool_of(ranker)) == known + 1
    assert (scores(ranker, stranger) > before).all()


def test_no_table_of_users_is_alive() -> None:
    users, factors = 1 << 15, 16
    ranker = make(user_bits=15, exchange_every=80)
    for seed in range(3):
        learn(ranker, world(seed))
        scores(ranker, world(seed))
    digest(ranker.state_dict()), ranker.take_changes()
    gc.collect()
    arrays = [one for one in gc.get_objects() if type(one) is np.ndarray or issubclass(type(one), torch.Tensor)]
    assert arrays
    assert not [tuple(one.shape) for one in arrays if one.ndim == 2 and one.shape[0] >= users and one.shape[1] >= factors]
    pool = pool_of(ranker)
    assert max(array.nbytes for array in pool.pool) <= users * factors * 4 / 4, "values of a quarter of the blocks"


def test_a_restarted_ranker_continues_bit_by_bit() -> None:
    whole, part = make(budget=0.5), make(budget=0.5)
    learn(whole, world(1))
    learn(part, world(1))
    restarted = make(budget=0.5)
    restarted.load_state_dict(part.state_dict())
    for ranker in (whole, restarted):
        for seed in (2, 3):
            learn(ranker, world(seed))
    assert pool_of(whole).events == 240 * 3 * SHARDS // 80
    assert digest(whole.state_dict()) == digest(restarted.state_dict())


def test_a_replica_has_the_blocks_and_neither_evidence_nor_sums() -> None:
    trainer, replica = make(budget=0.5), make(budget=0.5)
    for seed in range(4):
        learn(trainer, world(seed))
        changes = trainer.take_changes()
        assert not [
            name for name in changes if "squares" in name or "evidence" in name or "optimizer" in name or "heat" in name
        ]
        replica.apply_changes(changes)
        assert np.array_equal(scores(trainer, world(9)), scores(replica, world(9)))
