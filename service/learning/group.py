"""A trainer that learns from the partitions that its consumer group assigns to it.

Exactly one member must keep what was learned from a record. So the group's commit decides. A member 1. writes a checkpoint and
2. commits the positions in it, with the number of the checkpoint. The checkpoint counts only after the commit. If the commit
is refused, or the group considered the member dead, the member returns to its last committed checkpoint.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from memory import checkpoint as checkpoints
from memory.checkpoint import Checkpoint
from service.learning.trainer import Trainer
from streams.joined import Position
from streams.kafka.group import Commit, Fenced
from streams.log import Offsets

__all__ = ["GroupMember", "Member", "member_name"]

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
"""Seconds between polls of the group."""

KEEP = 3
"""Checkpoints kept. The last one may not be committed; then the one before it is needed."""


class GroupMember(Protocol):
    """See `streams.kafka.group.GroupMember`."""

    owned: frozenset[int]

    def poll(self) -> Mapping[int, Commit | None] | None:
        """Return the partitions of this member if the group has changed, else None."""

    def commit(self, version: int, positions: Mapping[int, Position]) -> None:
        """Commit positions under the number of their checkpoint."""

    def committed(self) -> Mapping[int, Commit]:
        """Last commit of each partition, by any member."""

    def leave(self) -> None:
        """Hand over the partitions and leave the group."""


Notify = Callable[[frozenset[int]], None]


class Member:
    """Runs a trainer as a member of a group.

    Parameters
    ----------
    trainer : Trainer
        Without a folder, and not restored: this class handles its partitions and checkpoints.
    join : callable returning a GroupMember
        Takes two callbacks: for revoked partitions, and for lost ones.
    name : str
        Name of this member.
    folder : Path
        Folder of this member's checkpoints.
    every : float
        Seconds between commits.

    Attributes
    ----------
    number : int
        Number of the last committed checkpoint.
    fenced : int
        How often uncommitted learning was discarded.
    """

    role = "trainer"
    serves_while_behind = True
    whole = follows = True

    def __init__(
        self, trainer: Trainer, join: Callable[[Notify, Notify], GroupMember], name: str, folder: Path, every: float
    ) -> None:
        self.trainer, self.name = trainer, name
        self.number = self.fenced = 0
        self._join, self._folder, self._every = join, folder, every
        self._group: GroupMember | None = None
        self._assignment: Mapping[int, Commit | None] | None = None
        self._has_state = False
        self._polled_at = self._committed_at = 0.0
        self._committed_position = -1
        self._disconnected = False

    @property
    def caught_up(self) -> bool:
        """Whether it has partitions, and has learned what they held when it started."""
        return self._group is not None and self._has_state and self.trainer.caught_up

    @property
    def next(self) -> Offsets:
        """Offset of the next record to process, by owned partition."""
        return self.trainer.next

    @property
    def notices(self) -> deque[str]:
        """Last messages for the operator."""
        return self.trainer.notices

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory in addition to the pipeline's."""
        return self.trainer.nbytes

    def restore(self) -> None:
        """Join the group. The state is loaded when the first partitions are assigned."""
        self._group = self._join(self._revoked, self._lost)

    def turn(self) -> bool:
        """Poll the group and learn one micro-batch. Return False when there is nothing to learn."""
        group = self._group
        assert group is not None
        try:
            if time.monotonic() - self._polled_at >= POLL_SECONDS:
                self._polled_at = time.monotonic()
                found = group.poll()
                self._assignment = self._assignment if found is None else found
            if self._assignment is not None:
                self._start_partitions(group, self._assignment)
                self._assignment = None
            if not self._has_state or not group.owned:
                return False
            more = self.trainer.turn()
            if time.monotonic() - self._committed_at >= self._every:
                self._commit(group)
        except ConnectionError as error:
            if not self._disconnected:
                self._disconnected = True
                self.trainer.failed("group", error)
            return False
        except OSError as error:
            self.trainer.failed("checkpoint", error)
            return False
        except Fenced:
            return False
        self._disconnected = False
        return more

    def idle(self, *, hurry: bool = False) -> float:
        """See `service.learning.trainer.Trainer.idle`."""
        return min(self.trainer.idle(hurry=hurry), POLL_SECONDS)

    def keep_time(self) -> None:
        """See `service.learning.trainer.Trainer.keep_time`."""
        self.trainer.keep_time()

    def has_request(self, request_id: str) -> bool:
        """See `service.learning.event_reader.EventReader.has_request`."""
        return self.trainer.has_request(request_id)

    def save(self) -> None:
        """Commit what was learned and leave the group."""
        if self._group is not None:
            self._group.leave()
            self._group = None

    def close(self) -> None:
        """Release resources. Without `save`, the other members wait until the session times out."""
        self.trainer.close()

    def digest(self) -> str:
        """Fingerprint of the whole state."""
        return self.trainer.digest()

    def status(self) -> dict[str, Any]:
        """Progress in the owned partitions."""
        owned = sorted(self._group.owned) if self._group is not None else []
        return self.trainer.status() | {"member": self.name, "partitions": owned, "checkpoint": self.number}

    def gauges(self) -> dict[str, Any]:
        """Metrics for the monitor."""
        gauges = self.trainer.gauges()
        return gauges | {"failures": gauges["failures"] | {"fenced": self.fenced}}

    def _revoked(self, partitions: frozenset[int]) -> None:
        assert self._group is not None
        started, self._assignment = self._assignment is None, None
        if self._has_state and started:
            try:
                self._commit(self._group)
            except OSError as error:
                self._discard_uncommitted(f"checkpoint: it could not be saved ({error})")
        self.trainer.reader.close()

    def _lost(self, partitions: frozenset[int]) -> None:
        self._discard_uncommitted(f"partitions {sorted(partitions)} were given to others")

    def _discard_uncommitted(self, reason: str) -> None:
        """Discard what was learned since the last commit: another member learns it."""
        self._assignment = None
        self.trainer.reader.close()
        if self._has_state:
            self._has_state = False
            self.fenced += 1
            self.trainer.notice(f"{reason}; returning to checkpoint {self.number}")

    def _start_partitions(self, group: GroupMember, found: Mapping[int, Commit | None]) -> None:
        """Start reading the assigned partitions. If this fails, the next turn tries again."""
        if not self._has_state:
            self._roll_back(max((commit.members.get(self.name, 0) for commit in group.committed().values()), default=0))
        begin = self.trainer.log.begin()
        self.trainer.reader.open(
            {
                partition: Position(next=begin[partition], rewind=begin[partition]) if commit is None else commit.position
                for partition, commit in found.items()
            }
        )
        self._committed_position, self._committed_at = self.trainer.reader.position, time.monotonic()
        _log.info("%s learns from partitions %s", self.name, sorted(found))

    def _roll_back(self, number: int) -> None:
        """Load the checkpoint that the group has committed, and delete a newer one.

        Raises
        ------
        LookupError
            If the group's commits name an older checkpoint than the folder: the broker lost the commits.
        """
        newest = max(self._folder.glob(checkpoints.PATTERN), default=self._path(0))
        if newest > self._path(number + 1):
            problem = f"{self._folder}: it holds {newest.name}, but the group's commits name checkpoint {number} of {self.name}"
            remedy = "raise offsets.retention.minutes of the broker, then start again with empty folders and another group"
            raise LookupError(f"{problem}: the broker has forgotten the commits, or they were reset; {remedy}")
        if number == 0 and not self._path(0).exists():
            checkpoints.save(self._folder, self._checkpoint(0), KEEP)
        found = checkpoints.load(self._path(number))
        self._path(number + 1).unlink(missing_ok=True)
        pipeline = self.trainer.pipeline
        pipeline.load_state_dict(found.state)
        pipeline.version, self.number = found.meta["version"], number
        self._has_state = True

    def _commit(self, group: GroupMember) -> None:
        """Save a checkpoint and commit its positions.

        Raises
        ------
        Fenced, ConnectionError
            The commit was refused, or its result is unknown. What was learned has been discarded, but the file stays: the
            commit may have succeeded.
        OSError
            If the checkpoint cannot be written. Nothing has changed.
        """
        self.trainer.learn_ready()
        self._committed_at = time.monotonic()
        if self.trainer.reader.position == self._committed_position:
            return
        positions = self.trainer.reader.positions()
        checkpoints.save(self._folder, self._checkpoint(self.number + 1), KEEP)
        try:
            group.commit(self.number + 1, positions)
        except (Fenced, ConnectionError) as error:
            self._discard_uncommitted(str(error))
            raise
        self.number += 1
        self._committed_position = self.trainer.reader.position

    def _checkpoint(self, number: int) -> Checkpoint:
        saved = self.trainer.checkpoint()
        return Checkpoint(number, saved.state, saved.meta | {"version": saved.version})

    def _path(self, number: int) -> Path:
        return checkpoints.path_of(self._folder, number)


def member_name(folder: Path) -> str:
    """Return the name of the member with this folder. The first start creates the name."""
    file = folder / "member"
    if not file.exists():
        file.write_text(f"freshet-{uuid.uuid4().hex[:12]}")
    return file.read_text()
