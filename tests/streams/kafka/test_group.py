"""Owners and commits of partitions, with a real broker and members that join, leave, hang and die."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka import errors as failures

from streams.joined import Position
from streams.kafka.errors import NoBroker, NotAllowed
from streams.kafka.group import MAX_METADATA_BYTES, Commit, Fenced
from tests.broker import GIVEN, Broker, keeping
from tests.keeper import Keeper
from tests.streams.kafka.members import SESSION, Join, Member, Process, drive, expelled, settle

# A client that gives up in the middle of connecting leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="session")
def keeper(broker: Broker) -> Iterator[Keeper]:
    with keeping(broker) as opened:
        yield opened


@pytest.fixture
def join() -> Iterator[Join]:
    members: list[Member] = []

    def join_one(*arguments: Any, **keywords: Any) -> Member:
        members.append(Member(*arguments, **keywords))
        return members[-1]

    yield join_one
    for member in members:
        member.group.owned, member.group._joining = frozenset(), None
        member.group.leave()
    gc.collect()


# ---- joining and leaving


def test_members_share_the_partitions_and_hand_them_over_with_what_is_committed(
    broker: Broker, keeper: Keeper, join: Join
) -> None:
    topic = broker.topic(4)
    first = join(keeper.servers, topic, 4, "first")
    assert first.group.poll() is None, "it takes a while"
    settle(first, partitions=4)
    assert first.commits == dict.fromkeys(range(4)), "nothing was ever committed"
    assert first.group.committed() == {}

    second = join(keeper.servers, topic, 4, "second")
    settle(first, second, partitions=4)
    assert [what for what, _ in first.events] == ["owns", "revoked", "owns"]
    assert first.events[1] == ("revoked", frozenset(range(4)))
    for member in (first, second):
        assert member.commits == {partition: Commit(first.position(partition), {"first": 1}) for partition in member.owned}

    first.commit()
    assert not keeper.commits or keeper.commits[-1] == first.owned, "one request"
    kept, moved = first.owned, second.owned
    second.group.leave()
    assert second.events[-1] == ("revoked", moved)
    assert second.owned == frozenset()
    settle(first, partitions=4)
    for partition, commit in first.commits.items():
        assert commit is not None
        assert commit.members == ({"first": 3} if partition in kept else {"first": 1, "second": 1})
    assert first.commits == first.group.committed()

    first.group.leave()
    first.group.leave()
    assert not [thread.name for thread in threading.enumerate() if thread.name.endswith(("first", "second"))]
    for call in (first.group.poll, first.group.committed, lambda: first.group.commit(9, {})):
        with pytest.raises(ValueError, match="has left group"):
            call()


def test_a_member_joins_when_it_knows_the_partitions_so_that_it_does_not_own_nothing_first(
    broker: Broker, keeper: Keeper, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first member assigns the partitions. A broker that answers quickly lets it join before it has heard of the topic."""
    topic = broker.topic(2)
    member = join(keeper.servers, topic, 2, "member")
    cluster = member.group._coordinator._cluster
    known, calls = cluster.partitions_for_topic, 0

    def late(name: str) -> set[int] | None:
        nonlocal calls
        calls += 1
        return known(name) if calls > 20 else None

    monkeypatch.setattr(cluster, "partitions_for_topic", late)
    settle(member, partitions=2)
    assert member.events == [("owns", frozenset({0, 1}))]


def test_a_member_that_returns_finds_its_versions_in_partitions_of_others(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(2)
    one = join(keeper.servers, topic, 2, "one")
    settle(one, partitions=2)
    one.version = 41
    one.group.leave()
    other = join(keeper.servers, topic, 2, "other")
    settle(other, partitions=2)
    other.commit()
    again = join(keeper.servers, topic, 2, "one")
    settle(other, again, partitions=2)
    assert max(commit.members["one"] for commit in again.group.committed().values()) == 42
    assert max(commit.members["other"] for commit in again.group.committed().values()) == 2


def test_a_member_without_a_partition_owns_nothing(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(1)
    members = [join(keeper.servers, topic, 1, name) for name in ("a", "b")]
    drive(members, lambda: all(member.events and member.events[-1][0] == "owns" for member in members))
    assert sorted(len(member.owned) for member in members) == [0, 1]
    (idle,) = (member for member in members if not member.owned)
    idle.commit()
    with pytest.raises(Fenced):
        idle.group.commit(2, {0: Position()})


def test_a_member_that_leaves_during_its_join_does_not_block_others(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(1)
    brief = join(keeper.servers, topic, 1, "brief")
    drive([brief], lambda: not brief.group._coordinator.coordinator_unknown())
    brief.group.leave()
    assert brief.events == []
    settle(join(keeper.servers, topic, 1, "next"), partitions=1)


def test_revoked_is_called_again_after_it_raised(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(2)
    first = join(keeper.servers, topic, 2, "first")
    settle(first, partitions=2)
    first.refuse = OSError("no room for the checkpoint")
    second = join(keeper.servers, topic, 2, "second")
    with pytest.raises(OSError, match="no room"):
        drive([first, second], lambda: False)
    assert len(first.owned) == 2
    settle(first, second, partitions=2)
    assert [what for what, _ in first.events] == ["owns", "revoked", "owns"]


# ---- being replaced


def test_a_member_that_is_killed_is_replaced(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(2)
    with Process(keeper.servers, topic, 2, f"group-of-{topic}", "killed", SESSION) as killed:
        assert killed.read_line() == "owns [0, 1]"
        killed.send(7)
        assert killed.read_line() == "committed 7"
        killed.process.kill()
        heir = join(keeper.servers, topic, 2, "heir")
        settle(heir, partitions=2)
    assert heir.commits == {partition: Commit(Position(next=7), {"killed": 7}) for partition in (0, 1)}


def test_a_member_that_was_stopped_for_too_long_is_fenced(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(2)
    with Process(keeper.servers, topic, 2, f"group-of-{topic}", "stopped", SESSION) as stopped:
        assert stopped.read_line() == "owns [0, 1]"
        stopped.send(7)
        assert stopped.read_line() == "committed 7"
        stopped.process.send_signal(signal.SIGSTOP)
        stopped.send(8)
        heir = join(keeper.servers, topic, 2, "heir")
        settle(heir, partitions=2)
        heir.version = 10
        heir.commit()
        stopped.process.send_signal(signal.SIGCONT)
        assert {stopped.read_line(), stopped.read_line()} == {"fenced 8", "lost [0, 1]"}
        committed = heir.group.committed()
    assert committed == {partition: Commit(heir.position(partition), {"stopped": 7, "heir": 11}) for partition in (0, 1)}


def test_the_broker_refuses_what_an_expelled_member_commits(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(2)
    old = join(keeper.servers, topic, 2, "old")
    settle(old, partitions=2)
    old.commit()
    new = join(keeper.servers, topic, 2, "new")
    expelled(old, new, 2)
    assert len(old.owned) == 2, "it does not know"
    with pytest.raises(Fenced, match=r"'old' does not own .* \(.*UnknownMemberId.*\); go back to the checkpoint"):
        old.commit()
    assert {commit.position for commit in old.group.committed().values()} == {
        Position(100, 1, 0.1, 0, 2),
        Position(101, 1, 1.1, 1, 2),
    }
    with pytest.raises(Fenced):
        old.commit()
    old.group.poll()
    assert old.events[-1] == ("lost", frozenset({0, 1}))
    assert old.owned == frozenset()
    settle(old, new, partitions=2)
    old.commit()


def test_lost_is_called_when_the_last_commit_is_refused(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(2)
    old, new = join(keeper.servers, topic, 2, "old"), join(keeper.servers, topic, 2, "new")
    settle(old, new, partitions=2)
    expelled(old, new, 2)
    old.group._coordinator.request_rejoin()
    had = old.owned
    old.group.poll()
    assert old.events[-2:] == [("revoked", had), ("lost", had)], "it tried to commit, and was refused"


def test_a_member_that_does_not_poll_loses_its_partitions(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(1)
    slow = join(keeper.servers, topic, 1, "slow", options={"max_poll_interval_ms": 300})
    settle(slow, partitions=1)
    # The test broker never forgets a leader that leaves while another joins: the other comes later.
    drive([], lambda: slow.group._consumer.group_metadata().generation_id < 0)
    other = join(keeper.servers, topic, 1, "other")
    settle(other, partitions=1)
    with pytest.raises(Fenced):
        slow.commit()
    slow.poll()
    assert slow.events[-1] == ("lost", frozenset({0}))


# ---- commits


def test_a_commit_is_for_all_partitions_and_never_for_an_older_version(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(2)
    member = join(keeper.servers, topic, 2, "member")
    settle(member, partitions=2)
    exact = {0: Position(2**53, 2**40, 1_700_000_000.1234567, 63, 7), 1: Position()}
    member.group.commit(5, exact)
    member.group.commit(5, exact)
    assert member.group.committed() == {partition: Commit(position, {"member": 5}) for partition, position in exact.items()}
    with pytest.raises(ValueError, match=r"positions: partitions \[1\] are missing"):
        member.group.commit(6, {0: Position()})
    with pytest.raises(ValueError, match=r"version: 4 is older than 5, which is committed for partition 0.* no other process"):
        member.group.commit(4, exact)
    with pytest.raises(Fenced, match=r"\[0, 1, 2\] are not all among \[0, 1\]"):
        member.group.commit(6, {partition: Position() for partition in range(3)})
    assert member.group.committed()[0].members == {"member": 5}
    settle(member, partitions=2)


def test_metadata_over_the_limit_is_not_sent(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(1)
    fits = MAX_METADATA_BYTES - len('[0,0.0,0,0,0.0,0.0,{"":1}]')
    member = join(keeper.servers, topic, 1, "m" * fits)
    settle(member, partitions=1)
    member.group.commit(1, {0: Position()})
    sent = len(keeper.commits)
    with pytest.raises(ValueError, match="members: the metadata for partition 0 takes 4097 bytes, over Kafka's limit of 4096"):
        member.group.commit(1, {0: Position(rewind=10)})
    assert len(keeper.commits) == sent
    assert member.group.committed() == {0: Commit(Position(), {"m" * fits: 1})}


def test_commits_of_other_programs_are_refused(broker: Broker, keeper: Keeper, join: Join) -> None:
    topic = broker.topic(1)
    other = KafkaConsumer(bootstrap_servers=keeper.servers, group_id=f"group-of-{topic}")
    other.assign([TopicPartition(topic, 0)])
    other.commit({TopicPartition(topic, 0): OffsetAndMetadata(5, "", -1)})
    other.close()
    member = join(keeper.servers, topic, 1, "member")
    with pytest.raises(ValueError, match="partition 0 is not Freshet's: another program has committed"):
        drive([member], lambda: False)
    with pytest.raises(ValueError, match="use a group that nothing else uses"):
        member.poll()


@pytest.mark.skipif(GIVEN in os.environ, reason="a broker of one's own keeps metadata")
def test_a_broker_that_forgets_metadata_is_noticed_at_the_first_commit(broker: Broker, join: Join) -> None:
    topic = broker.topic(1)
    member = join(broker.servers, topic, 1, "member")
    settle(member, partitions=1)
    with pytest.raises(ValueError, match="this broker does not keep metadata"):
        member.commit()


# ---- errors


def test_no_broker(own_broker: Broker, join: Join) -> None:
    topic = own_broker.topic(1)
    with keeping(own_broker) as keeper:
        member = join(keeper.servers, topic, 1, "member", timeout=2.0)
        settle(member, partitions=1)
        member.commit()
        with own_broker.stopped():
            for call in (member.commit, member.group.committed):
                started = time.monotonic()
                with pytest.raises(NoBroker, match="did not answer within 2 s"):
                    call()
                assert time.monotonic() - started < 10
            with pytest.raises(NoBroker):
                drive([member], lambda: False)
        drive([member], lambda: member.events[-1][0] == "owns" and len(member.events) > 1)
        assert member.commits == member.group.committed(), "what was in doubt is settled"
        member.commit()
        own_broker.kill()
        with pytest.raises(NoBroker, match=r"as a member of group"):
            drive([member], lambda: False)
        with pytest.raises(NoBroker):
            member.poll()
    with pytest.raises(NoBroker, match="no broker at"):
        join(own_broker.servers, topic, 1, "late", timeout=1.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group_instance_id": "a"}, "group_instance_id: cannot be set, because a member that restarts is a new one"),
        ({"partition_assignment_strategy": "range"}, "partition_assignment_strategy: cannot be set, because a partition must"),
        ({"heartbeat_interval_ms": SESSION}, "the client refuses the options .*Heartbeat interval must be lower"),
        ({"session_timeout_ms": "10 s"}, "the client refuses the options"),
    ],
)
def test_options_are_checked(broker: Broker, join: Join, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        join(broker.servers, "events", 1, "member", options=options)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (failures.InvalidSessionTimeoutError(), ValueError, "within the broker's group.min and group.max.session.timeout.ms"),
        (failures.InconsistentGroupProtocolError(), ValueError, "choose another name for the group"),
        (failures.OffsetMetadataTooLargeError(), ValueError, "offset.metadata.max.bytes"),
        (failures.GroupAuthorizationFailedError("g"), NotAllowed, "allow this user to read the group"),
        (failures.TopicAuthorizationFailedError("t"), NotAllowed, "the topic"),
    ],
)
def test_errors_of_the_broker_about_a_group_have_a_remedy(
    broker: Broker, join: Join, error: Exception, kind: type[Exception], says: str
) -> None:
    member = join(broker.servers, broker.topic(), 1, "member")
    with pytest.raises(kind, match=says), member.group._explain_errors("joining"):
        raise error
