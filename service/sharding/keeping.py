"""What process 0 does for all: it finds where to start, records the rounds, writes checkpoints, and publishes to replicas."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memory import checkpoint as checkpoints
from memory.checkpoint import Checkpoint
from memory.stateful import State, versions
from service.ranking.pipeline import Pipeline
from service.recovery.ledger import Ledger, Run
from service.recovery.recovery import recover
from service.recovery.retention import Retention
from service.recovery.snapshots import WaitingSnapshots, with_snapshots
from service.replication.weights import Change, Publisher
from service.sharding.messages import Beginning, Saved
from streams.joined import Position
from streams.log import Log, Offsets

__all__ = ["Keeper", "recorded_rounds"]


class Keeper:
    """Keeps the history of all processes. Checkpoints are those of a single trainer, which can continue from them.

    Parameters
    ----------
    pipeline : Pipeline
    log : Log
        Events log.
    folder : Path or None
        Folder of checkpoints. None: none are written.
    every : float
        Seconds between checkpoints.
    keep : int
        Checkpoints kept.
    retain : int or None
        See `service.learning.trainer.Trainer`.
    ledger : Ledger or None
        Records the offsets after each round. They are written before any result of the round leaves the process.
    publisher : Publisher or None

    Attributes
    ----------
    epoch : int
        Identifies the history.
    failures : Counter
        Failed writes, by what failed.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        log: Log,
        folder: Path | None = None,
        *,
        every: float = 30.0,
        keep: int = 3,
        retain: int | None = None,
        ledger: Ledger | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        self._pipeline, self._log, self._folder, self._every, self._keep = pipeline, log, folder, every, keep
        self._ledger, self._publisher = ledger, publisher
        self._retention = Retention(log, folder, keep, retain, publisher, ledger)
        self._saver = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None
        self._written: tuple[Checkpoint, Offsets] | None = None
        self._saved, self._saved_at = -1, time.monotonic()
        self._marks: deque[int] = deque()
        self._notice: Callable[[str], None] = lambda text: None
        self.epoch = 0
        self.failures: Counter[str] = Counter()

    def restore(self, notice: Callable[[str], None]) -> Beginning:
        """Load the newest usable checkpoint, and find the rounds that were recorded after it.

        Parameters
        ----------
        notice : callable
            Called with messages for the operator, now and later.
        """
        self._notice = notice
        start = recover(self._folder, self._log, self._pipeline, self._ledger, self._publisher)
        for text in start.notices:
            notice(text)
        self.failures += start.failures
        self.epoch = start.epoch
        next = {partition: position.next for partition, position in start.positions.items()}
        rounds = list(recorded_rounds(start.runs or ()))
        self._marks.extend(mark for _, mark in rounds)
        if self._ledger is not None and not rounds:
            self._ledger.start(next)
        self._saved = sum(next.values())
        self._retention.load()
        if self._publisher is not None:
            self._publisher.start(self._saved)
        publishes = self._publisher is not None and start.new_history
        if publishes:
            self._saved = -1  # Replicas start from a checkpoint, even before anything is learned.
        return Beginning(
            self._pipeline.version,
            publishes,
            start.positions,
            start.snapshots,
            self._pipeline.state_dict(),
            [stops for stops, _ in rounds],
        )

    def learned(self, next: Offsets) -> None:
        """Note the offsets after a round, of all partitions. Publish the changes if they are due, and make room in the log."""
        if self._ledger is not None:
            if self._marks:
                self._marks.popleft()
                if not self._marks:
                    self._ledger.start(next)
            else:
                self._ledger.note_round(next)
        if self._retention.needs_room() and (deleted := self._retention.make_room(next)):
            self._notice(f"the log is nearly full: {deleted} records before the newest checkpoint were deleted")

    def publish_if_due(self, next: Offsets) -> None:
        """Publish the changes to replicas, if it is time."""
        position = sum(next.values())
        if self._publisher is not None and self._publisher.due(position) and self._flush_ledger():
            state, pipeline = self._pipeline.take_changes(), self._pipeline
            self._publisher.publish(Change(self.epoch, position, pipeline.version, dict(next), pipeline.as_of, state))

    def due(self, next: Offsets) -> bool:
        """Whether a checkpoint is due after the next round."""
        self._finish()
        new = self._folder is not None and sum(next.values()) != self._saved
        return new and self._writing is None and time.monotonic() - self._saved_at >= self._every

    def save(self, state: State, parts: Sequence[Saved], next: Offsets, *, at_once: bool) -> None:
        """Write a checkpoint: this process's state, and what each process knows of its partitions.

        Parameters
        ----------
        state : State
            A copy of the pipeline's state.
        parts : sequence of Saved
            Of all processes.
        next : Offsets
        at_once : bool
            Whether to wait until it is on disk. Otherwise another thread writes it.

        Raises
        ------
        OSError
            With `at_once`, if it cannot be written. Earlier checkpoints stay.
        """
        self._finish(wait=at_once)
        folder, position = self._folder, sum(next.values())
        if folder is None or position == self._saved or not self._flush_ledger():
            return
        positions: dict[int, Position] = {p: found for part in parts for p, found in sorted(part.positions.items())}
        snapshots: WaitingSnapshots = {p: found for part in parts for p, found in sorted(part.snapshots.items())}
        meta: dict[str, Any] = {
            "epoch": self.epoch,
            "position": position,
            "positions": {str(partition): asdict(positions[partition]) for partition in sorted(positions)},
            "ledger": self._mark(),
            "weights": 0 if self._publisher is None else self._publisher.offset,
            "as_of": self._pipeline.as_of,
            "log": self._log.identity,
            "versions": versions(self._pipeline),
        }
        saved, keep = with_snapshots(Checkpoint(self._pipeline.version, state, meta), snapshots), self._keep
        self._writing = self._saver.submit(lambda: checkpoints.save(folder, saved, keep))
        self._written = Checkpoint(saved.version, {}, meta), dict(next)
        self._saved, self._saved_at = position, time.monotonic()
        if at_once:
            self._finish(wait=True)

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None

    def close(self) -> None:
        """Finish pending writes."""
        self._finish(wait=True)
        self._saver.shutdown()
        if self._publisher is not None:
            self._publisher.close()
        if self._ledger is not None:
            self._ledger.close()

    def gauges(self) -> dict[str, Any]:
        """Failures for the monitor."""
        return dict(self.failures) | ({} if self._publisher is None else {"weights": self._publisher.failures})

    def _mark(self) -> int:
        """Position in the ledger of the round after the last one."""
        return self._marks[0] if self._marks else 0 if self._ledger is None else self._ledger.end

    def _finish(self, *, wait: bool = False) -> None:
        """Look at the result of a save in the background. A failure is counted, and earlier checkpoints stay."""
        if self._writing is None or self._written is None or not (wait or self._writing.done()):
            return
        (saved, next), writing = self._written, self._writing
        self._writing = self._written = None
        try:
            writing.result()
            self._retention.saved(saved.version, saved.meta, next)
        except OSError as error:
            self._saved = -1
            self.failures["checkpoint"] += 1
            self._notice(f"checkpoint: {error}")

    def _flush_ledger(self) -> bool:
        """Write the offsets of rounds before their results leave the process. Return False if that failed; it is retried."""
        try:
            if self._ledger is not None and not self._marks:
                self._ledger.flush()
        except OSError as error:
            self.failures["ledger"] += 1
            self._notice(f"ledger: {error}")
            return False
        return True


def recorded_rounds(runs: Iterable[Run]) -> Iterator[tuple[Offsets, int]]:
    """Yield the offsets after each round and the mark of its first run. A round lists all partitions in ascending order."""
    stops: Offsets = {}
    mark, last = 0, -1
    for run in runs:
        if run.partition <= last:
            yield stops, mark
            stops = {}
        if not stops:
            mark = run.mark
        stops[run.partition], last = run.stop, run.partition
    if stops:
        yield stops, mark
