"""A full log trims itself where `retain` allows, also when `retain` was added later."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from service.recovery.retention import Retention
from streams.codec import encode
from streams.dead_letters import DeadLetters
from streams.events import Interaction
from streams.lmdb_log import LmdbLog
from streams.log import LogFull, MemoryLog

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def make_trainer(make_config: Callable[..., Config], tmp_path: Path) -> MakeTrainer:
    def make(log: LmdbLog, retain: int | None, every: float = 0.05) -> Trainer:
        config = make_config(stream={"batch_rows": 16})
        pipeline = build_pipeline(config)
        trainer = Trainer(
            pipeline,
            FeedbackBuilder(pipeline, config.reward),
            joiners(config, 1),
            log,
            DeadLetters(MemoryLog()),
            EventValidator(config.reward, config.stream.max_skew),
            folder=tmp_path / "state",
            every=every,
            retain=retain,
        )
        trainer.restore()
        return trainer

    return make


def batch(start: int, rows: int = 50) -> list[tuple[bytes, bytes]]:
    events = [
        Interaction(id=f"{n}-" + "x" * 200, user=f"u{n % 9}", item=f"i{n % 30}", timestamp=1e9 + n)
        for n in range(start, start + rows)
    ]
    return [(event.user.encode(), encode(event)) for event in events]


def fill(log: LmdbLog) -> int:
    """Append until the log is full; the number of records in it."""
    end = 0
    while True:
        try:
            end = log.append(batch(end))[0]
        except LogFull:
            return log.end()[0]


def append_with_room(log: LmdbLog, trainer: Trainer, events: list[tuple[bytes, bytes]]) -> None:
    """Append as the service does: try again while the trainer runs."""
    limit = time.monotonic() + 60
    while True:
        try:
            log.append(events)
            return
        except LogFull:
            assert time.monotonic() < limit, "the log did not trim itself"
            trainer.turn()


def test_without_retain_a_full_log_keeps_everything(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log", max_bytes=2**20)
    trainer = make_trainer(log, None)
    filled = fill(log)
    trainer.drain()
    trainer.save()
    time.sleep(0.3)
    for _ in range(10):
        trainer.turn()
    assert (log.begin(), log.end()) == ({0: 0}, {0: filled})
    with pytest.raises(LogFull, match=r"raise max_bytes or trim it \(\[stream\] retain, or `freshet log trim`\)"):
        log.append(batch(0))
    trainer.close()
    log.close()


def test_with_retain_a_log_takes_many_times_its_size(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log", max_bytes=2**20)
    trainer = make_trainer(log, 20, every=1e9)
    for start in range(0, 8_000, 50):
        append_with_room(log, trainer, batch(start))
        trainer.drain()
    assert log.end() == {0: 8_000}
    assert 0 < log.begin()[0] <= trainer.next[0] - 20
    assert trainer.next == {0: 8_000}
    assert log.nbytes <= 2**20 + 2**16, "the trim of a log that is full to the last page takes a few pages more"
    assert any("the log is nearly full" in notice for notice in trainer.notices)
    trainer.close()
    log.close()


def test_a_log_that_filled_up_before_retain_was_set_trims_itself(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log", max_bytes=2**20)
    trainer = make_trainer(log, None)
    filled = fill(log)
    trainer.drain()
    trainer.save()
    trainer.close()
    again = make_trainer(log, 20)
    again.drain()
    append_with_room(log, again, batch(filled))
    again.drain()
    assert log.begin()[0] > 0.9 * filled
    assert again.next == {0: filled + 50}
    again.close()
    log.close()


def test_what_the_kept_checkpoints_need_is_known_after_a_restart(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log")
    trainer = make_trainer(log, 20, every=1e9)
    for start in (0, 50, 100):
        log.append(batch(start))
        trainer.drain()
        trainer.save()
    rewind = trainer.reader.positions()[0].rewind
    trainer.close()
    assert 0 < rewind < 130
    assert log.begin() == {0: 0}, "the oldest of the three checkpoints needs everything"
    retention = Retention(log, tmp_path / "state", 3, 20)
    assert retention.make_room({0: 150}) == 0
    retention.load()
    assert retention.make_room({0: 150}) == rewind
    assert log.begin() == {0: rewind}
    log.close()
