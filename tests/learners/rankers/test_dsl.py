"""DSL: the deep ranker where it has all blocks, a constant budget where it has not, and no table of users anywhere."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch

from learners.base import Ranker
from learners.contract.small import bind_to_world
from learners.contract.worlds import batch_of, cut, world
from learners.networks.sparse.group_linear import GroupSparseLinear
from learners.rankers.deep import Deep
from learners.rankers.dsl import DynamicSparse
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
            assert pool.events == 240 * (seed + 1) // 80
            assert pool.used == average * len(pool) > 0
            assert pool.state_dict()["size"].min() >= 1
    assert pool_of(ranker).state_dict()["size"].max() > 2, "blocks moved"


def test_users_that_give_way_are_counted() -> None:
    ranker = make(user_capacity=8)
    for seed in range(3):
        learn(ranker, world(seed))
    metrics, pool = ranker.metrics(), pool_of(ranker)
    assert metrics["user_rows"] == len(pool) < 24
    assert metrics["user_blocks"] == pool.used <= pool.capacity == 8
    assert metrics["user_evictions"] == pool.evictions > 0
    assert metrics["capped"] == 0


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


def test_a_large_pool_is_exchanged_in_turns() -> None:
    ranker = make(user_bits=14)
    learn(ranker, world(1), rows=10)
    assert pool_of(ranker).shards == 4
    assert pool_of(ranker).events == 240 * 4 // 80


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
    assert pool_of(whole).events == 240 * 3 // 80
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


def test_sparse_layers_learn_move_and_continue_bit_by_bit() -> None:
    options = {"hidden": 32, "group": 16, "density": 0.25, "first_ratio": 0.3}
    whole, part = make(**options), make(**options)
    first = whole.network.module.layers[0]
    assert isinstance(first, GroupSparseLinear)
    inputs = first.inputs_of.clone()
    for ranker in (whole, part):
        learn(ranker, world(1))
    assert not torch.equal(inputs, first.inputs_of), "inputs moved"
    assert first.inputs_of.shape == inputs.shape
    restarted, replica = make(**options), make(**options)
    restarted.load_state_dict(part.state_dict())
    replica.load_state_dict(part.state_dict())
    for ranker in (whole, restarted):
        learn(ranker, world(2), rows=30)
    assert digest(whole.state_dict()) == digest(restarted.state_dict())
    changes = restarted.take_changes()
    assert not [name for name in changes if "layer_" in name], "evidence is not shipped"
    replica.apply_changes(changes)
    assert np.array_equal(scores(whole, world(9)), scores(replica, world(9)))
    assert np.mean([auc(scores(whole, world(seed)), world(seed).reward) for seed in range(9, 14)]) > 0.57, "0.52 at first"


def auc(score: np.ndarray, label: np.ndarray) -> float:
    return float((score[label > 0][:, None] > score[label == 0]).mean())


def test_an_exchange_of_inputs_resets_the_optimizer_there() -> None:
    ranker = make(hidden=32, group=16, density=0.25, first_ratio=0.3, ratio=0.3, exchange_every=240)
    learn(ranker, cut(world(1), 0, 200))
    (optimizer,), layer = ranker.network.optimizers, ranker.network.module.layers[0]
    before = layer.inputs_of.clone()  # type: ignore[operator,union-attr]
    assert optimizer.state[layer.weight]["exp_avg"].abs().min() > 0
    ranker.layers.prune_and_grow(ranker.network, 0.3)
    fresh = before != layer.inputs_of
    assert fresh.any() and not fresh.all()
    moments = optimizer.state[layer.weight]
    assert not moments["exp_avg"][fresh].any() and not moments["exp_avg_sq"][fresh].any()
    assert moments["exp_avg"][~fresh].all()
    assert not ranker.layers.sums["layer_0"].any()


def test_an_adapter_s_backward_pass_is_no_evidence() -> None:
    ranker = make(hidden=32, group=16, density=0.25)
    learn(ranker, cut(world(1), 0, 70))
    before = ranker.layers.sums["layer_0"].copy()
    assert before.any()
    delta = {"norms.0.weight": torch.zeros(32, requires_grad=True)}
    ranker.forward(batch_of(world(2)), delta).sum().backward()
    assert delta["norms.0.weight"].grad is not None
    assert np.array_equal(ranker.layers.sums["layer_0"], before)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"density": 0.5, "group": 48}, "group: 48 of 16"),
        ({"density": 0.5, "group": 16, "device": "cuda"}, "density: 0.5"),
        ({"budget": 0.1}, "share: 0.1"),
        ({"block": 5}, "dim: 16 with blocks of 5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make(**options)
