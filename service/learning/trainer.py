"""The only writer of the state: learns from the log, one micro-batch per turn.

The order of the steps ensures that a crash loses nothing and repeats nothing:
1. read records from the trainer's own offsets, and note their order; 2. decode, validate, join (a function of the records
alone); 3. score the batch; 4. learn it; 5. only between batches: write the noted order to the ledger, then publish the changes,
or save state and position together in one file.
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
from memory.stateful import digest, run_to_end, versions
from service.learning.event_reader import POLL, EventReader
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.learning.order import LedgerOrder, Order, PollOrder
from service.learning.steps import Steps
from service.learning.ticks import TickWriter
from service.learning.validation import EventValidator
from service.monitoring.monitor import Monitor
from service.ranking.pipeline import Pipeline
from service.recovery.ledger import Ledger
from service.recovery.recovery import recover
from service.recovery.retention import WORTH_SAVING, Retention
from service.recovery.snapshots import WaitingSnapshots, collect_snapshots, restore_snapshots, with_snapshots
from service.replication.weights import Change, Publisher
from streams.dead_letters import DeadLetters
from streams.join import Joiner
from streams.joined import JoinedBatch
from streams.log import Log, Offsets

__all__ = ["Trainer"]

_log = logging.getLogger(__name__)


class Trainer:
    """Reads a log, joins, learns, publishes changes and saves checkpoints.

    Parameters
    ----------
    pipeline : Pipeline
        Holds the state and learns.
    builder : FeedbackBuilder
        Turns joined rows into feedback.
    make_joiner : callable returning a Joiner
        Called once per partition.
    log : Log
    dead : DeadLetters
        Receives the records that cannot be learned from.
    validator : EventValidator
        Rejects well-formed records that cannot be learned from.
    monitor : Monitor or None
    folder : Path or None
        Folder of checkpoints. None: none are written.
    every : float
        Seconds between checkpoints.
    keep : int
        Checkpoints kept.
    retain : int or None
        Records of a partition to keep before the position of the oldest checkpoint. None: all.
    poll : int
        Records per read.
    flush : float
        Seconds that an open batch may wait for more rows.
    remote : str or None
        Name of a remote log, as used in its dead letters. Such a log may hang, so ticks are appended on another thread.
    ledger : Ledger or None
        Records the order in which several partitions are read. None: a restart reads them in another order, and its state
        differs.
    publisher : Publisher or None
        Publishes changes to replicas. It needs a `folder`, because replicas start from a checkpoint.
    order : Order or None
        Order of reading for a replay, which stops at a damaged record. None: as polled, recorded in the ledger.

    Attributes
    ----------
    reader : EventReader
    ticks : TickWriter
    notices : deque of str
        Last messages for the operator.
    failures : Counter
        Failed reads and writes, by what failed.
    caught_up : bool
        Whether everything that was in the log at the start has been learned.
    """

    role = "trainer"
    serves_while_behind = True
    """An old state is better than no rankings: no other process has a newer one."""
    whole = follows = True

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
        self._poll, self._flush = poll, flush
        live, order, source = order is None, order or PollOrder(log, poll, ledger), remote or "log"
        self.reader = EventReader(
            log, order, dead, validator, make_joiner, pipeline.apply, source=source, waits=live, skips_damage=live
        )
        self.has_request = self.reader.has_request
        pipeline.isolation.reports += [self.reader.report_poison, self.notice]
        self.ticks = TickWriter(log, self.reader, self.failed, remote=remote is not None)
        self._ledger, self._publisher, self._epoch = ledger, publisher, 0
        self._folder, self._every, self._keep = folder, every, keep
        self._saved, self._saved_at = -1, time.monotonic()
        self._copying: Steps[tuple[Checkpoint, WaitingSnapshots]] | None = None
        self._saving: tuple[Checkpoint, Future[Path]] | None = None
        self._retention = Retention(log, folder, keep, retain, publisher, ledger)
        self._saver = ThreadPoolExecutor(1, "checkpoint")
        self._end_at_start: Offsets = {}
        self._disconnected = False

    @property
    def next(self) -> Offsets:
        """Offset of the next record to process, by partition."""
        return self.reader.next

    def restore(self) -> None:
        """Continue from the newest usable checkpoint, else from the beginning of the log; see `service.recovery.recovery`."""
        start = recover(self._folder, self.log, self.pipeline, self._ledger, self._publisher)
        for text in start.notices:
            self.notice(text)
        self.failures += start.failures
        self._epoch = start.epoch
        if start.runs is not None:
            self.reader.order = LedgerOrder(self.log, self._poll, start.runs, self.reader.order)
        self.reader.open(start.positions)
        restore_snapshots(start.snapshots, self.reader.joiners)
        self._saved = self.reader.position
        self._retention.load()
        self._end_at_start = self.log.end()
        if self._publisher is not None:
            self._publisher.start(self.reader.position)
            if start.new_history:
                # Replicas start from a checkpoint, even before anything is learned.
                self._saved = -1
                self.save()

    def turn(self) -> bool:
        """Learn one micro-batch, or read or copy a part. Return False when the log has no more records or is unreachable."""
        if self._copying is not None:
            return self._continue_copy(self._copying)
        try:
            more = self.reader.advance()
        except ConnectionError as error:
            if not self._disconnected:
                self._disconnected = True
                self.failed("read", error)
            return False
        self._disconnected = False
        if self.reader.ready:
            self._learn(self.reader.ready.popleft())
        if self.reader.at_boundary:
            self.pipeline.as_of = self.reader.as_of
            self.caught_up = self.caught_up or all(self.next[partition] >= end for partition, end in self._end_at_start.items())
            self._publish_if_due()
            self._make_room_if_due()
            self._save_if_due()
        return more

    def idle(self, *, hurry: bool = False) -> float:
        """Append the ticks that are due while there is nothing to learn. Return the seconds to sleep.

        With `hurry`, an open batch is due at once.
        """
        self.keep_time()
        return self.ticks.rest(self._flush, hurry=hurry)

    def keep_time(self) -> None:
        """Append the ticks that cannot wait until there is nothing to learn, and report clocks that are wrong."""
        for text in self.ticks.keep_time(time.time()):
            self.notice(text)

    def drain(self) -> None:
        """Learn everything that the log holds now."""
        while self.turn():
            pass

    def learn_ready(self) -> None:
        """Learn the complete batches. After that, the state matches the positions."""
        for joined in self.reader.finish_record():
            self._learn(joined)

    def save(self) -> Path | None:
        """Write a checkpoint now, if there are new records since the last one, and wait until it is on disk.

        Raises
        ------
        OSError
            If it cannot be written. Earlier checkpoints stay.
        """
        while self._copying is not None:
            self._continue_copy(self._copying)
        self.learn_ready()
        self._finish_save()
        if self._folder is None or self.reader.position == self._saved:
            return None
        if self._ledger is not None:
            self._ledger.flush()
        saved, snapshots = run_to_end(self._copy())
        path = checkpoints.save(self._folder, with_snapshots(saved, snapshots), self._keep)
        self._saved = self.reader.position
        self._retention.saved(saved.version, saved.meta, self.next)
        return path

    def close(self) -> None:
        """Wait until a checkpoint, tick or change in progress is written."""
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
        """Number of records in the log that have not been processed."""
        return self.reader.lag()

    def status(self) -> dict[str, Any]:
        """Progress in the log."""
        positions = self.reader.positions()
        return {
            "next": {str(partition): offset for partition, offset in self.next.items()},
            "rewind": {str(partition): position.rewind for partition, position in positions.items()},
            "lag": self.lag(),
            "pending": self.reader.pending,
            "open_impressions": self.reader.open_impressions,
            "epoch": self._epoch,
        }

    def gauges(self) -> dict[str, Any]:
        """Metrics for the monitor."""
        weights = {} if self._publisher is None else {"weights": self._publisher.failures}
        return {
            "lag": self.lag(),
            "joiner": dict(self.reader.counts) | {"recomputed": self.builder.recomputed},
            "failures": dict(self.failures) | weights,
            **self.ticks.gauges(time.time()),
        }

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory in addition to the pipeline's."""
        # A checkpoint is a copy of the state until it is written.
        copying = self._copying is not None or (self._saving is not None and not self._saving[1].done())
        copied = self.pipeline.nbytes if copying else 0
        return {"joiner": self.reader.nbytes, "reader": self.reader.waiting_bytes, "checkpoint": copied}

    def _learn(self, joined: JoinedBatch) -> None:
        feedback = self._fold.joined(joined)
        if feedback is not None and self.monitor is not None:
            sources = ["" if row.shown is None else row.shown.impression.source or "client" for row in joined.rows]
            self.monitor.learned(feedback, sources, self.reader.appended)
        self.reader.appended = []

    def _publish_if_due(self) -> None:
        """Copy the changes, between two batches. Another thread writes them."""
        publisher = self._publisher
        if publisher is None or not publisher.due(self.reader.position):
            return
        if not self._flush_ledger():
            return
        at = self.reader
        state = self.pipeline.take_changes()
        publisher.publish(Change(self._epoch, at.position, self.pipeline.version, dict(at.next), at.as_of, state))

    def _save_if_due(self) -> None:
        """Start to copy the state, between two batches. Another thread writes the copy."""
        if self._saving is not None and self._saving[1].done():
            self._finish_save()
        due = time.monotonic() - self._saved_at >= self._every and self.reader.position != self._saved
        if self._folder is None or not due or self._saving is not None:
            return
        if not self._flush_ledger():
            return
        self._saved_at, self._saved = time.monotonic(), self.reader.position
        self._copying = Steps(self._copy())

    def _continue_copy(self, copying: Steps[tuple[Checkpoint, WaitingSnapshots]]) -> bool:
        if copying.turn():
            copied, snapshots = copying.result
            self._copying = None
            assert self._folder is not None
            folder, keep = self._folder, self._keep
            written = self._saver.submit(lambda: checkpoints.save(folder, with_snapshots(copied, snapshots), keep))
            self._saving = Checkpoint(copied.version, {}, copied.meta), written
        return True

    def _finish_save(self) -> None:
        """Wait for a save in the background. A failure is counted, and earlier checkpoints stay."""
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving[1].result()
                self._retention.saved(saving[0].version, saving[0].meta, self.next)
            except OSError as error:
                self._saved = -1
                self.failed("checkpoint", error)

    def _make_room_if_due(self) -> None:
        """Trim a log that is nearly full to the newest checkpoint, and save another one if that frees much more."""
        if not self._retention.needs_room():
            return
        if deleted := self._retention.make_room(self.next):
            self.notice(f"the log is nearly full: {deleted} records before the newest checkpoint were deleted")
        rewinds = {partition: position.rewind for partition, position in self.reader.positions().items()}
        if self._retention.excess(rewinds, self.next) > WORTH_SAVING:
            self._saved_at = float("-inf")
        elif not deleted and not self.lag():
            self.ticks.tick(list(self.next), time.time())  # time has to pass, so that less is needed

    def _flush_ledger(self) -> bool:
        """Write the order of records before their results leave the process. Return False if that failed; it is retried."""
        try:
            if self._ledger is not None:
                self._ledger.flush()
        except OSError as error:
            self.failed("ledger", error)
            return False
        return True

    def checkpoint(self) -> Checkpoint:
        """Copy the state with its position in the log; valid when the reader is `at_boundary`."""
        return run_to_end(self._copy())[0]

    def _copy(self) -> Generator[None, None, tuple[Checkpoint, WaitingSnapshots]]:
        """Copy the state and the snapshots of waiting impressions, in short steps; see `Stateful.copy_in_steps`."""
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
        state = yield from self.pipeline.copy_in_steps()
        snapshots = yield from collect_snapshots(self.reader.joiners)
        return Checkpoint(self.pipeline.version, state, meta), snapshots

    def failed(self, what: str, error: OSError) -> None:
        """Count a failed read or write, and report it."""
        self.failures[what] += 1
        self.notice(f"{what}: {error}")

    def notice(self, text: str) -> None:
        """Report a message to the operator."""
        self.notices.append(text)
        _log.warning(text)
