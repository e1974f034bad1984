"""A trainer on a GPU, and replicas on a CPU that follow it: the product's classes from the events to the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners.networks.ranker import NetworkRanker
from memory.stateful import without_private
from service.config import Config
from service.learning.trainer import Trainer
from service.process.runtime import build_pipeline
from service.ranking.requests import RankRequest
from service.replication.replica import Replica
from tests.service.replication.test_replica import World, follow

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

RANKERS: dict[str, dict[str, Any]] = {
    "deep": {"bits": 10, "factors": 8, "hidden": 16, "network_learning_rate": 0.01},
    "dsl": {"bits": 10, "factors": 8, "block": 2, "hidden": 16, "user_bits": 8, "item_bits": 8},
}
REQUESTS = [RankRequest(user=f"u{n}", items=[f"i{m}" for m in range(30)], log=False) for n in range(5)]


def scores(one: Trainer | Replica) -> np.ndarray:
    by_item = [{one.item: one.score for one in answer.items} for answer, _ in one.pipeline.rank(REQUESTS)]
    return np.array([[scored[name] for name in sorted(scored)] for scored in by_item])


def shipped(one: Trainer | Replica) -> dict[str, np.ndarray]:
    return without_private(one.pipeline, one.pipeline.state_dict())


@needs_gpu
@pytest.mark.parametrize("name", RANKERS)
def test_a_replica_on_the_cpu_follows_a_trainer_on_the_gpu(
    name: str, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    check_following(name, make_config, tmp_path, "cuda")


@pytest.mark.parametrize("name", RANKERS)
def test_the_same_without_a_gpu(name: str, make_config: Callable[..., Config], tmp_path: Path) -> None:
    """So that what the test on a GPU asserts holds at all."""
    check_following(name, make_config, tmp_path, "cpu")


def check_following(name: str, make_config: Callable[..., Config], folder: Path, device: str) -> None:
    def config(where: str) -> Config:
        memory = {"capacity": 200, "index": "flat", "neighbours": 10, "weight": 0.5, "device": where}
        return make_config(ranker={name: RANKERS[name] | {"device": where}}, rerankers={"reloop2": memory})

    there, here = config(device), config("cpu")
    assert there.fingerprint == here.fingerprint
    world = World(there, folder)
    trainer = world.trainer()
    replica = Replica(build_pipeline(here), lambda: world.weights, folder, config=here.fingerprint)
    for _ in range(30):
        trainer.turn()
        follow(replica)
    trainer.save()
    late = Replica(build_pipeline(here), lambda: world.weights, folder, config=here.fingerprint)
    trainer.drain()
    ranker = trainer.pipeline.ranker
    assert isinstance(ranker, NetworkRanker)
    assert ranker.network.device == device
    for one in (replica, late):
        follow(one)
        assert one.follows and not one.failures
        assert one.pipeline.version == trainer.pipeline.version > 10
        theirs, mine = shipped(trainer), shipped(one)
        assert theirs.keys() == mine.keys()
        for key, array in theirs.items():
            np.testing.assert_array_equal(mine[key], array, err_msg=key)  # weights are shipped as they are
        np.testing.assert_allclose(scores(one), scores(trainer), atol=ranker.tolerance)
    # A trainer on the CPU learns nearly the same: what a GPU adds up in another order stays small.
    alone = World(here, folder / "cpu")
    other = alone.trainer()
    other.drain()
    np.testing.assert_allclose(scores(other), scores(trainer), atol=0.02)
