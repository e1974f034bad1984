"""A copy of the trainer's state, updated change by change."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory import checkpoint as checkpoints
from service.ranking.pipeline import Pipeline
from service.recovery.recovery import UNUSABLE, check, read_metadata
from service.recovery.snapshots import split_snapshots
from service.replication.weights import Assembler, BadChange, Change
from streams.log import DamagedRecord, Log, Offsets, Record

__all__ = ["Replica"]

_log = logging.getLogger(__name__)

POLL = 8
"""Records per read; few, because each may be a part of a large change."""

IDLE = 0.02
"""Seconds between reads of the weights log."""

WAIT = 0.5
"""Seconds between attempts to find a checkpoint or log that does not exist yet."""


class Replica:
    """Applies the changes of a weights log to a pipeline, one per turn.

    It starts from the trainer's newest checkpoint. It loads the newest checkpoint again when changes are missing or the trainer
    has started a new history. It answers requests only after it has applied all changes that were in the log at its start. So
    its answers never use an older version than before, not even after a restart.

    Parameters
    ----------
    pipeline : Pipeline
        Built from the trainer's config.
    open_log : callable returning a Log
        Opens the weights log for reading; raises FileNotFoundError if it does not exist yet.
    folder : Path
        Folder of the trainer's checkpoints. Nothing is written there.
    events : str or None
        `Log.identity` of the events log. Checkpoints of another log are skipped.
    config : str
        Fingerprint of this process's config. While the trainer has another one, its changes do not fit this state.

    Attributes
    ----------
    notices : deque of str
        Last messages for the operator.
    failures : Counter
        Failed reads, by what failed.
    loads : int
        Checkpoints loaded.
    caught_up : bool
        Whether it has applied everything that was in the weights log at the start.
    follows : bool
        Whether the trainer's changes fit this state; not while the trainer runs another config.
    next : Offsets
        Offset of the next record of the events log that the state does not include, by partition.
    """

    role = "replica"
    serves_while_behind = False
    """Another process has a newer state, and may have shown its rankings to the same user."""
    whole = False
    """Private state is that of the checkpoint: changes do not have it, and answers do not need it."""

    def __init__(
        self, pipeline: Pipeline, open_log: Callable[[], Log], folder: Path, events: str | None = None, config: str = ""
    ) -> None:
        self.pipeline = pipeline
        self.notices: deque[str] = deque(maxlen=50)
        self.failures: Counter[str] = Counter()
        self.loads = 0
        self.caught_up, self.follows = False, True
        self.next: Offsets = {}
        self._open_log, self._folder, self._events, self._config = open_log, folder, events, config
        self._log: Log | None = None
        self._epoch, self._position = -1, -1
        self._wanted, self._wanted_position = -1, -1
        self._cut_off = False
        self._goal: int | None = None
        self._at = 0
        self._parts = Assembler()
        self._buffer: deque[Record] = deque()
        self._loading = True
        self._passed_over: deque[str] = deque(maxlen=50)

    def restore(self) -> None:
        """Do nothing before the first turn: the checkpoint may not exist yet."""

    def turn(self) -> bool:
        """Load a checkpoint if needed, or apply a change. Return False when there is neither."""
        try:
            if self._log is None:
                self._log = self._open_log()
            if self._goal is None:
                self._goal = self._log.end()[0]
            if self._loading and not self._load():
                return False
            more = self._follow(self._log)
        except DamagedRecord as error:
            self.failures["weights"] += 1
            self._once(str(error))
            self._at = error.offset + 1
            return True
        except FileNotFoundError as error:
            self._once(f"waiting for the trainer: {error}")
            return False
        except ConnectionError as error:
            if not self._cut_off:
                self._cut_off = True
                self.failures["read"] += 1
                self._once(f"read: {error}")
            return False
        self._cut_off = False
        return more

    def idle(self, *, hurry: bool = False) -> float:
        """Seconds to sleep until the next turn. A replica cannot hurry: the trainer sets its pace."""
        return WAIT if self._loading or self._log is None else IDLE

    def keep_time(self) -> None:
        """Do nothing: the trainer writes ticks."""

    def has_request(self, request_id: str) -> bool:
        """Return False: a replica does not read the event log."""
        return False

    def save(self) -> None:
        """Do nothing: the trainer saves the state."""

    def close(self) -> None:
        """Close the weights log."""
        if self._log is not None:
            self._log.close()

    def status(self) -> dict[str, Any]:
        """Progress in the logs."""
        return {
            "next": {str(partition): offset for partition, offset in self.next.items()},
            "lag": self._lag(),
            "epoch": self._epoch,
            "loads": self.loads,
            "follows": self.follows,
        }

    def gauges(self) -> dict[str, Any]:
        """Metrics for the monitor."""
        return {"lag": self._lag(), "failures": dict(self.failures), "loads": self.loads}

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory in addition to the pipeline's."""
        return {}

    def _lag(self) -> int:
        """Number of records in the weights log that have not been read."""
        return 0 if self._log is None else self._log.end()[0] - self._at

    def _load(self) -> bool:
        """Load the newest checkpoint. Return False if none is usable, or none is newer than the state."""
        found, unusable = checkpoints.latest(self._folder, lambda one: check(one, self.pipeline, self._events), set_aside=False)
        for text in map(str, unusable):
            if text not in self._passed_over:
                self._passed_over.append(text)
                self.failures[UNUSABLE] += 1
                self._once(text)
        if found is None:
            remedy = "run `freshet train` with the same config file and the same folder"
            self._once(f"{self._folder}: no checkpoint of this configuration yet; {remedy}")
            return False
        metadata = read_metadata(found)
        position = max(self._position, self._wanted_position)
        if metadata.epoch < self._wanted or (metadata.epoch, metadata.position) < (self._epoch, position):
            self._once("waiting for a newer checkpoint")
            return False
        self.pipeline.load_state_dict(split_snapshots(found.state)[1])
        self.pipeline.version, self.pipeline.as_of = found.version, metadata.as_of
        self._epoch, self._position, self._wanted_position = metadata.epoch, metadata.position, -1
        self.next = {partition: position.next for partition, position in metadata.positions.items()}
        self._at, self._parts = metadata.weights, Assembler()
        self._buffer.clear()
        self._loading = False
        self.loads += 1
        _log.info("loaded the checkpoint of version %d", found.version)
        return True

    def _follow(self, log: Log) -> bool:
        """Read until a change has been applied. Return False at the end of the log."""
        while True:
            if not self._buffer:
                try:
                    self._buffer.extend(log.read({0: self._at}, POLL))
                except LookupError as error:
                    self._reload(str(error))
                    return True
            if not self._buffer:
                self.caught_up = self.caught_up or self._at >= (self._goal or 0)
                return False
            record = self._buffer.popleft()
            self._at = record.offset + 1
            try:
                change = self._parts.add(record.value)
            except BadChange as error:
                self.failures["weights"] += 1
                self._once(f"record {record.offset}: {error}")
                continue
            if change is not None and self._apply(change):
                self.caught_up = self.caught_up or self._at >= (self._goal or 0)
                return True

    def _apply(self, change: Change) -> bool:
        """Apply a change. Return False if the state has it already."""
        if change.epoch < self._epoch:
            return False  # written late by a trainer that has ended
        if change.epoch > self._epoch and change.config not in ("", self._config):
            self._lose_the_trainer(change)
            return False
        self.follows = True
        if change.epoch > self._epoch:
            self._wanted = change.epoch
            self._reload("the trainer has started a new history")
            return True
        if change.since > self._position:
            self._wanted_position = change.since
            self._reload(f"changes from {self._position} to {change.since} are missing")
            return True
        if change.position <= self._position:
            self.pipeline.as_of = max(self.pipeline.as_of, change.as_of)
            return False
        self.pipeline.apply_changes(change.state)
        self.pipeline.version, self.pipeline.as_of = change.version, max(self.pipeline.as_of, change.as_of)
        self._position, self.next = change.position, change.next
        return True

    def _lose_the_trainer(self, change: Change) -> None:
        """Stop being ready, and wait until the trainer has this config again."""
        if self.follows:
            self.failures["other_config"] += 1
        self.follows = False
        problem = f"the trainer runs another config or version (fingerprint {change.config}, here {self._config})"
        self._once(f"{problem}: rankings stay as they are and get no newer; restart this replica with the trainer's config")

    def _reload(self, why: str) -> None:
        self._once(f"{why}; loading the newest checkpoint")
        self._loading = True

    def _once(self, text: str) -> None:
        """Report a message, unless it repeats the last one."""
        if not self.notices or self.notices[-1] != text:
            self.notices.append(text)
            _log.warning(text)
