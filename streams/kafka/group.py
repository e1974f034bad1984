"""Membership of a consumer group: which partitions of a topic this process owns, and the positions committed for them."""

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
from streams.kafka.clients import start_client
from streams.kafka.errors import NotAllowed, describe, explain
from streams.kafka.options import Settings

__all__ = ["Commit", "Fenced", "GroupMember"]

SESSION_TIMEOUT_MS = 10_000
"""Milliseconds without a heartbeat after which a member is replaced. With Kafka's default, events would wait 45 s."""

MAX_METADATA_BYTES = 4096
"""Bytes of metadata that a broker accepts with a commit by default (``offset.metadata.max.bytes``)."""

_REMEDIES = {
    "GroupMaxSizeReachedError": "start fewer members, or raise group.max.size of the broker",
    "InconsistentGroupProtocolError": "consumers with another protocol use this group: choose another name for the group",
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
_METADATA = msgspec.json.Decoder(tuple[int, float, int, int, float, float, dict[str, int]])


class Fenced(Exception):
    """The member does not own the partitions any more, or may not. The call that raised this committed nothing.

    Discard what was learned since the last successful commit: the new owner learns it again.
    """


class Commit(msgspec.Struct, frozen=True):
    """What the group has committed for a partition.

    Attributes
    ----------
    position : Position
        Position at which the next owner continues.
    members : dict of str to int
        Version of the checkpoint of each member, as of its last commit for this partition.
    """

    position: Position
    members: dict[str, int]


class GroupMember:
    """A member of a consumer group, which divides the partitions of one topic among the processes that learn from it.

    A membership reads no records (a `KafkaLog` does). It only tells which partitions the member owns. A member first writes a
    checkpoint, then commits the positions in it. **The commit is the truth**: a checkpoint counts once its commit succeeded. So
    after a start, after `lost` and after `Fenced`, a member does the following, in this order:

    1. It polls until it has partitions. Before it has joined again, one of its older commits can still arrive.
    2. It takes the largest ``members[member]`` in `committed`, over all partitions.
    3. It loads the checkpoint with that version (an empty state for 0 or none), and deletes newer ones.

    Each change of the group is the same for all members. `revoked` is called for all partitions that a member owns. Then `poll`
    returns its new partitions, often the same ones. The member's state is still valid for a partition when `poll` returns the
    member's own commit for it.

    Call all methods on one thread. Another thread, in the client, sends heartbeats. They stop when `poll` was not called for
    ``max_poll_interval_ms`` (5 minutes).

    Parameters
    ----------
    servers, topic : str
    partitions : collection of int
        All partitions of the topic (`KafkaLog.partitions`).
    group : str
        Name of the group. All processes that share the work use it, and nothing else does.
    member : str
        Name of this process. It keeps the name over restarts. Two running processes must not share a name.
    revoked : callable
        Called with partitions before they are released: the last chance to commit. `poll` passes its errors on, and calls it
        again the next time. After `Fenced`, `lost` is called.
    lost : callable
        Called with partitions that are lost already: commits for them are refused.
    options : mapping or None
        As in `KafkaLog`. This class also uses ``session_timeout_ms`` (10,000), ``heartbeat_interval_ms`` (a tenth of it) and
        ``max_poll_interval_ms``.
    timeout : float
        Seconds to wait for an answer of the broker.

    Attributes
    ----------
    owned : frozenset of int
        Partitions that this member owns now; none while the group rebalances.

    Raises
    ------
    ValueError
        The options are wrong.
    NoBroker, NotAllowed
        `OSError` with a remedy.

    Notes
    -----
    The broker refuses commits of former members, and commits from before the last rebalance. This fences a process that was
    suspended and resumes. A member gets a new identity at each start (no ``group.instance.id``). Otherwise it could not leave,
    and late requests of its previous run would be accepted. Rebalancing is "eager": no member owns anything during a rebalance,
    so a partition never has two owners that can commit. The incremental protocol would avoid the interruption. But in
    kafka-python 3.0.12, an expelled member still claims its old partitions, and can get them before their present owner knows.
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
        self._topic_partitions = [TopicPartition(topic, partition) for partition in partitions]
        self._revoked, self._lost = revoked, lost
        self._commits: dict[int, Commit | None] = {}
        self._joining: Any = None
        self._fenced = self._metadata_kept = self._closed = False
        self._unreachable_since: float | None = None
        clients = {"consumer": KafkaConsumer, "producer": KafkaProducer, "admin": KafkaAdminClient}
        defaults = {name: client.DEFAULT_CONFIG for name, client in clients.items()}
        settings = {"session_timeout_ms": SESSION_TIMEOUT_MS} | Settings(servers, options or {}, timeout, **defaults).consumer
        with self._explain_errors("opening", opening=True):
            settings = {"heartbeat_interval_ms": settings["session_timeout_ms"] // 10} | settings | {
                "client_id": member,  # the name that Kafka's tools show
                "group_id": group,
                "partition_assignment_strategy": [StickyPartitionAssignor],
            }  # fmt: skip
            self._consumer = start_client(KafkaConsumer, settings)
        self._consumer.subscribe([topic])
        # The consumer's own poll drops a response to a join that arrives between two calls, so it would have to block. Here the
        # client's thread runs the whole join, and `poll` checks whether it is done.
        self._coordinator = vars(self._consumer)["_coordinator"]
        self._manager = vars(self._coordinator)["_manager"]

    def poll(self) -> dict[int, Commit | None] | None:
        """Take part in the group; call this often. It does not block, except for a `commit` in `revoked`.

        Returns
        -------
        dict of int to Commit or None
            After a rebalance: the partitions of this member, with the last commit for each (None: there is none). Can be
            empty, if there are more members than partitions.
        None
            Nothing changed, or the rebalance is not finished.

        Raises
        ------
        NoBroker
            The group's broker was not reachable for half of `timeout`; the next call tries again.
        NotAllowed
        ValueError
            Another program made the commits, the broker does not keep their metadata, or it refuses the group.
        """
        self._check_open()
        with self._explain_errors(f"as a member of group {self.group!r}"):
            if self._joining is None:
                if not self._coordinator.need_rejoin():
                    self._check_reachable()
                    self._coordinator.poll_heartbeat()
                    return None
                self._release()
                self._joining = self._manager.call_soon(self._join)
            joined = self._joining
            if not joined.is_done:
                self._check_reachable()
                return None
            if joined.failed():
                self._joining = None
                raise joined.exception
            assigned, found = joined.value
            self._commits = {tp.partition: self._decode_commit(tp, found.get(tp)) for tp in sorted(assigned)}
            self._joining, self._fenced = None, False
            self.owned = frozenset(self._commits)
            return dict(self._commits)

    def commit(self, version: int, positions: Mapping[int, Position]) -> None:
        """Commit the positions of a checkpoint, for all partitions that this member owns or for none.

        The commits keep the versions of other members, as they were when the partition was assigned.

        Parameters
        ----------
        version : int
            Version of the checkpoint, which is already written. Never smaller than before.
        positions : mapping
            Position of every partition in `owned`; empty if there are none.

        Raises
        ------
        Fenced
        NoBroker
            The commit may have succeeded or not. The member joins again, and `poll` then returns the truth. Keep the earlier
            checkpoints until then.
        ValueError
            A partition is missing, the version is too old, or the metadata is over Kafka's limit; nothing was sent.
        """
        self._check_open()
        if self._fenced or not positions.keys() <= self.owned:
            raise self._fence(f"partitions {sorted(positions)} are not all among {sorted(self.owned)}")
        if missing := self.owned - positions.keys():
            raise ValueError(f"positions: partitions {sorted(missing)} are missing; commit all owned partitions at once")
        commits = {partition: self._new_commit(version, partition, position) for partition, position in positions.items()}
        offsets = {
            TopicPartition(self.topic, partition): OffsetAndMetadata(
                commit.position.next, _encode_metadata(partition, commit), -1
            )
            for partition, commit in commits.items()
        }
        with self._explain_errors("committing"):
            try:
                self._consumer.commit(offsets)
            except _NOT_A_MEMBER as error:
                raise self._fence(describe(error)) from error
            except failures.KafkaError:
                # The broker may still carry it out, even after a later commit. After a rebalance it refuses it.
                self._coordinator.request_rejoin()
                raise
        self._commits = dict(commits)
        if not self._metadata_kept and commits:
            self.committed()
            self._metadata_kept = True

    def committed(self) -> dict[int, Commit]:
        """Return the last commit for each partition of the topic, by any member. Partitions without one are left out.

        Raises
        ------
        NoBroker
        ValueError
            As in `poll`.
        """
        self._check_open()
        with self._explain_errors("reading what was committed"):
            found = self._coordinator.fetch_committed_offsets(self._topic_partitions, timeout_ms=self.timeout * 400)
        commits = {tp.partition: self._decode_commit(tp, found.get(tp)) for tp in self._topic_partitions}
        return {partition: commit for partition, commit in commits.items() if commit is not None}

    def leave(self) -> None:
        """Release all partitions, after `revoked`, leave the group and close. Others need not wait for a timeout."""
        if self._closed:
            return
        try:
            self._release()
            if self._joining is not None and not self._coordinator.coordinator_unknown():
                # A broker handles the leave after its answer to the join. An unfinished join would block the others.
                with suppress(failures.KafkaError):
                    self._manager.run(self._manager.wait_for, self._joining, self.timeout * 400)
        finally:
            self._closed = True
            self._consumer.close(autocommit=False)

    # ---- joining and releasing

    def _release(self) -> None:
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
        # A leader that joins before it knows the topic's partitions gives nobody any, and corrects that in a second rebalance.
        cluster = vars(self._coordinator)["_cluster"]
        while not cluster.partitions_for_topic(self.topic):
            await self._manager.wait_for(cluster.request_update(), self.timeout * 400)
        await self._coordinator.ensure_active_group_async()
        assigned = self._consumer.assignment()
        return assigned, await self._coordinator.fetch_committed_offsets_async(assigned)

    def _check_reachable(self) -> None:
        now = time.monotonic()
        if not self._coordinator.coordinator_unknown():
            self._unreachable_since = None
        elif self._unreachable_since is None:
            self._unreachable_since = now
        elif now - self._unreachable_since >= self.timeout / 2:
            raise failures.KafkaTimeoutError("no broker answers for the group")

    # ---- commits

    def _new_commit(self, version: int, partition: int, position: Position) -> Commit:
        found = self._commits[partition]
        members = found.members if found else {}
        if version < (newest := members.get(self.member, 0)):
            remedy = (
                f"go back to the checkpoint that the group's commits name, and check that no other process is {self.member!r}"
            )
            raise ValueError(
                f"version: {version} is older than {newest}, which is committed for partition {partition}; {remedy}"
            )
        return Commit(position, members | {self.member: version})

    def _decode_commit(self, tp: TopicPartition, found: OffsetAndMetadata | None) -> Commit | None:
        if found is None:
            return None
        try:
            rewind, watermark, rows, shown, clock, shift, members = _METADATA.decode(found.metadata or "")
        except msgspec.DecodeError as error:
            problem = f"the metadata {found.metadata!r} that the broker has for partition {tp.partition} is not Freshet's"
            cause = "another program has committed or reset offsets, or this broker does not keep metadata (Tansu does not)"
            remedy = "use a group that nothing else uses, on a broker that keeps metadata"
            raise ValueError(f"group {self.group!r} of {self.name}: {problem}: {cause}; {remedy}") from error
        return Commit(Position(found.offset, rewind, watermark, rows, shown, clock, shift), members)

    # ---- errors

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.name}: this member has left group {self.group!r}; create a new member")

    def _fence(self, why: str) -> Fenced:
        """Mark this member as fenced, and return the error to raise."""
        self._fenced = True
        self._coordinator.request_rejoin()
        remedy = "go back to the checkpoint that the group's commits name"
        return Fenced(f"{self.name}: {self.member!r} does not own these partitions in group {self.group!r} ({why}); {remedy}")

    @contextmanager
    def _explain_errors(self, operation: str, *, opening: bool = False) -> Iterator[None]:
        try:
            yield
        except failures.KafkaError as error:
            if remedy := _REMEDIES.get(type(error).__name__):
                raise ValueError(f"group {self.group!r} of {self.name}: {operation}: {describe(error)}; {remedy}") from error
            if isinstance(error, failures.GroupAuthorizationFailedError):
                problem = f"{operation}: not allowed ({describe(error)}); allow this user to read the group {self.group!r}"
                raise NotAllowed(errno.EACCES, problem, self.name) from error
            explain(error, operation, self.servers, self.topic, self.timeout)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            if not opening:
                raise
            explain(error, operation, self.servers, self.topic, self.timeout)


def _encode_metadata(partition: int, commit: Commit) -> str:
    position = commit.position
    at = position
    metadata = msgspec.json.encode((at.rewind, at.watermark, at.rows, at.shown, at.clock, at.shift, commit.members))
    if len(metadata) > MAX_METADATA_BYTES:
        problem = f"metadata for partition {partition} takes {len(metadata)} bytes, over Kafka's limit of {MAX_METADATA_BYTES}"
        remedy = f"{len(commit.members)} members have committed for it: give members shorter names, and use a new group"
        raise ValueError(f"members: the {problem}; {remedy}")
    return metadata.decode()
