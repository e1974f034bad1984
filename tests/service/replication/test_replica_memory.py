"""Replicas of an error memory while its slots are overwritten and its lists are trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners.rerankers.reloop2.reranker import ReLoop2
from memory.error_memory import ErrorMemory
from memory.vectors import inverted_file
from service.config import Config
from service.ranking.pipeline import Pipeline
from tests.service.replication.test_replica import World, follow, shared_digest, states

CAPACITY, WIDTH = 200, 4
QUERIES = np.random.default_rng(0).normal(size=(70, WIDTH)).astype(np.float32)
MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def lists_are_trained_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each training take many turns, and the next one start when a quarter of the slots is overwritten."""
    monkeypatch.setattr(inverted_file, "WORK", 4 * WIDTH * 3)
    monkeypatch.setattr(inverted_file, "DROP", -1.0)


@pytest.fixture
def world(make_config: MakeConfig, tmp_path: Path) -> World:
    return World(make_config(), tmp_path, partitions=1)


def memory_of(pipeline: Pipeline) -> ErrorMemory:
    reranker = pipeline.rerankers.named["reloop2"]
    assert isinstance(reranker, ReLoop2)
    assert isinstance(reranker.memory, ErrorMemory)
    return reranker.memory


def same_answers(one: Pipeline, other: Pipeline) -> None:
    for queries in (QUERIES, QUERIES[:1]):
        mine, theirs = (memory_of(pipeline).read(queries, 10) for pipeline in (one, other))
        for name in ("slots", "similarity", "label", "base_score"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name))
    assert one.rerankers.named["reloop2"].weight == other.rerankers.named["reloop2"].weight  # type: ignore[attr-defined]


def phase_of(pipeline: Pipeline) -> tuple[bool, bool]:
    inverted: Any = memory_of(pipeline).index.inverted
    return inverted.training, inverted.moving


def test_a_replica_finds_what_the_trainer_finds_at_every_change(world: World) -> None:
    trainer, replica = world.trainer(), world.replica()
    phases = set()
    while trainer.turn():
        follow(replica)
        if trainer.reader.at_boundary:
            one, other = states(trainer, replica)
            assert one == other
            same_answers(trainer.pipeline, replica.pipeline)
            phases.add(phase_of(replica.pipeline))
    assert phases == {(False, False), (True, False), (True, True)}, "compared before, in and after trainings"
    memory = memory_of(replica.pipeline)
    assert memory.index.inverted.generation >= 3
    assert memory_of(trainer.pipeline).clock["version"][0] > 100
    assert np.median(memory_of(trainer.pipeline).rows["version"]) > 90, "slots were overwritten, most of them several times"
    assert replica.loads == 1


def test_one_that_joins_at_any_moment_has_the_same_memory(world: World) -> None:
    trainer = world.trainer()
    phases, joined = set(), []
    more = True
    while more:
        more = [trainer.turn() for _ in range(9)][-1]
        trainer.save()
        world.weights.trim({0: trainer.checkpoint().meta["weights"]})
        late = world.replica()
        follow(late)
        one, other = states(trainer, late)
        assert one == other
        same_answers(trainer.pipeline, late.pipeline)
        phases.add(phase_of(late.pipeline))
        joined.append(late)
    assert len(joined) > 10
    assert phases >= {(True, False), (True, True)}, "some joined in the middle of a training"
    earlier = joined[len(joined) // 2 :]
    trainer.drain()
    for late in earlier:
        follow(late)
        assert shared_digest(late) == shared_digest(trainer)
        same_answers(trainer.pipeline, late.pipeline)


def test_a_trainer_killed_in_the_middle_of_a_training_goes_on_and_its_replica_follows(world: World) -> None:
    whole = World(world.config, world.folder / "whole", partitions=1)
    uninterrupted = whole.trainer()
    uninterrupted.drain()
    replica, in_training = world.replica(), 0
    more = True
    while more:
        trainer = world.trainer()
        same = world.trainer()
        assert same.digest() == trainer.digest()
        same_answers(same.pipeline, trainer.pipeline)
        more = [trainer.turn() for _ in range(5)][-1]
        trainer.save()
        in_training += phase_of(trainer.pipeline)[0]
        for _ in range(4):  # learned, published, and lost with the process
            trainer.turn()
        follow(replica)
    assert in_training > 5
    assert trainer.digest() == uninterrupted.digest()
    assert shared_digest(trainer) == shared_digest(replica)
    same_answers(uninterrupted.pipeline, replica.pipeline)
