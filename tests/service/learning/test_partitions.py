"""A log of several partitions: their order is recorded, so every state can be reproduced."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.config import Config, ConfigError
from service.evaluation.replay import replay
from service.learning.feedback import FeedbackBuilder
from service.learning.order import LedgerOrder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import LEDGER, build_pipeline, joiners, open_runtime
from service.recovery.ledger import Ledger
from streams.codec import encode
from streams.dead_letters import DeadLetters
from streams.events import Impression, Interaction, Tick
from streams.lmdb_log import LmdbLog
from streams.log import Log, MemoryLog, Record, key_for_partition, partition_of
from tests.service.conftest import records
from tests.service.process.test_engine import wait_until
from tests.worlds import START, busy_world

EVENTS = list(busy_world(seed=1, length=300))
MakeConfig = Callable[..., Config]


def filled(partitions: int = 4) -> MemoryLog:
    log = MemoryLog(partitions)
    log.append(records(EVENTS))
    return log


def trainer(config: Config, log: Log, dead: DeadLetters | None = None, **keywords: object) -> Trainer:
    pipeline = build_pipeline(config)
    made = Trainer(
        pipeline,
        FeedbackBuilder(pipeline, config.reward),
        joiners(config, len(log.end())),
        log,
        dead or DeadLetters(MemoryLog()),
        EventValidator(config.reward, config.stream.max_skew),
        **keywords,
    )
    made.restore()
    return made


def test_another_order_is_another_state_and_the_ledger_tells_which_it_was(make_config: MakeConfig) -> None:
    log, kept = filled(), MemoryLog()
    config = make_config()
    live = trainer(config, log, poll=7, ledger=Ledger(kept))
    live.drain()
    other = trainer(config, log, poll=100)
    other.drain()
    assert other.digest() != live.digest()
    live._flush_ledger()
    again = trainer(config, log, order=LedgerOrder(log, 50, Ledger(kept).runs(), None))
    again.drain()
    assert again.digest() == live.digest()
    assert again.pipeline.version == live.pipeline.version > 50


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_it_takes_up_its_own_history(seed: int, make_config: MakeConfig, tmp_path: Path) -> None:
    """Each process learns some turns past its last checkpoint and is killed; the ledger's content counts."""
    rng = random.Random(seed)
    config, log, kept = make_config(), filled(), MemoryLog()
    lives = 0
    while True:
        life = trainer(config, log, poll=rng.choice([5, 7, 60]), folder=tmp_path, ledger=Ledger(kept))
        turns = [life.turn() for _ in range(rng.randint(1, 12))]
        if not turns[-1]:
            break
        if rng.random() < 0.7:
            life.save()
        for _ in range(rng.randint(0, 15)):
            life.turn()
            if rng.random() < 0.3:
                life._flush_ledger()
        lives += 1
        life.close()
    assert lives >= 10
    life._flush_ledger()
    again = trainer(config, log, order=LedgerOrder(log, 50, Ledger(kept).runs(), None))
    again.drain()
    assert again.digest() == life.digest()
    assert again.reader.counts == trainer_counts(config, log)


def trainer_counts(config: Config, log: Log) -> dict[str, int]:
    """Counts of the joiners, which do not depend on the order of the partitions."""
    plain = trainer(config, log)
    plain.drain()
    return plain.reader.counts


def test_each_partition_gets_its_own_tick(make_config: MakeConfig) -> None:
    log = MemoryLog(3)
    user = next(f"u{n}" for n in range(100) if partition_of(f"u{n}".encode(), 3) == 1)
    made = trainer(make_config(), log)
    log.append(records([Impression(request_id="r", user=user, items=("a", "b"), timestamp=START)]))
    made.drain()
    assert made.ticks.due(START, 0.5) == []
    assert made.ticks.due(START + 0.6, 0.5) == [1]
    made.ticks.tick([1], START + 0.6)
    assert log.end() == {0: 0, 1: 2, 2: 0}
    made.drain()
    assert not made.reader.pending
    assert made.ticks.due(START + 19.9, 0.5) == []
    assert made.ticks.due(START + 20, 0.5) == [1], "its window has ended"


def test_a_bad_record_is_reported_once_in_each_partition(make_config: MakeConfig) -> None:
    log, letters = MemoryLog(2), MemoryLog()
    log.append([(key_for_partition(p, 2), b"bad %d" % p) for p in (0, 1, 0)])
    for _ in range(2):
        trainer(make_config(), log, DeadLetters(letters)).drain()
    places = sorted((letter.partition, letter.offset) for letter in DeadLetters(letters).read())
    assert places == [(0, 0), (0, 1), (1, 0)]


def test_served_from_four_partitions_it_is_replayed_with_its_ledger(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    config = make_config(folder, stream={"options": {"partitions": 4}})
    for half in (EVENTS[:400], EVENTS[400:]):
        with open_runtime(config) as runtime:
            for start in range(0, len(half), 7):
                runtime.log.append(records(half[start : start + 7]))
                runtime.engine.wake()
            wait_until(runtime, lambda runtime=runtime: runtime.updater.lag() == 0 and not runtime.updater.reader.pending)
            digest = runtime.engine.call(runtime.updater.digest).result(10)
            version = runtime.pipeline.version
    assert config.checkpoints is not None
    with_ledger = replay(config, ledger=config.checkpoints / LEDGER)
    assert with_ledger.digest == digest
    assert version > 50
    without = replay(config)
    assert without.digest == replay(config).digest, "without a ledger, the order is by time, so always the same"
    assert without.rows == with_ledger.rows


def test_a_ledger_of_something_else_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path / "data", stream={"options": {"partitions": 2}})
    log = LmdbLog(tmp_path / "data" / "events", partitions=2)
    log.append([(key_for_partition(0, 2), encode(Tick(timestamp=START)))])
    log.close()
    ledger = Ledger(LmdbLog(tmp_path / "ledger"))
    ledger.start({0: 3, 1: 0})
    ledger.note([Record(0, 3, b"", b"", START)])
    ledger.flush()
    ledger.close()
    with pytest.raises(ConfigError, match=r"it begins at \{0: 3, 1: 0\}, but the log at \{0: 0, 1: 0\}"):
        replay(config, ledger=tmp_path / "ledger")


def test_as_of_is_what_a_click_has_to_be_older_than_to_be_learned(make_config: MakeConfig) -> None:
    log = MemoryLog(2)
    made = trainer(make_config(), log)
    assert made.pipeline.lag is None, "unknown before the first read"
    made.turn()
    looked = made.pipeline.as_of
    assert time.time() - 5 < looked <= time.time()
    users = [next(f"u{n}" for n in range(100) if partition_of(f"u{n}".encode(), 2) == p) for p in range(2)]
    log.append(records([Interaction(user=users[0], item="i")]))
    made.drain()
    (clicked,) = [record.timestamp for record in log.read({0: 0, 1: 0}, 9)]
    assert made.pipeline.version == 0
    assert made.pipeline.as_of == clicked, "it waits in an open batch, whatever arrives in the other partition"
    log.append(records([Interaction(user=users[1], item="i") for _ in range(16)]))
    made.drain()
    assert made.pipeline.version == 1
    assert made.pipeline.as_of == clicked
    made.ticks.tick([0], time.time())
    made.drain()
    assert made.pipeline.version == 2
    assert made.pipeline.as_of > clicked
