"""A trainer that learns from those partitions that its consumer group gives it.

What must never happen is that two members keep what they learned from one record, or none does. So the group's commit is the
truth: 1. write a checkpoint; 2. commit the positions in it, under its number; only then it counts. A member whose commit is
refused, or that was taken for dead, goes back to its checkpoint whose commit went through.
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

__all__ = ["Member", "Membership", "name_of"]

_log = logging.getLogger(__name__)

PERIOD = 0.02
"""Seconds between looks whether the group has changed."""

KEEP = 3
"""Checkpoints kept. The last one may not have been committed; then the one before it is needed."""


class Membership(Protocol):
    """See `streams.kafka.group.Membership`."""

    owned: frozenset[int]

    def poll(self) -> Mapping[int, Commit | None] | None:
        """Partitions of this member when the group has changed."""

    def commit(self, version: int, positions: Mapping[int, Position]) -> None:
        """Make a checkpoint count."""

    def committed(self) -> Mapping[int, Commit]:
        """What was last committed for each partition, by whomever."""

    def leave(self) -> None:
        """Leave the group in good order."""


Notify = Callable[[frozenset[int]], None]


class Member:
    """Runs a trainer as a member of a group.

    Parameters
    ----------
    trainer : Trainer
        Without a folder of its own, and not restored: its partitions and checkpoints are seen to here.
    join : callable returning a Membership
        Given what to call when partitions are revoked, and when they are lost.
    name : str
        Of this member.
    folder : Path
        Of this member's checkpoints.
    every : float
        Seconds between commits.

    Attributes
    ----------
    number : int
        Of the last checkpoint whose commit went through.
    fenced : int
        How often something learned had to be thrown away.
    """

    role = "trainer"
    serves_behind = True
    whole = True

    def __init__(
        self, trainer: Trainer, join: Callable[[Notify, Notify], Membership], name: str, folder: Path, every: float
    ) -> None:
        self.trainer, self.name = trainer, name
        self.number = self.fenced = 0
        self._join, self._folder, self._every = join, folder, every
        self._group: Membership | None = None
        self._given: Mapping[int, Commit | None] | None = None
        self._sound = False
        self._polled = self._committed_at = 0.0
        self._committed = -1
        self._cut_off = False

    @property
    def caught_up(self) -> bool:
        """Whether it has partitions, and has learned what was in them when it began."""
        return self._group is not None and self._sound and self.trainer.caught_up

    @property
    def next(self) -> Offsets:
        """Offset of the next record to fold, of the partitions that it owns."""
        return self.trainer.next

    @property
    def notices(self) -> deque[str]:
        """The last things that an operator should know."""
        return self.trainer.notices

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory beside the pipeline's."""
        return self.trainer.nbytes

    def restore(self) -> None:
        """Join the group; what to begin with, it says with the first partitions."""
        self._group = self._join(self._revoked, self._lost)

    def turn(self) -> bool:
        """Keep up with the group, or learn one micro-batch; False when there is nothing to learn."""
        group = self._group
        assert group is not None
        try:
            if time.monotonic() - self._polled >= PERIOD:
                self._polled = time.monotonic()
                found = group.poll()
                self._given = self._given if found is None else found
            if self._given is not None:
                self._begin(group, self._given)
                self._given = None
            if not self._sound or not group.owned:
                return False
            more = self.trainer.turn()
            if time.monotonic() - self._committed_at >= self._every:
                self._commit(group)
        except ConnectionError as error:
            if not self._cut_off:
                self._cut_off = True
                self.trainer.failed("group", error)
            return False
        except OSError as error:
            self.trainer.failed("checkpoint", error)
            return False
        except Fenced:
            return False
        self._cut_off = False
        return more

    def idle(self) -> float:
        """See `service.learning.trainer.Trainer.idle`."""
        return min(self.trainer.idle(), PERIOD)

    def save(self) -> None:
        """Commit what was learned, and leave the group."""
        if self._group is not None:
            self._group.leave()
            self._group = None

    def close(self) -> None:
        """Release what is open; without `save`, the others wait until the session is over."""
        self.trainer.close()

    def digest(self) -> str:
        """Fingerprint of the whole state."""
        return self.trainer.digest()

    def status(self) -> dict[str, Any]:
        """Where it stands in the partitions that it owns."""
        owned = sorted(self._group.owned) if self._group is not None else []
        return self.trainer.status() | {"member": self.name, "partitions": owned, "checkpoint": self.number}

    def gauges(self) -> dict[str, Any]:
        """Numbers for the monitor."""
        gauges = self.trainer.gauges()
        return gauges | {"failures": gauges["failures"] | {"fenced": self.fenced}}

    def _revoked(self, partitions: frozenset[int]) -> None:
        assert self._group is not None
        begun, self._given = self._given is None, None
        if self._sound and begun:
            try:
                self._commit(self._group)
            except OSError as error:
                self._throw_away(f"it could not be saved ({error})")
        self.trainer.reader.close()

    def _lost(self, partitions: frozenset[int]) -> None:
        self._throw_away(f"partitions {sorted(partitions)} were given to others")

    def _throw_away(self, why: str) -> None:
        """What was learned since the last commit is somebody else's to learn."""
        self._given = None
        self.trainer.reader.close()
        if self._sound:
            self._sound = False
            self.fenced += 1
            self.trainer.notice(f"{why}; back to checkpoint {self.number}")

    def _begin(self, group: Membership, found: Mapping[int, Commit | None]) -> None:
        """Go on with the partitions that the group gives; where that fails, it is tried again."""
        if not self._sound:
            self._go_back(max((commit.members.get(self.name, 0) for commit in group.committed().values()), default=0))
        begin = self.trainer.log.begin()
        self.trainer.reader.open(
            {
                partition: Position(next=begin[partition], rewind=begin[partition]) if commit is None else commit.position
                for partition, commit in found.items()
            }
        )
        self._committed, self._committed_at = self.trainer.reader.position, time.monotonic()
        _log.info("%s learns from partitions %s", self.name, sorted(found))

    def _go_back(self, number: int) -> None:
        """Take the state that the group knows of, and forget a newer one.

        Raises
        ------
        LookupError
            When the group has forgotten what this member committed.
        """
        newest = max(self._folder.glob(checkpoints.PATTERN), default=self._path(0))
        if newest > self._path(number + 1):
            problem = f"{self._folder}: it holds {newest.name}, and the group's commits name checkpoint {number} of {self.name}"
            remedy = "raise offsets.retention.minutes of the broker, and begin anew with empty folders and another group"
            raise LookupError(f"{problem}: the broker has forgotten the commits, or they were reset; {remedy}")
        if number == 0 and not self._path(0).exists():
            checkpoints.save(self._folder, self._checkpoint(0), KEEP)
        found = checkpoints.load(self._path(number))
        self._path(number + 1).unlink(missing_ok=True)
        pipeline = self.trainer.pipeline
        with checkpoints.trust(self._folder):
            pipeline.load_state_dict(found.state)
        pipeline.version, self.number = found.meta["version"], number
        self._sound = True

    def _commit(self, group: Membership) -> None:
        """Make what was learned count.

        Raises
        ------
        Fenced, ConnectionError
            What was learned has been thrown away: it is not to count, or nobody knows whether it does. In that case the file
            must stay as it is, for the commit can have gone through.
        OSError
            When the checkpoint cannot be written; nothing has changed.
        """
        self.trainer.settle()
        self._committed_at = time.monotonic()
        if self.trainer.reader.position == self._committed:
            return
        positions = self.trainer.reader.positions()
        checkpoints.save(self._folder, self._checkpoint(self.number + 1), KEEP)
        try:
            group.commit(self.number + 1, positions)
        except (Fenced, ConnectionError) as error:
            self._throw_away(str(error))
            raise
        self.number += 1
        self._committed = self.trainer.reader.position

    def _checkpoint(self, number: int) -> Checkpoint:
        made = self.trainer.checkpoint()
        return Checkpoint(number, made.state, made.meta | {"version": made.version})

    def _path(self, number: int) -> Path:
        return checkpoints.path_of(self._folder, number)


def name_of(folder: Path) -> str:
    """Name of the member whose folder this is; the first start gives it one."""
    file = folder / "member"
    if not file.exists():
        file.write_text(f"freshet-{uuid.uuid4().hex[:12]}")
    return file.read_text()
