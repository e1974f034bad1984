"""A replica has the trainer's state, byte for byte, whatever happens to either."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from memory.stateful import digest, without_private
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from service.recovery.ledger import Ledger
from service.replication.replica import Replica
from service.replication.weights import Change, Publisher, pack
from streams.dead_letters import DeadLetters
from streams.log import Log, MemoryLog
from tests.service.conftest import records
from tests.worlds import busy_world

EVENTS = list(busy_world(seed=1, length=300))
MakeConfig = Callable[..., Config]


class Now(Publisher):
    """A publisher that writes synchronously, and is due after every micro-batch."""

    def __init__(self, log: Log) -> None:
        super().__init__(log, every=1e-9)

    def publish(self, change: Change) -> None:
        super().publish(change)
        assert self._writing is not None
        self._writing.result(10)


class World:
    """A log of events in several partitions, a weights log, and a folder of checkpoints."""

    def __init__(self, config: Config, folder: Path, partitions: int = 2) -> None:
        self.config, self.folder = config, folder
        self.events, self.weights, self.kept = MemoryLog(partitions), MemoryLog(), MemoryLog()
        self.events.append(records(EVENTS))

    def trainer(self, poll: int = 30, keep: int = 2) -> Trainer:
        pipeline = build_pipeline(self.config)
        made = Trainer(
            pipeline,
            FeedbackBuilder(pipeline, self.config.reward),
            joiners(self.config, len(self.events.end())),
            self.events,
            DeadLetters(MemoryLog()),
            EventValidator(self.config.reward, self.config.stream.max_skew),
            folder=self.folder,
            every=1e9,
            keep=keep,
            poll=poll,
            ledger=Ledger(self.kept) if len(self.events.end()) > 1 else None,
            publisher=Now(self.weights),
        )
        made.restore()
        return made

    def replica(self) -> Replica:
        return Replica(build_pipeline(self.config), lambda: self.weights, self.folder)


@pytest.fixture
def world(make_config: MakeConfig, tmp_path: Path) -> World:
    return World(make_config(), tmp_path)


def follow(replica: Replica) -> None:
    while replica.turn():
        pass


def shared_digest(one: Trainer | Replica) -> str:
    """Of what a replica has of a trainer's state."""
    return digest(without_private(one.pipeline, one.pipeline.state_dict()))


def states(trainer: Trainer, replica: Replica) -> tuple[object, object]:
    return (
        (shared_digest(trainer), trainer.pipeline.version, trainer.next),
        (shared_digest(replica), replica.pipeline.version, replica.next),
    )


def test_it_has_the_trainers_state_at_every_change(world: World) -> None:
    trainer, replica = world.trainer(), world.replica()
    turns = 0
    while trainer.turn():
        follow(replica)
        if trainer.reader.at_boundary:
            one, other = states(trainer, replica)
            assert one == other
        turns += 1
    assert turns > 50
    assert replica.loads == 1
    assert replica.caught_up
    assert 0 < replica.pipeline.as_of <= trainer.pipeline.as_of


@pytest.mark.parametrize("model", ["river.linear_model.LogisticRegression", "river.tree.HoeffdingTreeClassifier"])
def test_it_follows_a_model_of_another_library_from_a_folder_that_others_may_write(
    make_config: MakeConfig, tmp_path: Path, model: str
) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    world = World(make_config(ranker={"river_model": {"model": model, "bits": 10}}, rerankers={}), folder)
    trainer, replica = world.trainer(), world.replica()
    for _ in range(40):
        trainer.turn()
    follow(replica)
    trainer.save()
    late = world.replica()
    trainer.drain()
    for one in (replica, late):
        follow(one)
        whole, followed = states(trainer, one)
        assert whole == followed and one.pipeline.version > 10 and not one.failures


def test_one_that_comes_late_begins_with_a_checkpoint_and_needs_nothing_from_before(world: World) -> None:
    trainer = world.trainer()
    for _ in range(40):
        trainer.turn()
    trainer.save()
    world.weights.trim({0: trainer.checkpoint().meta["weights"]})
    replica = world.replica()
    follow(replica)
    trainer.drain()
    follow(replica)
    one, other = states(trainer, replica)
    assert one == other
    assert replica.loads == 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("partitions", [1, 3])
def test_when_the_trainer_is_killed_it_goes_on_and_no_version_is_older_than_the_one_before(
    seed: int, partitions: int, make_config: MakeConfig, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    world = World(make_config(), tmp_path, partitions)
    replica = world.replica()
    folded, kills = 0, 0
    while True:
        # A trainer trims what its kept checkpoints do not need, and a replica that is behind then loads one: not here.
        trainer = world.trainer(poll=rng.choice([5, 7, 60]), keep=1000)
        more = [trainer.turn() for _ in range(rng.randint(1, 10))]
        if rng.random() < 0.7:
            trainer.save()
        for _ in range(rng.randint(0, 15)):
            trainer.turn()
            for _ in range(rng.randint(0, 2)):
                replica.turn()
            at = replica._position
            assert at >= folded
            folded = at
        if not more[-1]:
            break
        kills += 1
    follow(replica)
    one, other = states(trainer, replica)
    assert one == other
    assert kills >= 8
    assert replica.loads == 1, "the records give the same state again, so nothing had to be loaded"


def test_a_gap_is_closed_by_the_newest_checkpoint(world: World) -> None:
    trainer, replica = world.trainer(), world.replica()
    for _ in range(20):
        trainer.turn()
    follow(replica)
    for _ in range(20):
        trainer.turn()
    before = replica.pipeline.version
    world.weights.trim({0: world.weights.end()[0]})
    for _ in range(20):
        trainer.turn()
    follow(replica)
    assert replica.pipeline.version == before, "no checkpoint is new enough, so it keeps its state"
    assert "waiting for a newer checkpoint" in replica.notices[-1]
    trainer.save()
    trainer.drain()
    follow(replica)
    one, other = states(trainer, replica)
    assert one == other
    assert replica.loads == 2


def test_a_new_history_is_taken_over_and_what_an_old_trainer_writes_late_is_not(world: World, tmp_path: Path) -> None:
    old, replica = world.trainer(), world.replica()
    for _ in range(30):
        old.turn()
    follow(replica)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    new = world.trainer()
    assert new._epoch > old._epoch
    new.turn()
    old.turn()
    new.turn()
    follow(replica)
    one, other = states(new, replica)
    assert one == other
    new.drain()
    follow(replica)
    one, other = states(new, replica)
    assert one == other
    assert replica.loads == 2


def test_it_waits_for_a_trainer_that_was_never_there(make_config: MakeConfig, tmp_path: Path) -> None:
    def missing() -> Log:
        raise FileNotFoundError(2, "no log here; start its writer first", "somewhere")

    replica = Replica(build_pipeline(make_config()), missing, tmp_path)
    assert not replica.turn()
    assert "start its writer first" in replica.notices[-1]
    without = Replica(build_pipeline(make_config()), MemoryLog, tmp_path)
    assert not without.turn()
    assert "run `freshet train` with the same config file" in without.notices[-1]
    assert not without.caught_up
    assert len(without.notices) == 1
    without.turn()
    assert len(without.notices) == 1, "reported once"


def test_a_record_that_is_not_a_change_is_counted_and_skipped(world: World) -> None:
    trainer, replica = world.trainer(), world.replica()
    for _ in range(10):
        trainer.turn()
    world.weights.append([(b"", b"what is this")])
    trainer.drain()
    follow(replica)
    assert replica.failures == {"weights": 1}
    one, other = states(trainer, replica)
    assert one == other


def test_it_answers_only_after_it_has_applied_what_was_there_at_its_start(world: World) -> None:
    trainer, first = world.trainer(), world.replica()
    trainer.save()
    trainer.drain()
    follow(first)
    again = world.replica()
    assert again.turn()
    assert again.pipeline.version < first.pipeline.version
    while not again.caught_up:
        assert again.turn()
    assert again.pipeline.version == first.pipeline.version


def test_a_change_of_one_part_missing_is_a_gap(world: World) -> None:
    trainer, replica = world.trainer(), world.replica()
    for _ in range(10):
        trainer.turn()
    follow(replica)
    state = trainer.pipeline.take_changes()
    beyond = Change(trainer._epoch, trainer.reader.position + 9, 99, {}, 0.0, state, since=trainer.reader.position + 5)
    world.weights.append([(b"", value) for value in pack(beyond)])
    assert replica.turn()
    assert "are missing; loading the newest checkpoint" in replica.notices[-1]
    assert replica.pipeline.version == trainer.pipeline.version
