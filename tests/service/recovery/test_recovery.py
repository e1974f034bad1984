"""Unusable files in a checkpoint folder are reported, counted and skipped, and the service starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners.rankers.fm import FactorizationMachine
from memory import Checkpoint, KeyIndex, checkpoint
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from service.recovery.recovery import MISSING, UNUSABLE
from streams.batch import Feedback
from streams.dead_letters import DeadLetters
from streams.events import Event, Impression, Interaction
from streams.lmdb_log import LmdbLog
from streams.log import Log, MemoryLog
from tests.service.conftest import records
from tests.worlds import START, busy_world

EVENTS = list(busy_world(seed=3, length=150))
MakeConfig = Callable[..., Config]


def filled(events: list[Event]) -> MemoryLog:
    log = MemoryLog()
    log.append(records(events))
    return log


def trainer(config: Config, log: Log, folder: Path | None = None, **keywords: Any) -> Trainer:
    """A trainer that is restored, but has learned nothing since."""
    pipeline = build_pipeline(config)
    dead, validator = DeadLetters(MemoryLog()), EventValidator(config.reward, config.stream.max_skew)
    made = Trainer(
        pipeline, FeedbackBuilder(pipeline, config.reward), joiners(config, 1), log, dead, validator, folder=folder, **keywords
    )
    made.restore()
    return made


def learned(config: Config, log: Log, folder: Path | None = None) -> Trainer:
    made = trainer(config, log, folder)
    made.drain()
    return made


def saved(config: Config, log: Log, folder: Path) -> Path:
    path = learned(config, log, folder).save()
    assert path is not None
    return path


def assert_folded_anew(found: Trainer, fresh: Trainer, path: Path, *reasons: str) -> None:
    """Assert that the file was reported, counted and set aside, and that the state equals that of a full fold."""
    assert found.pipeline.version == 0
    assert str(path) in found.notices[0]
    for reason in reasons:
        assert reason in found.notices[0]
    assert found.gauges()["failures"] == {UNUSABLE: 1}
    assert [one.name for one in path.parent.iterdir()] == [f"{path.name}.unfit"]
    found.drain()
    assert (found.digest(), found.pipeline.version) == (fresh.digest(), fresh.pipeline.version)
    again = found.save()
    assert again is not None
    assert again.exists(), "files set aside do not block new ones"


def test_a_changed_default_finds_no_old_checkpoint(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, ranker={"fm": {"bits": 10}})
    log = filled(EVENTS)
    assert config.checkpoints is not None
    old = saved(config, log, config.checkpoints)
    defaults = FactorizationMachine.__init__.__defaults__
    assert defaults is not None
    assert defaults[0] == 32, "the number of factors"
    monkeypatch.setattr(FactorizationMachine.__init__, "__defaults__", (4, *defaults[1:]))
    changed = trainer(config, log, config.checkpoints)
    assert changed.pipeline.version == 0
    assert not changed.notices
    changed.drain()
    assert changed.digest() == learned(config, log).digest()
    assert old.exists()
    monkeypatch.undo()
    assert trainer(config, log, config.checkpoints).pipeline.version > 0, "the earlier program continues from its checkpoint"


def test_a_checkpoint_of_another_shape_is_skipped(make_config: MakeConfig, tmp_path: Path) -> None:
    log = filled(EVENTS)
    path = saved(make_config(ranker={"fm": {"factors": 8, "bits": 10}}), log, tmp_path)
    found = trainer(make_config(), log, tmp_path)
    assert_folded_anew(found, learned(make_config(), log), path, "float32 of shape", "it was written under another")


def test_a_checkpoint_of_another_format_is_skipped(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(EVENTS)
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "FORMAT", 2)
        path = saved(make_config(), log, tmp_path)
    found = trainer(make_config(), log, tmp_path)
    assert_folded_anew(found, learned(make_config(), log), path, "its format is 2, and this program reads 1")


def test_a_store_of_another_version_is_skipped(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(EVENTS)
    path = saved(make_config(), log, tmp_path)
    monkeypatch.setattr(KeyIndex, "state_version", 2)
    found = trainer(make_config(), log, tmp_path)
    says = "users.index: the checkpoint has state_version 1, but this program has 2"
    assert_folded_anew(found, learned(make_config(), log), path, says)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("epoch", None, "missing required field `epoch`"),
        ("versions", None, "missing required field `versions`"),
        ("positions", {"0": 3}, "Expected `object`, got `int` - at `$.positions[...]`"),
        ("positions", {"7": {"next": 0, "rewind": 0}}, "the checkpoint has partition 7, but the log has [0]"),
    ],
)
def test_odd_metadata_are_skipped(key: str, value: object, says: str, make_config: MakeConfig, tmp_path: Path) -> None:
    log = filled(EVENTS)
    whole = learned(make_config(), log).checkpoint()
    meta = {name: kept for name, kept in (whole.meta | {key: value}).items() if kept is not None or name == "log"}
    path = checkpoint.save(tmp_path, Checkpoint(whole.version, whole.state, meta))
    assert_folded_anew(trainer(make_config(), log, tmp_path), learned(make_config(), log), path, says)


def test_an_array_that_is_missing_is_skipped_for_the_checkpoint_before(make_config: MakeConfig, tmp_path: Path) -> None:
    log = filled(EVENTS)
    first = trainer(make_config(), log, tmp_path)
    for _ in range(9):
        first.turn()
    first.save()
    older = first.pipeline.version
    first.drain()
    whole = first.checkpoint()
    whole.state.pop("users.index.keys")
    newest = checkpoint.save(tmp_path, whole)
    found = trainer(make_config(), log, tmp_path)
    assert found.pipeline.version == older > 0
    assert newest.name in found.notices[0]
    assert found.failures == {UNUSABLE: 1}
    found.drain()
    assert found.digest() == first.digest()


def test_a_checkpoint_of_another_log_is_skipped(make_config: MakeConfig, tmp_path: Path) -> None:
    one, other = LmdbLog(tmp_path / "one"), LmdbLog(tmp_path / "other")
    one.append(records(EVENTS))
    other.append(records(list(busy_world(seed=4, length=200))))
    path = saved(make_config(), one, tmp_path / "state")
    says = f"log: the checkpoint is of log '{one.identity}', but this log is '{other.identity}'"
    assert_folded_anew(trainer(make_config(), other, tmp_path / "state"), learned(make_config(), other), path, says)


def test_a_checkpoint_that_is_ahead_of_its_log_is_skipped(make_config: MakeConfig, tmp_path: Path) -> None:
    path, shorter = saved(make_config(), filled(EVENTS), tmp_path), filled(EVENTS[:100])
    found = trainer(make_config(), shorter, tmp_path)
    says = f"continues at record {len(EVENTS)}, but the log ends at 100: the log lost its tail"
    assert_folded_anew(found, learned(make_config(), shorter), path, says)


def test_a_fold_of_what_is_left_counts_what_is_not(make_config: MakeConfig, tmp_path: Path) -> None:
    log = filled(EVENTS)
    saved(make_config(ranker={"fm": {"factors": 8, "bits": 10}}), log, tmp_path)
    log.trim({0: 70})
    found = trainer(make_config(), log, tmp_path)
    assert "the log begins at record 70" in found.notices[1]
    assert found.failures == {UNUSABLE: 1, MISSING: 70}
    new = trainer(make_config(), log, tmp_path / "new")
    assert new.failures == {}, "a first start has lost nothing"


class Seen:
    """Records the rows that a trainer learns: user, item, time and whether it was touched."""

    def __init__(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[tuple[int, int, float, bool]] = []
        learn = trainer.pipeline.learn

        def learn_and_note(feedback: Feedback, *more: Any) -> None:
            at = feedback.request
            columns = feedback.user[at], feedback.item, feedback.timestamp[at], feedback.touched
            self.rows += zip(*(np.asarray(column).tolist() for column in columns), strict=True)
            learn(feedback, *more)

        monkeypatch.setattr(trainer.pipeline, "learn", learn_and_note)


def shown_and_clicked(count: int) -> list[Event]:
    """Every 5 seconds an impression of two items, and 7 seconds later, after the next impression, a click on the second."""
    events: list[Event] = []
    for n in range(count):
        now = START + 5 * n
        events.append(Impression(request_id=f"r{n}", user=f"u{n}", items=("a", "b"), timestamp=now))
        if n:
            events.append(Interaction(id=f"c{n}", request_id=f"r{n - 1}", user=f"u{n - 1}", item="b", timestamp=now + 2))
    return events


def test_after_going_back_past_a_trim_the_state_is_kept_and_what_is_missing_is_named(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    log = filled(EVENTS[:200])
    first = learned(make_config(), log, tmp_path)
    first.save()
    positions = first.reader.positions()[0]
    log.append(records(EVENTS[200:]))
    log.trim({0: 260})
    back = trainer(make_config(), log, tmp_path)
    assert (back.digest(), back.pipeline.version, back.next) == (first.digest(), first.pipeline.version, {0: 260})
    rewind, missing = positions.rewind, 260 - positions.rewind
    assert back.notices[0] == (
        f"the log begins at record 260, but the checkpoint continues at record 200 and needs the records from {rewind} on. "
        f"{missing} records are missing: 60 were never learned, and {missing - 60} were needed to join later outcomes"
    )
    assert back.failures == {MISSING: missing}
    assert back.status()["epoch"] > first.status()["epoch"], "a new history"
    back.drain()
    assert back.next == {0: len(EVENTS)}
    assert back.reader.counts["impressions"] == len({one.request_id for one in EVENTS[260:] if isinstance(one, Impression)})


def test_what_was_learned_before_a_trim_is_not_learned_again(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some records that the checkpoint needs for joining are trimmed; it has learned all of them."""
    events = shown_and_clicked(60)
    config = make_config(stream={"batch_rows": 7})
    log = filled(events[:80])
    first = trainer(config, log, tmp_path)
    before = Seen(first, monkeypatch)
    first.drain()
    first.save()
    position = first.reader.positions()[0]
    assert position.rows + position.shown > 0, "a batch is open"
    assert position.rewind < 74 < position.next
    log.trim({0: 74})
    log.append(records(events[80:]))
    back = trainer(config, log, tmp_path)
    assert back.next == {0: 80}
    assert f"{74 - position.rewind} records are missing: 0 were never learned" in back.notices[0]
    after = Seen(back, monkeypatch)
    back.drain()
    kept = {event.request_id for event in events[74:] if isinstance(event, Impression)}
    lost = [event for event in events[74:80] if isinstance(event, Interaction) and event.request_id not in kept]
    assert back.reader.counts["unjoined"] == len(lost), "impressions after the trim still wait for their clicks"
    assert not set(before.rows) & set(after.rows)
    assert len(set(after.rows)) == len(after.rows) > 20


def test_after_a_trim_it_goes_on_as_if_nothing_had_been(make_config: MakeConfig, tmp_path: Path) -> None:
    """A process killed and restarted after the gap has the same state as one that kept running."""
    config, log = make_config(), filled(EVENTS[:200])
    learned(config, log, tmp_path / "one").save()
    learned(config, log, tmp_path / "two").save()
    log.append(records(EVENTS[200:]))
    log.trim({0: 260})
    ran_on = learned(config, log, tmp_path / "one")
    killed = trainer(config, log, tmp_path / "two")
    for _ in range(5):
        killed.turn()
    killed.save()
    killed.turn()
    again = trainer(config, log, tmp_path / "two")
    assert not again.notices
    assert again.status()["epoch"] == killed.status()["epoch"]
    again.drain()
    assert again.digest() == ran_on.digest()
