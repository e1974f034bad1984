"""Members of a group: whatever happens to them, every event counts once in the end."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from memory import checkpoint as checkpoints
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.group import Member, member_name
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from streams.codec import encode
from streams.dead_letters import DeadLetters
from streams.events import ItemUpdate, Tick
from streams.joined import Position
from streams.kafka.group import Commit, Fenced
from streams.log import MemoryLog, key_for_partition
from tests.service.conftest import records
from tests.worlds import START, busy_world

PARTITIONS = 4
EVENTS = [event for event in busy_world(seed=1, length=300) if not (isinstance(event, ItemUpdate) and event.deleted)]
"""No deletions: they drop an item's count, and the order of partitions would change the sum."""

MakeConfig = Callable[..., Config]


class Group:
    """A coordinator: members, their partitions, and commits."""

    def __init__(self) -> None:
        self.seats: list[Seat] = []
        self.commits: dict[int, Commit] = {}
        self.generation = 0

    def change(self) -> None:
        self.generation += 1

    def share(self, seat: Seat) -> frozenset[int]:
        at = self.seats.index(seat)
        return frozenset(p for p in range(PARTITIONS) if p % len(self.seats) == at)


class Seat:
    """GroupMember of a `Group`. It refuses a commit after an unnoticed change; the result of a commit can also be unknown."""

    def __init__(
        self, group: Group, name: str, revoked: Callable[[frozenset[int]], None], lost: Callable[[frozenset[int]], None]
    ) -> None:
        self.group, self.name, self._revoked, self._lost = group, name, revoked, lost
        self.owned: frozenset[int] = frozenset()
        self.generation = -1
        self.expelled = False
        self.doubt: bool | None = None
        group.seats.append(self)
        group.change()

    def poll(self) -> Mapping[int, Commit | None] | None:
        if self.expelled:
            self.expelled = False
            owned, self.owned = self.owned, frozenset()
            self._lost(owned)
            self.group.seats.append(self)
            self.group.change()
        if self.generation == self.group.generation:
            return None
        if self.owned:
            self._revoked(self.owned)
            self.owned = frozenset()
        if any(seat.owned and seat.generation != self.group.generation for seat in self.group.seats):
            return None  # others still own some partitions
        self.generation = self.group.generation
        self.owned = self.group.share(self)
        return {partition: self.group.commits.get(partition) for partition in self.owned}

    def commit(self, version: int, positions: Mapping[int, Position]) -> None:
        if self.expelled:
            raise Fenced("expelled")
        doubt, self.doubt = self.doubt, None
        if doubt is not False:
            assert positions.keys() == self.owned
            for partition, position in positions.items():
                before = self.group.commits.get(partition)
                members = before.members if before else {}
                assert members.get(self.name, 0) <= version
                self.group.commits[partition] = Commit(position, members | {self.name: version})
        if doubt is not None:
            self.group.change()
            raise ConnectionError(errno.ETIMEDOUT, "no answer", "group")

    def committed(self) -> Mapping[int, Commit]:
        return dict(self.group.commits)

    def leave(self) -> None:
        if self.owned:
            self._revoked(self.owned)
        self.owned = frozenset()
        self.vanish()

    def vanish(self) -> None:
        """End the process; the group has noticed."""
        self.owned = frozenset()
        self.group.seats.remove(self)
        self.group.change()

    def expel(self) -> None:
        """Let the group consider a live member dead, before the member knows."""
        self.group.seats.remove(self)
        self.expelled = True
        self.group.change()


class World:
    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder, self.group = config, folder, Group()
        self.log = MemoryLog(PARTITIONS)
        self.log.append(records(EVENTS))
        self.log.append([(key_for_partition(p, PARTITIONS), encode(Tick(timestamp=START + 1e6))) for p in range(PARTITIONS)])

    def member(self, name: str, every: float = 0.0) -> Member:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        pipeline = build_pipeline(self.config)
        outcomes = FeedbackBuilder(pipeline, self.config.reward)
        validator = EventValidator(self.config.reward, self.config.stream.max_skew)
        dead = DeadLetters(MemoryLog())
        trainer = Trainer(pipeline, outcomes, joiners(self.config, PARTITIONS), self.log, dead, validator, poll=20)
        made = Member(trainer, lambda revoked, lost: Seat(self.group, name, revoked, lost), name, folder, every)
        made.restore()
        return made

    def counted(self) -> float:
        """Sum of the counts in the committed checkpoints of all members."""
        numbers: dict[str, int] = {}
        for commit in self.group.commits.values():
            for name, number in commit.members.items():
                numbers[name] = max(number, numbers.get(name, 0))
        return sum(
            count_in(checkpoints.load(checkpoints.path_of(self.folder / name, number)).state)
            for name, number in numbers.items()
        )


def count_in(state: Mapping[str, np.ndarray]) -> float:
    (counts,) = [array for name, array in state.items() if name.startswith("retrievers.popularity") and name.endswith("count")]
    return float(counts.sum())


@pytest.fixture
def world(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("service.learning.group.POLL_SECONDS", 0.0)
    return World(make_config(retrievers={"popularity": {"capacity": 100, "half_life": 0}}), tmp_path)


def alone(world: World) -> float:
    """Count of a single trainer that learns from all partitions."""
    pipeline = build_pipeline(world.config)
    validator = EventValidator(world.config.reward, world.config.stream.max_skew)
    outcomes, dead = FeedbackBuilder(pipeline, world.config.reward), DeadLetters(MemoryLog())
    trainer = Trainer(pipeline, outcomes, joiners(world.config, PARTITIONS), world.log, dead, validator)
    trainer.restore()
    trainer.drain()
    return count_in(pipeline.state_dict())


def run(members: list[Member], turns: int) -> None:
    for _ in range(turns):
        for member in members:
            member.turn()


def finish(world: World, members: list[Member]) -> None:
    """Learn everything, commit, and leave."""
    for member in members:
        member._every = 1e9
    idle = 0
    while idle < 10:
        idle = 0 if sum(member.turn() for member in members) else idle + 1
    for member in members:
        member.save()


def test_one_member_learns_everything_once(world: World) -> None:
    member = world.member("a")
    run([member], 50)
    finish(world, [member])
    assert world.counted() == alone(world) > 300
    assert member.number > 10


def test_members_that_join_and_leave_hand_over(world: World) -> None:
    a = world.member("a")
    run([a], 50)
    b = world.member("b")
    run([a, b], 20)
    assert a._group.owned | b._group.owned == frozenset(range(PARTITIONS))
    assert len(a._group.owned) == len(b._group.owned) == 2
    c = world.member("c")
    run([a, b, c], 20)
    a.save()
    finish(world, [b, c])
    assert world.counted() == alone(world)
    assert a.fenced == b.fenced == c.fenced == 0


def test_what_a_killed_member_had_not_committed_is_learned_by_others(world: World) -> None:
    a, b = world.member("a"), world.member("b", every=1e9)
    run([a, b], 40)
    version = b.trainer.pipeline.version
    assert version > 0
    assert b.number == 0
    b._group.vanish()
    run([a], 40)
    again = world.member("b")
    finish(world, [a, again])
    assert world.counted() == alone(world)


def test_a_member_considered_dead_discards_what_was_not_committed(world: World) -> None:
    a, b = world.member("a"), world.member("b", every=1e9)
    run([a, b], 40)
    b._group.expel()
    run([a], 20)
    finish(world, [a, b])
    assert b.fenced == 1
    assert "returning to checkpoint 0" in b.notices[0]
    assert world.counted() == alone(world)


def test_a_refused_commit_discards_too(world: World) -> None:
    a, b = world.member("a"), world.member("b", every=1e9)
    run([a, b], 40)
    b._group.expel()
    b._every = 0.0
    b._polled_at = 1e18  # it commits before it hears that it was expelled
    b.turn()
    assert b.fenced == 1
    b._polled_at = 0.0
    finish(world, [a, b])
    assert world.counted() == alone(world)


@pytest.mark.parametrize("done", [True, False])
def test_the_group_decides_about_a_commit_with_an_unknown_result(done: bool, world: World) -> None:
    a = world.member("a")
    run([a], 40)
    number = a.number
    a._group.doubt = done
    run([a], 3)
    assert a.trainer.failures == {"group": 1}
    assert a.fenced == 1
    run([a], 3)
    assert a.number >= number + done
    finish(world, [a])
    assert world.counted() == alone(world)


def test_a_full_disk_costs_nothing_but_the_checkpoint(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    a = world.member("a")
    run([a], 40)
    monkeypatch.setattr(checkpoints, "save", full)
    run([a], 40)
    assert a.trainer.failures["checkpoint"] > 0
    assert a.fenced == 0
    b = world.member("b")
    run([a, b], 5)
    assert a.fenced == 1, "the next owner learns what could not be saved"
    assert not b.caught_up, "it cannot even write its first checkpoint"
    monkeypatch.undo()
    monkeypatch.setattr("service.learning.group.POLL_SECONDS", 0.0)
    finish(world, [a, b])
    assert world.counted() == alone(world)


@pytest.mark.parametrize("seed", range(5))
def test_any_course_of_events_ends_with_every_event_counted_once(seed: int, world: World) -> None:
    rng = random.Random(seed)
    members = {"a": world.member("a")}
    for _ in range(40):
        run(list(members.values()), rng.randint(1, 15))
        name = rng.choice("abc")
        member = members.get(name)
        if member is None:
            members[name] = world.member(name, every=rng.choice([0.0, 0.002, 1e9]))
        elif len(members) > 1 or rng.random() < 0.3:
            what = rng.choice(["leave", "kill", "expel", "doubt", "doubt", "nothing"])
            if what == "leave":
                member.save()
                del members[name]
            elif what == "kill":
                if member._group.expelled:
                    continue
                member._group.vanish()
                del members[name]
            elif what == "expel" and not member._group.expelled:
                member._group.expel()
            elif what == "doubt":
                member._group.doubt = rng.random() < 0.5
    if not members:
        members["a"] = world.member("a")
    for member in members.values():
        member._group.doubt = None
    finish(world, list(members.values()))
    assert world.counted() == alone(world)


def test_commits_that_the_broker_lost_are_noticed(world: World) -> None:
    member = world.member("a")
    run([member], 50)
    member._group.vanish()
    world.group.commits.clear()
    again = world.member("a")
    with pytest.raises(LookupError, match="the broker has forgotten the commits, or they were reset"):
        run([again], 2)


def test_a_member_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert member_name(tmp_path / "one") == member_name(tmp_path / "one") != member_name(tmp_path / "two")
