"""Losse-FTL in the service: its reasons, and the same state whatever interrupts a fold and however a log is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memory.stateful import digest
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from service.ranking.requests import RankRequest
from streams.codec import encode, partition_key
from streams.dead_letters import DeadLetters
from streams.log import Log, MemoryLog
from tests.worlds import busy_world

SETTINGS = {"groups": 2, "dim": 4, "users": 50, "first": 10, "epoch": 60, "waves": 16, "session": 60.0, "horizon": 3}


def trainer(config: Config, log: Log, folder: Path | None = None, poll: int = 512) -> Trainer:
    pipeline = build_pipeline(config)
    outcomes, validator = FeedbackBuilder(pipeline, config.reward), EventValidator(config.reward, config.stream.max_skew)
    return Trainer(pipeline, outcomes, joiners(config, 1), log, DeadLetters(MemoryLog()), validator, folder=folder, poll=poll)


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(rerankers={"losse_ftl": SETTINGS})


@pytest.fixture
def log() -> MemoryLog:
    filled = MemoryLog()
    filled.append([(partition_key(event), encode(event)) for event in busy_world(seed=1, length=200)])
    return filled


def test_reasons_have_the_value_of_each_horizon(config: Config, log: MemoryLog) -> None:
    folded = trainer(config, log)
    folded.restore()
    folded.drain()
    ((response, _),) = folded.pipeline.rank([RankRequest(user="u1", items=["i1", "i7", "nowhere"], explain=True)])
    values = {ranked.item: ranked.reasons.values for ranked in response.items if ranked.reasons is not None}
    assert values["i1"].keys() == {f"losse_ftl.{name}" for name in ("q_1", "q_2", "q_3", "beta")}
    assert values["nowhere"].keys() == {"losse_ftl.beta"}, "an unknown item has no group"
    assert all(
        one["losse_ftl.q_1"] < one["losse_ftl.q_2"] < one["losse_ftl.q_3"] for item, one in values.items() if item != "nowhere"
    )
    assert values["i1"]["losse_ftl.q_1"] != values["i7"]["losse_ftl.q_1"]


def test_a_fold_that_is_interrupted_and_read_otherwise_ends_in_the_same_state(
    config: Config, log: MemoryLog, tmp_path: Path
) -> None:
    whole = trainer(config, log)
    whole.restore()
    whole.drain()
    assert whole.pipeline.rerankers.named["losse_ftl"].metrics()["epoch"] > 1
    first = trainer(config, log, tmp_path, poll=7)
    first.restore()
    for _ in range(25):
        first.turn()
    first.save()
    second = trainer(config, log, tmp_path, poll=64)
    second.restore()
    second.drain()
    assert digest(second.pipeline.state_dict()) == digest(whole.pipeline.state_dict())
