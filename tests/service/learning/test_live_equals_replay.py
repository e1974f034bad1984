"""The digest is the same however a log is stored, polled, interrupted or replayed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from memory.vectors import inverted_file
from service.config import Config
from service.evaluation.replay import replay
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from streams.codec import encode, partition_key
from streams.dead_letters import DeadLetters
from streams.events import Event, Forget
from streams.lmdb_log import LmdbLog
from streams.log import Log, MemoryLog
from tests.worlds import busy_world

EVENTS = list(busy_world(seed=1, length=300))


def fill(log: Log, events: list[Event], at_once: int = 1000) -> Log:
    pairs = [(partition_key(event), encode(event)) for event in events]
    for start in range(0, len(pairs), at_once):
        log.append(pairs[start : start + at_once])
    return log


def trainer(config: Config, log: Log, *, poll: int = 512, folder: Path | None = None) -> Trainer:
    pipeline = build_pipeline(config)
    outcomes = FeedbackBuilder(pipeline, config.reward)
    dead = DeadLetters(MemoryLog())
    validator = EventValidator(config.reward, config.stream.max_skew)
    return Trainer(pipeline, outcomes, joiners(config, 1), log, dead, validator, folder=folder, poll=poll)


def fold(config: Config, log: Log, poll: int = 512) -> Trainer:
    folded = trainer(config, log, poll=poll)
    folded.restore()
    folded.drain()
    return folded


@pytest.fixture(autouse=True)
def lists_are_trained_in_many_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make processes end, and polls start, in the middle of a training."""
    monkeypatch.setattr(inverted_file, "WORK", 4 * 4 * 10)


@pytest.fixture
def uninterrupted(make_config: Callable[..., Config]) -> Trainer:
    return fold(make_config(), fill(MemoryLog(), EVENTS))


@pytest.mark.parametrize("poll", [1, 5, 7, 1000])
def test_poll_sizes_and_logs_do_not_matter(
    poll: int, uninterrupted: Trainer, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config()
    log = fill(LmdbLog(tmp_path / "events", max_bytes=64 << 20), EVENTS, at_once=13)
    assert fold(config, log, poll).digest() == uninterrupted.digest()
    assert fold(config, fill(MemoryLog(), EVENTS), poll).digest() == uninterrupted.digest()
    assert uninterrupted.pipeline.version > 50
    memory = uninterrupted.pipeline.rerankers.named["reloop2"].memory
    assert memory.index.inverted.generation > 0
    assert uninterrupted.pipeline.retrievers.named["diag_linucb"].centroids.epoch > 3  # type: ignore[attr-defined]
    log.close()


def test_learning_as_events_arrive_equals_learning_afterwards(
    uninterrupted: Trainer, make_config: Callable[..., Config]
) -> None:
    log = MemoryLog()
    live = trainer(make_config(), log)
    live.restore()
    for start in range(0, len(EVENTS), 3):
        fill(log, EVENTS[start : start + 3])
        live.drain()
    assert live.digest() == uninterrupted.digest()


def test_the_replay_command_folds_a_log_to_the_same_state(
    uninterrupted: Trainer, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    fill(LmdbLog(tmp_path / "events", max_bytes=64 << 20), EVENTS).close()
    done = replay(make_config(tmp_path))
    assert done.digest == uninterrupted.digest()
    assert done.quality["fm"].auc > 0.7
    assert done.quality["reloop2"].auc > 0.7
    assert done.dead == {}


EARLY = {"close_after_click": 1.5, "below_clicks": "skip"}
"""Clicks close impressions long before their window ends."""


def killed(
    config: Config, log: Log, folder: Path, seed: int, *, polls: Sequence[int], turns: tuple[int, int]
) -> tuple[Trainer, int]:
    """Fold a log in many lives, each killed some turns past its last checkpoint. Return the last one, and their number."""
    rng, kills = random.Random(seed), 0
    while True:
        life = trainer(config, log, poll=rng.choice(polls), folder=folder)
        life.restore()
        done = [life.turn() for _ in range(rng.randint(*turns))]
        if not done[-1]:
            return life, kills
        life.save()
        for _ in range(rng.randint(0, 15)):
            life.turn()
        kills += 1
        life.close()


@pytest.mark.parametrize(
    ("seed", "stream"), [(0, {}), (1, {}), (2, {}), (0, EARLY), (1, EARLY | {"closing_click": "first", "batch_rows": 5})]
)
def test_twenty_kills_leave_no_trace(
    seed: int, stream: dict[str, object], make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Each process learns some turns past its last checkpoint, and then is killed."""
    config, log = make_config(stream=stream), fill(MemoryLog(), EVENTS)
    uninterrupted = fold(config, log)
    life, kills = killed(config, log, tmp_path, seed, polls=(1, 5, 7, 1000), turns=(1, 12))
    assert kills >= 20
    assert life.digest() == uninterrupted.digest()
    assert life.pipeline.version == uninterrupted.pipeline.version
    assert ("skipped" in uninterrupted.gauges()["joiner"]) == bool(stream)


def test_closing_early_is_another_state_with_the_same_measured_rows(make_config: Callable[..., Config], tmp_path: Path) -> None:
    """Positions that are not learned are measured: the prediction is that of the whole ranking."""
    events = [event for event in EVENTS if not isinstance(event, Forget)]  # what is forgotten while it waits is not measured
    fill(LmdbLog(tmp_path / "events", max_bytes=64 << 20), events).close()
    waits, closes = replay(make_config(tmp_path)), replay(make_config(tmp_path, stream=EARLY))
    assert closes.rows == waits.rows
    assert closes.open_rows < waits.open_rows, "their impressions have closed before the log ends"
    assert closes.digest == fold(make_config(stream=EARLY), fill(MemoryLog(), events)).digest() != waits.digest
