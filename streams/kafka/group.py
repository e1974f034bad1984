"""Which partitions of a Kafka topic this process owns, and where it goes on: membership of a consumer group."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka import errors as failures
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from streams.joined import Position
from streams.kafka.clients import started
from streams.kafka.errors import NotAllowed, explain, said
from streams.kafka.options import Settings

__all__ = ["Commit", "Fenced", "Membership"]

SESSION = 10_000
"""Milliseconds without a sign of life after which a member is replaced. Kafka's own default, 45 s, leaves events that long."""

LARGEST = 4096
"""Bytes of metadata that a broker takes with a commit, unless it was told otherwise (``offset.metadata.max.bytes``)."""

_REMEDIES = {
    "GroupMaxSizeReachedError": "start fewer members, or raise group.max.size of the broker",
    "InconsistentGroupProtocolError": "consumers of another kind use it: choose another name for the group",
    "InvalidCommitOffsetSizeError": "set offset.metadata.max.bytes of the broker to its default, 4096, or more",
    "InvalidGroupIdError": "choose another name for the group",
    "InvalidSessionTimeoutError": "set session_timeout_ms within the broker's group.min and group.max.session.timeout.ms",
    "OffsetMetadataTooLargeError": "set offset.metadata.max.bytes of the broker to its default, 4096, or more",
}
_NOT_A_MEMBER = (
    failures.CommitFailedError,
    failures.FencedInstanceIdError,
    failures.IllegalGenerationError,
    failures.RebalanceInProgressError,
    failures.UnknownMemberIdError,
)
_NOTE = msgspec.json.Decoder(tuple[int, float, int, int, dict[str, int]])


class Fenced(Exception):
    """These partitions are no longer this member's, or may not be. Nothing was committed by the call that raised this.

    What was learned since the last commit that went through has to be thrown away: their new owner learns it.
    """


class Commit(msgspec.Struct, frozen=True):
    """What a group knows of a partition.

    Attributes
    ----------
    position : Position
        Where its next owner goes on.
    members : dict of str to int
        For each member that ever committed for this partition: the version of its checkpoint that went with its last commit.
    """

    position: Position
    members: dict[str, int]


class Membership:
    """A member of a consumer group, which shares out the partitions of one topic among the processes that learn from it.

    It reads no records (a `KafkaLog` does), it only says whose they are. A member first writes a checkpoint, then commits the
    positions in it. **The commit is the truth**: a checkpoint counts when its commit went through. So after a start, after
    `lost` and after `Fenced`, a member polls until it has partitions, then asks `committed` for the largest
    ``members[member]`` over all partitions, goes back to the checkpoint with that version (0 or none: to an empty state), and
    deletes newer ones. In this order: before the group has taken a member in anew, a commit of its former life can still
    arrive.

    Every change of the group goes the same way for all members: `revoked` for everything that a member owns, then `poll`
    returns what it owns now, which is mostly the same again. What a member has in memory is still right for a partition when
    the commit that `poll` returns is the one it has made itself.

    All methods are called on one thread. Signs of life are sent by another thread, in the client. They stop when `poll` was
    not called for ``max_poll_interval_ms`` (5 minutes).

    Parameters
    ----------
    servers, topic : str
    partitions : collection of int
        All of the topic (`KafkaLog.partitions`).
    group : str
        Name of the group; one for all processes that share the work, and for nothing else.
    member : str
        Name of this process, the same when it starts again. No two processes that run may have the same.
    revoked : callable
        Called with partitions before they are given up: the last chance to commit. What it raises comes out of `poll`, which
        calls it again the next time; after `Fenced`, `lost` is called.
    lost : callable
        Called with partitions that are gone already: nothing can be committed for them.
    options : mapping or None
        As for `KafkaLog`; ``session_timeout_ms`` (10,000), ``heartbeat_interval_ms`` (a tenth of it) and
        ``max_poll_interval_ms`` are for this class.
    timeout : float
        Seconds until a broker that does not answer is an error.

    Attributes
    ----------
    owned : frozenset of int
        Partitions that this member may learn from and commit for; none while the group changes.

    Raises
    ------
    ValueError
        For options that make no sense.
    NoBroker, NotAllowed
        OSError, with the remedy.

    Notes
    -----
    The broker refuses commits from who is no longer a member and from before the last change of the group. That fences a
    process that was stopped and goes on. A member has a new identity each time it starts (no ``group.instance.id``): only so
    can it leave, and only so is what its former life sent late refused. Rebalancing is "eager": nobody owns anything while the
    group changes, so no partition can have two owners that may commit. The incremental protocol would spare members the
    interruption, but in kafka-python 3.0.12 a member that was expelled goes on to claim what it had, and can be given it
    before its present owner has heard of that.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        partitions: Collection[int],
        group: str,
        member: str,
        *,
        revoked: Callable[[frozenset[int]], None],
        lost: Callable[[frozenset[int]], None],
        options: Mapping[str, Any] | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.servers, self.topic, self.group, self.member, self.timeout = servers, topic, group, member, timeout
        self.name = f"kafka://{servers}/{topic}"
        self.owned: frozenset[int] = frozenset()
        self._places = [TopicPartition(topic, partition) for partition in partitions]
        self._revoked, self._lost = revoked, lost
        self._found: dict[int, Commit | None] = {}
        self._joining: Any = None
        self._fenced = self._kept = self._closed = False
        self._away_since: float | None = None
        clients = {"consumer": KafkaConsumer, "producer": KafkaProducer, "admin": KafkaAdminClient}
        defaults = {name: client.DEFAULT_CONFIG for name, client in clients.items()}
        settings = {"session_timeout_ms": SESSION} | Settings(servers, options or {}, timeout, **defaults).consumer
        with self._explained("opening", opening=True):
            settings = {"heartbeat_interval_ms": settings["session_timeout_ms"] // 10} | settings | {
                "client_id": member,  # what Kafka's tools call it
                "group_id": group,
                "partition_assignment_strategy": [StickyPartitionAssignor],
            }  # fmt: skip
            self._consumer = started(KafkaConsumer, settings)
        self._consumer.subscribe([topic])
        # The consumer's own poll drops an answer of the group that comes between two calls, so it would have to wait for it.
        # Here the client's own thread goes through the whole join, and `poll` looks whether it is done.
        self._coordinator = vars(self._consumer)["_coordinator"]
        self._manager = vars(self._coordinator)["_manager"]

    def poll(self) -> dict[int, Commit | None] | None:
        """Keep up with the group; to be called often. Waits for nobody, except in `revoked`, and in that for `commit`.

        Returns
        -------
        dict of int to Commit or None
            When the group has changed: all partitions of this member, and what was last committed for each (None: nothing
            ever was). May be empty, if there are more members than partitions.
        None
            When nothing changed, or the change goes on.

        Raises
        ------
        NoBroker
            When the group's broker could not be reached for half of `timeout`; the next call tries on.
        NotAllowed
        ValueError
            When what was committed is not from this class, or the broker does not keep it, or it refuses the group.
        """
        self._check_open()
        with self._explained(f"as a member of group {self.group!r}"):
            if self._joining is None:
                if not self._coordinator.need_rejoin():
                    self._check_reached()
                    self._coordinator.poll_heartbeat()
                    return None
                self._give_up()
                self._joining = self._manager.call_soon(self._join)
            joined = self._joining
            if not joined.is_done:
                self._check_reached()
                return None
            if joined.failed():
                self._joining = None
                raise joined.exception
            places, found = joined.value
            self._found = {place.partition: self._commit(place, found.get(place)) for place in sorted(places)}
            self._joining, self._fenced = None, False
            self.owned = frozenset(self._found)
            return dict(self._found)

    def commit(self, version: int, positions: Mapping[int, Position]) -> None:
        """Make a checkpoint count: commit the positions of all partitions that this member owns, all at once or none.

        The entries of other members, as they were when a partition was assigned, are carried over.

        Parameters
        ----------
        version : int
            Of the checkpoint, which is written already. Not smaller than any before.
        positions : mapping
            Of every partition in `owned`; with none there is nothing to commit.

        Raises
        ------
        Fenced
        NoBroker
            The commit may have gone through or not. The member joins anew, which settles it: compare what `poll` then
            returns, and keep the checkpoints before this one until then.
        ValueError
            When the metadata would be over Kafka's limit; nothing was sent.
        """
        self._check_open()
        if self._fenced or not positions.keys() <= self.owned:
            raise self._refused(f"partitions {sorted(positions)} are not all among {sorted(self.owned)}")
        if missing := self.owned - positions.keys():
            raise ValueError(f"positions: partitions {sorted(missing)} are missing; a checkpoint covers all that are owned")
        made = {partition: self._made(version, partition, position) for partition, position in positions.items()}
        offsets = {
            TopicPartition(self.topic, partition): OffsetAndMetadata(one.position.next, _packed(partition, one), -1)
            for partition, one in made.items()
        }
        with self._explained("committing"):
            try:
                self._consumer.commit(offsets)
            except _NOT_A_MEMBER as error:
                raise self._refused(said(error)) from error
            except failures.KafkaError:
                # It may be carried out yet, even after a later one. Once the group has changed it is refused.
                self._coordinator.request_rejoin()
                raise
        self._found = dict(made)
        if not self._kept and made:
            self.committed()
            self._kept = True

    def committed(self) -> dict[int, Commit]:
        """What was last committed for each partition of the topic, by whomever; those without a commit are left out.

        Raises
        ------
        NoBroker
        ValueError
            As `poll`.
        """
        self._check_open()
        with self._explained("reading what was committed"):
            found = self._coordinator.fetch_committed_offsets(self._places, timeout_ms=self.timeout * 400)
        commits = {place.partition: self._commit(place, found.get(place)) for place in self._places}
        return {partition: one for partition, one in commits.items() if one is not None}

    def leave(self) -> None:
        """Give everything up, after `revoked`, and leave the group, so that the others need not wait. Then it is closed."""
        if self._closed:
            return
        try:
            self._give_up()
            if self._joining is not None and not self._coordinator.coordinator_unknown():
                # A broker hears of a leave when it has answered the join before it; half a join would hold up the others.
                with suppress(failures.KafkaError):
                    self._manager.run(self._manager.wait_for, self._joining, self.timeout * 400)
        finally:
            self._closed = True
            self._consumer.close(autocommit=False)

    # ---- the group

    def _give_up(self) -> None:
        if not self.owned:
            return
        if not self._fenced and self._consumer.group_metadata().generation_id >= 0:
            with suppress(Fenced):
                self._revoked(self.owned)
            if not self._fenced:
                self.owned = frozenset()
                return
        self._lost(self.owned)
        self.owned = frozenset()

    async def _join(self) -> tuple[set[TopicPartition], dict[TopicPartition, OffsetAndMetadata]]:
        await self._coordinator.ensure_active_group_async()
        places = self._consumer.assignment()
        return places, await self._coordinator.fetch_committed_offsets_async(places)

    def _check_reached(self) -> None:
        now = time.monotonic()
        if not self._coordinator.coordinator_unknown():
            self._away_since = None
        elif self._away_since is None:
            self._away_since = now
        elif now - self._away_since >= self.timeout / 2:
            raise failures.KafkaTimeoutError("no broker answers for the group")

    # ---- what is committed

    def _made(self, version: int, partition: int, position: Position) -> Commit:
        found = self._found[partition]
        members = found.members if found else {}
        if version < (newest := members.get(self.member, 0)):
            remedy = (
                f"go back to the checkpoint that the group's commits name, and see that no other process is {self.member!r}"
            )
            raise ValueError(
                f"version: {version} is older than {newest}, which is committed for partition {partition}; {remedy}"
            )
        return Commit(position, members | {self.member: version})

    def _commit(self, place: TopicPartition, found: OffsetAndMetadata | None) -> Commit | None:
        if found is None:
            return None
        try:
            rewind, watermark, rows, shown, members = _NOTE.decode(found.metadata or "")
        except msgspec.DecodeError as error:
            problem = f"the metadata {found.metadata!r} that the broker has for partition {place.partition} is not Freshet's"
            cause = "another program has committed or reset offsets, or this broker does not keep metadata (Tansu does not)"
            remedy = "choose a group of its own, on a broker that keeps it"
            raise ValueError(f"group {self.group!r} of {self.name}: {problem}: {cause}; {remedy}") from error
        return Commit(Position(found.offset, rewind, watermark, rows, shown), members)

    # ---- what went wrong

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.name}: this member has left group {self.group!r}; make a new one")

    def _refused(self, why: str) -> Fenced:
        """Note that the membership is over, and say so."""
        self._fenced = True
        self._coordinator.request_rejoin()
        remedy = "go back to the checkpoint that the group's commits name"
        return Fenced(f"{self.name}: {self.member!r} does not own these partitions in group {self.group!r} ({why}); {remedy}")

    @contextmanager
    def _explained(self, doing: str, *, opening: bool = False) -> Iterator[None]:
        try:
            yield
        except failures.KafkaError as error:
            if remedy := _REMEDIES.get(type(error).__name__):
                raise ValueError(f"group {self.group!r} of {self.name}: {doing}: {said(error)}; {remedy}") from error
            if isinstance(error, failures.GroupAuthorizationFailedError):
                problem = f"{doing}: not allowed ({said(error)}); allow this user to read the group {self.group!r}"
                raise NotAllowed(errno.EACCES, problem, self.name) from error
            explain(error, doing, self.servers, self.topic, self.timeout)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            if not opening:
                raise
            explain(error, doing, self.servers, self.topic, self.timeout)


def _packed(partition: int, commit: Commit) -> str:
    position = commit.position
    note = msgspec.json.encode((position.rewind, position.watermark, position.rows, position.shown, commit.members))
    if len(note) > LARGEST:
        problem = f"metadata for partition {partition} takes {len(note)} bytes, over Kafka's limit of {LARGEST}"
        remedy = f"{len(commit.members)} members have committed for it: give members shorter names, and start with a new group"
        raise ValueError(f"members: the {problem}; {remedy}")
    return note.decode()
