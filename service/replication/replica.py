"""A copy of the state that follows the one who learns, change by change."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory import checkpoint as checkpoints
from service.ranking.pipeline import Pipeline
from service.recovery.notes import take_notes
from service.recovery.recovery import PASSED_OVER, about, check
from service.replication.weights import Assembler, BadChange, Change
from streams.log import Log, Offsets, Record

__all__ = ["Replica"]

_log = logging.getLogger(__name__)

POLL = 8
"""Records read at once: one of them may be the part of a large change."""

IDLE = 0.02
"""Seconds between looks at the weights log."""

WAIT = 0.5
"""Seconds between looks for a checkpoint, or a log, that is not there yet."""


class Replica:
    """Applies the changes of a weights log to a pipeline, one a turn.

    It begins with the newest checkpoint of the trainer, and goes back to it when changes are missing, or when the history is
    another one. It answers requests only when it has all that was in the weights log at its start: so no version that it
    answers with is older than one it has answered with before, also in a former life.

    Parameters
    ----------
    pipeline : Pipeline
        Built from the trainer's config.
    open_log : callable returning a Log
        Opens the weights log to read it; FileNotFoundError: it is not there yet.
    folder : Path
        Where the trainer's checkpoints are. Nothing is written there.
    events : str or None
        `Log.identity` of the log of events: a checkpoint of another one is passed over.

    Attributes
    ----------
    notices : deque of str
        The last things that an operator should know.
    failures : Counter
        What could not be read.
    loads : int
        Checkpoints loaded.
    caught_up : bool
        Whether it has all that was in the weights log at the start.
    next : Offsets
        Offsets of the events log that the state has come to.
    """

    role = "replica"
    serves_behind = False
    """Somebody else has a newer state, and may have shown it to the same user."""
    whole = False
    """What is private is that of the checkpoint: changes do not have it, and answers do not need it."""

    def __init__(self, pipeline: Pipeline, open_log: Callable[[], Log], folder: Path, events: str | None = None) -> None:
        self.pipeline = pipeline
        self.notices: deque[str] = deque(maxlen=50)
        self.failures: Counter[str] = Counter()
        self.loads = 0
        self.caught_up = False
        self.next: Offsets = {}
        self._open_log, self._folder, self._events = open_log, folder, events
        self._log: Log | None = None
        self._epoch, self._position = -1, -1
        self._wanted = -1
        self._cut_off = False
        self._goal: int | None = None
        self._at = 0
        self._parts = Assembler()
        self._buffer: deque[Record] = deque()
        self._loading = True
        self._passed_over: deque[str] = deque(maxlen=50)

    def restore(self) -> None:
        """Nothing to do before the first turn: what it begins with may not be there yet."""

    def turn(self) -> bool:
        """Load a checkpoint if one is needed, or apply a change; False when there is neither."""
        try:
            if self._log is None:
                self._log = self._open_log()
            if self._goal is None:
                self._goal = self._log.end()[0]
            if self._loading and not self._load():
                return False
            more = self._follow(self._log)
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

    def idle(self) -> float:
        """Seconds until there may be something new."""
        return WAIT if self._loading or self._log is None else IDLE

    def save(self) -> None:
        """Nothing is written: the state is the trainer's."""

    def close(self) -> None:
        """Close the weights log."""
        if self._log is not None:
            self._log.close()

    def status(self) -> dict[str, Any]:
        """Where it stands."""
        return {
            "next": {str(partition): offset for partition, offset in self.next.items()},
            "lag": self._lag(),
            "epoch": self._epoch,
            "loads": self.loads,
        }

    def gauges(self) -> dict[str, Any]:
        """Numbers for the monitor."""
        return {"lag": self._lag(), "failures": dict(self.failures), "loads": self.loads}

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory beside the pipeline's."""
        return {}

    def _lag(self) -> int:
        """Records of the weights log that have not been read."""
        return 0 if self._log is None else self._log.end()[0] - self._at

    def _load(self) -> bool:
        """Load the newest checkpoint, unless it is of no use; False then."""
        found, unusable = checkpoints.latest(
            self._folder, lambda one: check(one, self.pipeline, self._events, self._folder), set_aside=False
        )
        for text in map(str, unusable):
            if text not in self._passed_over:
                self._passed_over.append(text)
                self.failures[PASSED_OVER] += 1
                self._once(text)
        if found is None:
            remedy = "run `freshet train` with the same config file, and let it be the same folder"
            self._once(f"{self._folder}: no checkpoint of this configuration yet; {remedy}")
            return False
        said = about(found)
        if said.epoch < self._wanted or (said.epoch, said.position) < (self._epoch, self._position):
            self._once("waiting for a newer checkpoint")
            return False
        with checkpoints.trust(self._folder):
            self.pipeline.load_state_dict(take_notes(found.state)[1])
        self.pipeline.version, self.pipeline.as_of = found.version, said.as_of
        self._epoch, self._position = said.epoch, said.position
        self.next = {partition: position.next for partition, position in said.positions.items()}
        self._at, self._parts = said.weights, Assembler()
        self._buffer.clear()
        self._loading = False
        self.loads += 1
        _log.info("loaded the checkpoint of version %d", found.version)
        return True

    def _follow(self, log: Log) -> bool:
        """Read on until a change has been applied; False at the end of the log."""
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
        """Apply a change, unless it is known already; whether it was new."""
        if change.epoch < self._epoch:
            return False  # written late by a trainer that is no more
        if change.epoch > self._epoch:
            self._wanted = change.epoch
            self._reload("the trainer has begun a new history")
            return True
        if change.since > self._position:
            self._reload(f"changes from {self._position} to {change.since} are missing")
            return True
        if change.position <= self._position:
            self.pipeline.as_of = max(self.pipeline.as_of, change.as_of)
            return False
        self.pipeline.apply_changes(change.state)
        self.pipeline.version, self.pipeline.as_of = change.version, max(self.pipeline.as_of, change.as_of)
        self._position, self.next = change.position, change.next
        return True

    def _reload(self, why: str) -> None:
        self._once(f"{why}; loading the newest checkpoint")
        self._loading = True

    def _once(self, text: str) -> None:
        """Say something, but not again and again."""
        if not self.notices or self.notices[-1] != text:
            self.notices.append(text)
            _log.warning(text)
