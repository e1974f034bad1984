"""Bad records, ticks, checkpoints and failures of the trainer."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from memory import checkpoint
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.monitoring.monitor import Monitor
from service.process.runtime import build_pipeline, joiners
from streams.codec import encode
from streams.dead_letters import DeadLetters
from streams.events import Impression, Interaction
from streams.log import LogFull, MemoryLog, Offsets
from tests.service.conftest import records
from tests.worlds import START, two_tribes


class FullLog(MemoryLog):
    """A log that refuses records after a while."""

    full = False

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        if self.full:
            raise LogFull("no room", "memory")
        return super().append(records)


@pytest.fixture
def make_trainer(make_config: Callable[..., Config]) -> Callable[..., Trainer]:
    def make(
        log: MemoryLog,
        *,
        folder: Path | None = None,
        dead: DeadLetters | None = None,
        every: float = 1e9,
        retain: int | None = None,
        **stream: object,
    ) -> Trainer:
        config = make_config(stream=stream)
        pipeline = build_pipeline(config)
        return Trainer(
            pipeline,
            FeedbackBuilder(pipeline, config.reward),
            joiners(config, 1),
            log,
            dead or DeadLetters(MemoryLog()),
            EventValidator(config.reward, config.stream.max_skew),
            monitor=Monitor(dict),
            folder=folder,
            every=every,
            retain=retain,
        )

    return make


def test_bad_records_become_dead_letters_with_their_offset_and_block_nothing(make_trainer: Callable[..., Trainer]) -> None:
    log = MemoryLog()
    good = Interaction(user="u", item="i", timestamp=START)
    future = Interaction(user="u", item="i", timestamp=5e9)
    unpriced = Interaction(user="u", item="i", kind="hover", timestamp=START)
    values = [b"not json", encode(good), encode(future), encode(unpriced), b'{"type":"interaction","user":"u"}', encode(good)]
    log.append([(b"", value) for value in values])
    trainer = make_trainer(log)
    trainer.restore()
    trainer.drain()
    letters = trainer.dead.read()
    assert [(letter.offset, letter.kind) for letter in letters] == [
        (0, "not_json"),
        (2, "future"),
        (3, "kind"),
        (4, "not_an_event"),
    ]
    assert "hover" in letters[2].reason
    assert "[reward]" in letters[2].reason
    assert letters[0].value == b"not json"
    assert trainer.reader.counts["interactions"] == 2


def test_a_restart_does_not_report_a_bad_record_again(make_trainer: Callable[..., Trainer]) -> None:
    log, dead_log = MemoryLog(), MemoryLog()
    log.append([(b"", b"bad"), *records(list(two_tribes(0, 5))), (b"", b"worse")])
    for _ in range(2):
        trainer = make_trainer(log, dead=DeadLetters(dead_log))
        trainer.restore()
        trainer.drain()
    assert [letter.value for letter in DeadLetters(dead_log).read()] == [b"bad", b"worse"]


def test_a_tick_closes_a_batch_that_waited(make_trainer: Callable[..., Trainer]) -> None:
    log = MemoryLog()
    trainer = make_trainer(log)
    trainer.restore()
    log.append(records([Interaction(user="u", item="i", timestamp=START)]))
    trainer.drain()
    assert trainer.pipeline.version == 0
    assert not trainer.ticks.due(100.0, flush=0.5)
    assert not trainer.ticks.due(100.4, flush=0.5)
    assert trainer.ticks.due(100.6, flush=0.5) == [0]
    trainer.ticks.tick([0], START + 1)
    trainer.drain()
    assert trainer.pipeline.version == 1
    assert not trainer.ticks.due(200.0, flush=0.5)


def test_a_tick_is_due_when_a_window_has_ended(make_trainer: Callable[..., Trainer]) -> None:
    log = MemoryLog()
    trainer = make_trainer(log)
    trainer.restore()
    log.append(records([Impression(request_id="r", user="u", items=("a",), timestamp=START)]))
    trainer.drain()
    trainer.ticks.tick([0], START + 1)
    trainer.drain()
    assert not trainer.ticks.due(START + 19, flush=1.0)
    assert trainer.ticks.due(START + 20, flush=1.0) == [0]


def test_a_tick_is_due_when_a_click_closes_an_impression(make_trainer: Callable[..., Trainer]) -> None:
    log = MemoryLog()
    trainer = make_trainer(log, close_after_click=3.0)
    trainer.restore()
    shown = Impression(request_id="r", user="u", items=("a", "b"), timestamp=START)
    log.append(records([shown, Interaction(user="u", item="a", request_id="r", timestamp=START + 1)]))
    trainer.drain()
    trainer.ticks.tick([0], START + 2)
    trainer.drain()
    assert not trainer.ticks.due(START + 3, flush=1.0)
    assert trainer.ticks.due(START + 4, flush=1.0) == [0]
    trainer.ticks.tick([0], START + 4)
    trainer.drain()
    assert not trainer.ticks.due(START + 100, flush=1.0), "the end of the window closes nothing more"


def test_a_full_log_costs_a_tick_and_is_counted(make_trainer: Callable[..., Trainer]) -> None:
    log = FullLog()
    trainer = make_trainer(log)
    trainer.restore()
    log.full = True
    trainer.ticks.tick([0], START)
    assert trainer.failures == {"tick": 1}
    assert "no room" in trainer.notices[0]


def test_a_checkpoint_cut_in_half_falls_back_to_the_one_before(make_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    log = MemoryLog()
    log.append(records(list(two_tribes(0, 60))))
    first = make_trainer(log, folder=tmp_path)
    first.restore()
    for _ in range(12):
        first.turn()
    first.save()
    older = first.pipeline.version
    first.drain()
    newest = first.save()
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    second = make_trainer(log, folder=tmp_path)
    second.restore()
    assert second.pipeline.version == older
    assert newest.name in second.notices[0]
    second.drain()
    assert second.digest() == first.digest()


def test_a_disk_without_room_costs_a_checkpoint_and_is_counted(
    make_trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = MemoryLog()
    log.append(records(list(two_tribes(0, 60))))
    trainer = make_trainer(log, folder=tmp_path, every=1e-9)
    trainer.restore()
    monkeypatch.setattr(checkpoint, "save", no_room)
    trainer.drain()
    with pytest.raises(OSError, match="No space"):
        trainer.save()
    assert trainer.failures["checkpoint"] >= 1
    assert "No space" in trainer.notices[0]
    monkeypatch.undo()
    assert trainer.save() is not None, "tried again although nothing was learned since"


def test_what_no_checkpoint_needs_is_trimmed_and_a_fallback_still_works(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    log = MemoryLog()
    log.append(records(list(two_tribes(0, 400))))
    trainer = make_trainer(log, folder=tmp_path, retain=100)
    trainer.restore()
    begins = []
    while trainer.turn():
        if trainer.pipeline.version % 10 == 0:
            trainer.save()
            begins.append(log.begin()[0])
    assert begins[:2] == [0, 0], "three checkpoints are kept, and each may be needed"
    assert begins[-1] > 500
    assert begins[-1] <= trainer.next[0] - 100
    for path in sorted(tmp_path.glob("*.safetensors"))[1:]:
        path.write_bytes(b"torn")
    again = make_trainer(log, folder=tmp_path, retain=100)
    again.restore()
    again.drain()
    assert again.digest() == trainer.digest()


def test_trimmed_records_are_reported(make_trainer: Callable[..., Trainer]) -> None:
    log = MemoryLog()
    log.append(records(list(two_tribes(0, 20))))
    log.trim({0: 50})
    trainer = make_trainer(log)
    trainer.restore()
    trainer.drain()
    assert "record 50" in trainer.notices[0]
