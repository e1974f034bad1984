"""The one writer: folds the log into the state, one micro-batch a turn.

The order at every step, which is what makes a crash lose and repeat nothing:
1. read records from the trainer's own offsets, and note in which order; 2. decode, refuse, join (a function of the records
alone); 3. score the batch; 4. learn; 5. only between batches: write the order down, then publish what has changed, or save
state and position together, in one file.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memory import checkpoint as checkpoints
from memory.checkpoint import Checkpoint
from memory.stateful import digest, finished, versions
from service.learning.event_reader import POLL, EventReader
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.learning.order import AsRead, Following, Order
from service.learning.steps import Steps
from service.learning.ticks import TickWriter
from service.learning.validation import EventValidator
from service.monitoring.monitor import Monitor
from service.ranking.pipeline import Pipeline
from service.recovery.ledger import Ledger
from service.recovery.notes import Notes, noting, put_back, with_notes
from service.recovery.recovery import recover
from service.replication.weights import Change, Publisher
from streams.dead_letters import DeadLetters
from streams.join import Joiner
from streams.joined import Joined
from streams.log import Log, Offsets

__all__ = ["Trainer"]

_log = logging.getLogger(__name__)

IDLE = 0.05
"""Seconds between looks at a log that somebody else may append to."""


class Trainer:
    """Reads a log, joins, learns, publishes and checkpoints.

    Parameters
    ----------
    pipeline : Pipeline
        The state to fold into.
    builder : FeedbackBuilder
        How joined rows become feedback.
    make_joiner : callable returning a Joiner
        Called once a partition.
    log : Log
    dead : DeadLetters
        Where records go that cannot be learned from.
    validator : EventValidator
        Which records those are, of the well-formed ones.
    monitor : Monitor or None
    folder : Path or None
        Of checkpoints; None: none are written.
    every : float
        Seconds between checkpoints.
    keep : int
        Checkpoints kept.
    retain : int or None
        Records of a partition to keep behind the oldest checkpoint; None: all of them.
    poll : int
        Records read at once.
    flush : float
        Seconds that an open batch may wait for more rows.
    remote : str or None
        Name of a log that is elsewhere. It may hang, and must not hold up the caller: a turn that cannot read is no failure.
        Its dead letters tell the name.
    ledger : Ledger or None
        Keeps the order of several partitions. None: a restart takes them in another order, and its state differs.
    publisher : Publisher or None
        Tells replicas what changes; needs a `folder`, for they begin with a checkpoint.
    order : Order or None
        For a replay: another order than that of reading.

    Attributes
    ----------
    reader : EventReader
    ticks : TickWriter
    notices : deque of str
        The last things that an operator should know.
    failures : Counter
        What could not be written or read.
    caught_up : bool
        Whether everything has been learned that was in the log at the start.
    """

    role = "trainer"
    serves_behind = True
    """Rankings are better with an old state than not at all: there is no other process that has a newer one."""
    whole = True

    def __init__(
        self,
        pipeline: Pipeline,
        builder: FeedbackBuilder,
        make_joiner: Callable[[], Joiner],
        log: Log,
        dead: DeadLetters,
        validator: EventValidator,
        *,
        monitor: Monitor | None = None,
        folder: Path | None = None,
        every: float = 30.0,
        keep: int = 3,
        retain: int | None = None,
        poll: int = POLL,
        flush: float = 0.02,
        remote: str | None = None,
        ledger: Ledger | None = None,
        publisher: Publisher | None = None,
        order: Order | None = None,
    ) -> None:
        self.pipeline, self.builder, self.log, self.dead = pipeline, builder, log, dead
        self.monitor = monitor
        self._fold = Fold(pipeline, builder, None if monitor is None else monitor.quality)
        self.notices: deque[str] = deque(maxlen=50)
        self.failures: Counter[str] = Counter()
        self.caught_up = False
        order = order or AsRead(log, poll, ledger)
        self.reader = EventReader(log, order, dead, validator, make_joiner, pipeline.apply, source=remote or "log")
        pipeline.isolation.reports += [self.reader.poisoned, self.notice]
        self.ticks = TickWriter(log, self.reader, self.failed, remote=remote is not None)
        self._poll, self._flush = poll, flush
        self._ledger, self._publisher, self._epoch = ledger, publisher, 0
        self._folder, self._every, self._keep = folder, every, keep
        self._saved, self._saved_at = -1, time.monotonic()
        self._copying: Steps[tuple[Checkpoint, Notes]] | None = None
        self._saving: Future[Path] | None = None
        self._retain, self._kept = retain, deque[dict[str, Any]](maxlen=keep)
        self._saver = ThreadPoolExecutor(1, "checkpoint")
        self._goal: Offsets = {}
        self._cut_off = False

    @property
    def next(self) -> Offsets:
        """Offset of the next record to fold, by partition."""
        return self.reader.next

    def restore(self) -> None:
        """Continue from the newest checkpoint that fits, else from the log's beginning; see `service.recovery.recovery`."""
        start = recover(self._folder, self.log, self.pipeline, self._ledger, self._publisher)
        for text in start.notices:
            self.notice(text)
        self.failures += start.failures
        self._epoch = start.epoch
        if start.runs is not None:
            self.reader.order = Following(self.log, self._poll, start.runs, self.reader.order)
        self.reader.open(start.positions)
        put_back(start.notes, self.reader.joiners)
        self._saved = self.reader.position
        self._goal = self.log.end()
        if self._publisher is not None:
            self._publisher.start(self.reader.position)
            if start.anew:
                # Replicas begin with a checkpoint, also those that come before anything was learned.
                self._saved = -1
                self.save()

    def turn(self) -> bool:
        """Learn one micro-batch, or read or copy a little; False when the log has nothing more, or is cut off."""
        if self._copying is not None:
            return self._copy_on(self._copying)
        try:
            more = self.reader.read_on()
        except ConnectionError as error:
            if not self._cut_off:
                self._cut_off = True
                self.failed("read", error)
            return False
        self._cut_off = False
        if self.reader.ready:
            self._learn(self.reader.ready.popleft())
        if self.reader.whole:
            self.pipeline.as_of = self.reader.as_of
            self.caught_up = self.caught_up or all(self.next[partition] >= end for partition, end in self._goal.items())
            self._publish_if_due()
            self._save_if_due()
        return more

    def idle(self) -> float:
        """There is nothing to learn: close what waited long enough; return how many seconds there is nothing to do."""
        now = time.time()
        due = self.ticks.due(now, self._flush)
        if due:
            self.ticks.tick(due, now)
            return 0.0
        return self._flush / 2 if self.reader.pending else IDLE

    def drain(self) -> None:
        """Learn everything that the log holds now."""
        while self.turn():
            pass

    def settle(self) -> None:
        """Learn the batches that are complete: after that, state and positions go together."""
        for joined in self.reader.rest():
            self._learn(joined)

    def save(self) -> Path | None:
        """Write a checkpoint now, if anything was folded since the last one, and wait until it is safe.

        Raises
        ------
        OSError
            When it cannot be written; the checkpoints before stay as they are.
        """
        while self._copying is not None:
            self._copy_on(self._copying)
        self.settle()
        self._finish_save()
        if self._folder is None or self.reader.position == self._saved:
            return None
        if self._ledger is not None:
            self._ledger.flush()
        saved, notes = finished(self._copy())
        path = checkpoints.save(self._folder, with_notes(saved, notes), self._keep)
        self._saved = self.reader.position
        self._keep_in_mind(saved)
        self._trim()
        return path

    def close(self) -> None:
        """Wait for what is being written: a checkpoint, a tick, a change."""
        self._finish_save()
        self._saver.shutdown()
        self.ticks.close()
        if self._publisher is not None:
            self._publisher.close()
        if self._ledger is not None:
            self._ledger.close()

    def digest(self) -> str:
        """Fingerprint of the whole state."""
        return digest(self.pipeline.state_dict())

    def lag(self) -> int:
        """Records of the log that have not been folded."""
        return self.reader.lag()

    def status(self) -> dict[str, Any]:
        """Where it stands in the log."""
        positions = self.reader.positions()
        return {
            "next": {str(partition): offset for partition, offset in self.next.items()},
            "rewind": {str(partition): position.rewind for partition, position in positions.items()},
            "lag": self.lag(),
            "pending": self.reader.pending,
            "epoch": self._epoch,
        }

    def gauges(self) -> dict[str, Any]:
        """Numbers for the monitor."""
        failures = dict(self.failures)
        if self._publisher is not None:
            failures["weights"] = self._publisher.failures
        return {
            "lag": self.lag(),
            "joiner": dict(self.reader.counts) | {"recomputed": self.builder.recomputed},
            "failures": failures,
        }

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory beside the pipeline's."""
        return {"joiner": self.reader.nbytes}

    def _learn(self, joined: Joined) -> None:
        feedback = self._fold.joined(joined)
        if feedback is not None and self.monitor is not None:
            sources = ["" if row.shown is None else row.shown.impression.source or "client" for row in joined.rows]
            self.monitor.learned(feedback, sources, self.reader.appended)
        self.reader.appended = []

    def _publish_if_due(self) -> None:
        """Copy what has changed here, between two batches; it is written on another thread."""
        publisher = self._publisher
        if publisher is None or not publisher.due(self.reader.position):
            return
        if not self._write_order_down():
            return
        at = self.reader
        state = self.pipeline.take_changes()
        publisher.publish(Change(self._epoch, at.position, self.pipeline.version, dict(at.next), at.as_of, state))

    def _save_if_due(self) -> None:
        """Begin to copy the state here, between two batches; the copy is written on another thread."""
        due = time.monotonic() - self._saved_at >= self._every and self.reader.position != self._saved
        if self._folder is None or not due or not (self._saving is None or self._saving.done()):
            return
        self._finish_save()
        if not self._write_order_down():
            return
        self._saved_at, self._saved = time.monotonic(), self.reader.position
        self._copying = Steps(self._copy())

    def _copy_on(self, copying: Steps[tuple[Checkpoint, Notes]]) -> bool:
        if copying.turn():
            copied, notes = copying.result
            self._copying = None
            self._keep_in_mind(copied)
            assert self._folder is not None
            folder, keep = self._folder, self._keep
            self._saving = self._saver.submit(lambda: checkpoints.save(folder, with_notes(copied, notes), keep))
        return True

    def _finish_save(self) -> None:
        """Wait for a save in the background; when it failed, the checkpoints before are as they were, and it is counted."""
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result()
                self._trim()
            except OSError as error:
                self._saved = -1
                self._kept.clear()
                self.failed("checkpoint", error)

    def _keep_in_mind(self, saved: Checkpoint) -> None:
        if self._kept and self._kept[-1]["version"] == saved.version:
            self._kept.pop()  # the same file
        self._kept.append({"version": saved.version} | saved.meta)

    def _trim(self) -> None:
        """Delete what no checkpoint kept needs, once every one of those was written by this process."""
        if len(self._kept) < self._keep:
            return
        oldest = self._kept[0]
        if self._retain is not None:
            rewinds = {int(partition): position["rewind"] for partition, position in oldest["positions"].items()}
            self.log.trim({p: min(rewind, self.next[p] - self._retain) for p, rewind in rewinds.items()})
        if self._publisher is not None:
            self._publisher.trim(oldest["weights"])
        if self._ledger is not None:
            self._ledger.needed = oldest["ledger"]

    def _write_order_down(self) -> bool:
        """Before anything leaves that came of it; False when that fails, which is counted and tried again."""
        try:
            if self._ledger is not None:
                self._ledger.flush()
        except OSError as error:
            self.failed("ledger", error)
            return False
        return True

    def checkpoint(self) -> Checkpoint:
        """Copy of the state with its place in the log; valid when the reader is whole."""
        return finished(self._copy())[0]

    def _copy(self) -> Generator[None, None, tuple[Checkpoint, Notes]]:
        """The same and what was noted of impressions, in short steps; see `Stateful.copying`."""
        meta = {
            "epoch": self._epoch,
            "position": self.reader.position,
            "positions": {str(partition): asdict(position) for partition, position in self.reader.positions().items()},
            "ledger": self.reader.order.mark,
            "weights": 0 if self._publisher is None else self._publisher.offset,
            "as_of": self.reader.as_of,
            "log": self.log.identity,
            "versions": versions(self.pipeline),
        }
        state = yield from self.pipeline.copying()
        notes = yield from noting(self.reader.joiners)
        return Checkpoint(self.pipeline.version, state, meta), notes

    def failed(self, what: str, error: OSError) -> None:
        """Count something that could not be done, and say it."""
        self.failures[what] += 1
        self.notice(f"{what}: {error}")

    def notice(self, text: str) -> None:
        """Say something to who operates this."""
        self.notices.append(text)
        _log.warning(text)
