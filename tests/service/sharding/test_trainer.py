"""Several processes learn what one learns, byte for byte, whichever owns a partition; a restart takes up where they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners.features import hash_id
from memory import checkpoint as checkpoints
from memory.stateful import digest
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from service.recovery.ledger import Ledger
from service.recovery.snapshots import split_snapshots
from service.sharding import trainer as sharding
from service.sharding.keeping import recorded_rounds
from streams.dead_letters import DeadLetters
from streams.events import Event, Forget, Impression, Interaction
from streams.log import Log, MemoryLog, Offsets, Record
from tests.service.conftest import records
from tests.sharded import Together, in_threads, train, trainer
from tests.worlds import START, busy_world

EVENTS = list(busy_world(seed=1, length=300))
MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "ROUND", 160)


def filled(events: list[Event] | None = None, partitions: int = 4) -> MemoryLog:
    log = MemoryLog(partitions)
    log.append(records(EVENTS if events is None else events))
    return log


def single(config: Config, log: Log) -> Trainer:
    """The ordinary trainer, after it has learned everything."""
    pipeline = build_pipeline(config)
    made = Trainer(
        pipeline,
        FeedbackBuilder(pipeline, config.reward),
        joiners(config, len(log.end())),
        log,
        DeadLetters(MemoryLog()),
        EventValidator(config.reward, config.stream.max_skew),
    )
    made.restore()
    made.drain()
    return made


def test_two_and_four_ranks_learn_exactly_what_one_learns(make_config: MakeConfig) -> None:
    """With one of everything: retrievers, statistics, negatives, a ranker, ReLoop2."""
    config, log = make_config(), filled()
    (one,) = train(config, log, 1)
    assert one.pipeline.version > 20
    for ranks in (2, 4):
        made = train(config, log, ranks)
        assert {each.digest() for each in made} == {one.digest()}
        assert all(each.next == log.end() and each.caught_up and not each.notices for each in made)
        assert sum((each.reader.counts for each in made), Counter()) == one.reader.counts


def test_counts_are_those_of_the_ordinary_trainer(make_config: MakeConfig) -> None:
    """Sums do not depend on the order of the rows, so they are equal to those of a trainer without rounds."""
    config = make_config(
        retrievers={"popularity": {"capacity": 100, "half_life": 0.0}, "item_knn": {"capacity": 100, "users": 100}}
    )
    # A deleted item is in another partition than its clicks, so its counts depend on the order of the partitions.
    log = filled([event for event in EVENTS if isinstance(event, Impression | Interaction)])
    plain, (made, _) = single(config, log), train(config, log, 2)

    def counts(state: Any) -> dict[int, float]:
        items = state.retrievers.named["popularity"].items
        return {int(items.keys[slot]): float(items["count"][slot]) for slot in items.slots()}

    assert counts(made.pipeline) == counts(plain.pipeline)
    assert len(counts(plain.pipeline)) > 5

    def likes(state: Any) -> dict[int, float]:
        knn = state.retrievers.named["item_knn"]
        return {int(key): float(n) for key, n in zip(knn.items.keys, knn.counts["likes"], strict=True) if key}

    assert likes(made.pipeline) == likes(plain.pipeline)
    assert made.reader.counts["interactions"] < plain.reader.counts["interactions"]


def test_a_forgotten_user_is_forgotten_by_all(make_config: MakeConfig) -> None:
    clicks: list[Event] = [
        Interaction(id=f"e{n}", user=f"u{n % 7}", item=f"i{n % 5}", kind="click", timestamp=START + n) for n in range(140)
    ]
    made = train(make_config(), filled([*clicks, Forget(user="u3")]), 2)
    users = [each.pipeline.users for each in made]
    assert all(
        catalog.find(np.array([hash_id("u3")]))[0] < 0 <= catalog.find(np.array([hash_id("u4")]))[0] for catalog in users
    )
    assert len({each.digest() for each in made}) == 1


class _Dies(MemoryLog):
    """A log whose reader dies: the process ends in the middle of a round."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(len(log.end()))
        self._records, self.left = log._records, 1000

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        self.left -= 1
        if self.left < 0:
            raise OSError("killed")
        return super().read(offsets, limit)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 3), (4, 1)])
def test_after_the_death_of_one_all_continue_as_if_nothing_had_happened(
    before: int, after: int, make_config: MakeConfig, tmp_path: Path
) -> None:
    """They return to the last checkpoint, and the number of processes may be another one."""
    config, log = make_config(), filled()
    together = Together(before)
    peers = [together.peer(rank) for rank in range(before)]
    kept = MemoryLog()
    mortal = _Dies(log)
    logs: list[Log] = [log] * (before - 1) + [mortal]
    first = [
        trainer(config, one, peer, tmp_path, ledger=Ledger(kept) if peer.rank == 0 else None)
        for one, peer in zip(logs, peers, strict=True)
    ]

    def run(number: int) -> None:
        one = first[number]
        try:
            one.restore()
            one.turn()
            one._checkpoint(at_once=True)
            mortal.left = 1
            one.drain()
        except OSError:
            one.close()

    in_threads([lambda n=n: run(n) for n in range(before)])  # type: ignore[misc]
    assert first[0].next != log.end()
    again = train(config, log, after, tmp_path, ledger=Ledger(kept))
    assert 0 < first[0].pipeline.version < again[0].pipeline.version
    assert {each.digest() for each in again} == {train(config, log, 1)[0].digest()}


def test_a_single_trainer_continues_from_their_checkpoint(make_config: MakeConfig, tmp_path: Path) -> None:
    config, log = make_config(), filled()
    made = train(config, log, 2, tmp_path)
    in_threads([each.save for each in made])
    pipeline = build_pipeline(config)
    plain = Trainer(
        pipeline,
        FeedbackBuilder(pipeline, config.reward),
        joiners(config, 4),
        log,
        DeadLetters(MemoryLog()),
        EventValidator(config.reward, config.stream.max_skew),
        folder=tmp_path,
    )
    plain.restore()
    assert plain.digest() == made[0].digest()
    assert plain.next == log.end()
    assert plain.reader.open_impressions == sum(each.reader.open_impressions for each in made) > 0


def test_after_a_stop_all_have_saved_the_same_round(make_config: MakeConfig, tmp_path: Path) -> None:
    """One of them is stopped while the others want another round."""
    config, log = make_config(), filled()
    together = Together(3)
    made = [trainer(config, log, together.peer(rank), tmp_path) for rank in range(3)]

    def run(number: int) -> None:
        made[number].restore()
        made[number].turn()
        if number == 1:
            made[number].save()
        else:
            with pytest.raises(ConnectionError, match="start all of them again"):
                made[number].drain()

    in_threads([lambda n=n: run(n) for n in range(3)])  # type: ignore[misc]
    saved = checkpoints.load(checkpoints.path_of(tmp_path, made[0].pipeline.version))
    assert digest(split_snapshots(saved.state)[1]) == made[2].digest() == made[1].digest()
    assert made[0].next == {0: 80, 1: 40, 2: 80, 3: 80}, "the stopped one had read nothing more"


def test_states_that_differ_are_counted_and_become_those_of_process_0(make_config: MakeConfig, tmp_path: Path) -> None:
    config, log = make_config(), filled()
    made = train(config, log, 2, tmp_path)
    made[1].pipeline.ranker.intercept["weights"][0] += 1.0  # type: ignore[attr-defined]
    in_threads([each.save for each in made])
    assert [each.failures["ranks_differ"] for each in made] == [1, 1]
    assert made[0].digest() == made[1].digest()
    assert "differ from that of process 0" in made[1].notices[-1]


def test_the_rounds_are_recorded_and_followed(make_config: MakeConfig, tmp_path: Path) -> None:
    """Records arrive while it learns, so the rounds depend on time. Their ledger leads another one to the same state."""
    config, log, kept = make_config(), MemoryLog(4), MemoryLog()
    together = Together(2)
    made = [trainer(config, log, together.peer(rank), tmp_path, ledger=Ledger(kept)) for rank in range(2)]

    def run(number: int) -> None:
        made[number].restore()
        for start in range(0, len(EVENTS), 100):
            if number == 0:
                log.append(records(EVENTS[start : start + 100]))
            made[number].turn()
        made[number].drain()
        made[number].save()

    in_threads([lambda n=n: run(n) for n in range(2)])  # type: ignore[misc]
    rounds = [stops for stops, _ in recorded_rounds(Ledger(kept).runs())]
    assert rounds[-1] == log.end() and len(rounds) > 5
    other = trainer(config, log, Together(1).peer(0))
    other.restore()
    other.follow(rounds)
    other.drain()
    assert other.digest() == made[0].digest() == made[1].digest()
