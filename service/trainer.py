"""The one writer: folds the log into the state, one micro-batch a turn.

The order at every step, which is what makes a crash lose and repeat nothing:

1. read records from the trainer's own offset; 2. decode, refuse, join (a function of the records alone); 3. score the batch;
4. learn; 5. only between batches: save state and position together, in one file.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from memory import checkpoint as checkpoints
from memory.checkpoint import Checkpoint, CorruptCheckpoint
from memory.stateful import digest
from service.admission import Admission
from service.feedback import Outcomes
from service.monitor import Monitor
from service.pipeline import Pipeline
from streams.batch import Feedback
from streams.codec import BadEvent, decode, encode
from streams.dead_letters import DeadLetters
from streams.events import Event, Interaction, Tick
from streams.join import Joined, Joiner, Position
from streams.log import Log, Record

__all__ = ["Trainer"]

_log = logging.getLogger(__name__)

PARTITION = 0
"""The embedded log has one partition."""

POLL = 512
"""Records read at once: enough to make a read cheap, few enough to keep a turn short. No result depends on it."""


class Trainer:
    """Reads a log, joins, learns, and checkpoints.

    Parameters
    ----------
    pipeline : Pipeline
        The state to fold into.
    outcomes : Outcomes
        How joined rows become feedback.
    joiner : Joiner
    log : Log
    dead : DeadLetters
        Where records go that cannot be learned from.
    admission : Admission
        Which records those are, of the well-formed ones.
    monitor : Monitor or None
    folder : Path or None
        Of checkpoints; None: none are written.
    every : float
        Seconds between checkpoints.
    keep : int
        Checkpoints kept.
    retain : int or None
        Records of the log to keep behind the oldest checkpoint; None: all of them.
    poll : int
        Records read at once.
    remote : str or None
        Name of a log that is elsewhere. It may hang, and must not hold up the caller: ticks are appended on a thread of their
        own, and a turn that cannot read is no failure. Its dead letters tell the name.

    Attributes
    ----------
    notices : deque of str
        The last things that an operator should know.
    failures : Counter
        Ticks and checkpoints that could not be written.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        outcomes: Outcomes,
        joiner: Joiner,
        log: Log,
        dead: DeadLetters,
        admission: Admission,
        *,
        monitor: Monitor | None = None,
        folder: Path | None = None,
        every: float = 30.0,
        keep: int = 3,
        retain: int | None = None,
        poll: int = POLL,
        remote: str | None = None,
    ) -> None:
        self.pipeline, self.outcomes, self.joiner, self.log, self.dead = pipeline, outcomes, joiner, log, dead
        self.monitor = monitor
        self.notices: deque[str] = deque(maxlen=50)
        self.failures: Counter[str] = Counter()
        self._admission, self._poll = admission, poll
        self._folder, self._every, self._keep = folder, every, keep
        self._next = 0
        self._buffer: deque[Record] = deque()
        self._ready: deque[Joined] = deque()
        self._appended: list[float] = []
        self._pending_since: float | None = None
        self._dead_until = -1
        self._saved_version, self._saved_at = 0, time.monotonic()
        self._saving: Future[Path] | None = None
        self._retain, self._rewinds = retain, deque[int](maxlen=keep)
        self._saver = ThreadPoolExecutor(1, "checkpoint")
        self._source = remote or "log"
        self._ticker = ThreadPoolExecutor(1, "tick") if remote else None
        self._ticking: Future[None] | None = None
        self._cut_off_at: float | None = None

    @property
    def position(self) -> Position:
        """Place in the log; whole only between batches."""
        return self.joiner.position()

    @property
    def next(self) -> int:
        """Offset of the next record to fold."""
        return self._next

    def restore(self) -> None:
        """Continue from the newest checkpoint that can be trusted, else start at the beginning of the log."""
        found, corrupt = (None, list[CorruptCheckpoint]()) if self._folder is None else checkpoints.latest(self._folder)
        for error in corrupt:
            self._notice(str(error))
        self._dead_until = max(
            (letter.offset for letter in self.dead.read(10_000) if letter.source == self._source), default=-1
        )
        if found is None:
            begin = self.log.begin()[PARTITION]
            if begin > 0:
                self._notice(f"the log begins at record {begin}: what was trimmed before it is not in the state")
            self._next = begin
            return
        position = Position(**found.meta["position"])
        assert self._folder is not None
        with checkpoints.trust(self._folder):
            self.pipeline.load_state_dict(found.state)
        self.pipeline.version = self._saved_version = found.version
        self.joiner.restore(position, self._readable(position.rewind, position.next))
        self._next = position.next

    def turn(self) -> bool:
        """Learn one micro-batch, or read a few records towards one; False when the log has nothing more, or is cut off."""
        try:
            more = self._read_on()
        except ConnectionError as error:
            if self._cut_off_at is None:
                self._cut_off_at = time.time()
                self._failed("read", error)
            return False
        self._cut_off_at = None
        if not more:
            return False
        if self._ready:
            self._learn(self._ready.popleft())
            if not self._ready:
                self._save_if_due()
        return True

    def drain(self) -> None:
        """Learn everything that the log holds now."""
        while self.turn():
            pass

    def batches(self) -> Iterator[Feedback]:
        """Feedback of the whole log, batch by batch, for a caller who predicts and learns by itself (a replay)."""
        self._next = self.log.begin()[PARTITION]
        while self._read_on():
            if self._ready:
                feedback = self.outcomes.take(self._ready.popleft())
                if feedback is not None:
                    yield feedback

    def tick_due(self, now: float, flush: float) -> bool:
        """Whether waiting rows should be closed by a `Tick`: they waited `flush` seconds, or a window has ended.

        Parameters
        ----------
        now : float
            Unix seconds.
        flush : float
            Seconds that an open batch may wait.
        """
        if self._ticking is not None and not self._ticking.done():
            return False
        deadline = self.joiner.deadline
        if deadline is not None and deadline <= now:
            return True
        if not self.joiner.pending:
            self._pending_since = None
            return False
        if self._pending_since is None:
            self._pending_since = now
        return now - self._pending_since >= flush

    def tick(self, now: float) -> None:
        """Append a `Tick` to the log; it closes the open batch when it is read.

        A log that is full or cut off costs freshness, not the service: the failure is counted, and tried again later.
        """
        self._pending_since = None
        if self._ticker is None:
            self._append_tick(now)
        else:
            self._ticking = self._ticker.submit(self._append_tick, now)

    def _append_tick(self, now: float) -> None:
        try:
            self.log.append([(b"", encode(Tick(timestamp=now)))])
        except OSError as error:
            self._failed("tick", error)

    def save(self) -> Path | None:
        """Write a checkpoint now, if anything was learned since the last one, and wait until it is safe.

        Raises
        ------
        OSError
            When it cannot be written; the checkpoints before stay as they are.
        """
        while self._ready:
            self._learn(self._ready.popleft())
        self._finish_save()
        if self._folder is None or self.pipeline.version == self._saved_version:
            return None
        saved = self._checkpoint()
        path = checkpoints.save(self._folder, saved, self._keep)
        self._saved_version = saved.version
        self._rewinds.append(saved.meta["position"]["rewind"])
        self._trim()
        return path

    def close(self) -> None:
        """Wait for what is being written: a checkpoint, a tick."""
        self._finish_save()
        self._saver.shutdown()
        if self._ticker is not None:
            self._ticker.shutdown()

    def digest(self) -> str:
        """Fingerprint of the whole state."""
        return digest(self.pipeline.state_dict())

    def lag(self) -> int:
        """Records of the log that have not been folded."""
        return self.log.end()[PARTITION] - self._next

    def lag_seconds(self) -> float:
        """Age of the oldest record that has not been folded, or time since the log is cut off; 0 when there is neither."""
        cut_off_at = self._cut_off_at
        if cut_off_at is not None:
            return time.time() - cut_off_at
        if self.lag() <= 0:
            return 0.0
        try:
            oldest = self._buffer[0]
        except IndexError:
            found = self.log.read({PARTITION: self._next}, 1)
            if not found:
                return 0.0
            oldest = found[0]
        return max(time.time() - oldest.timestamp, 0.0)

    def _read_on(self) -> bool:
        """Fold records until a batch is complete, at most one poll of them; False when there is neither batch nor record."""
        if self._ready:
            return True
        if not self._buffer:
            self._buffer.extend(self.log.read({PARTITION: self._next}, self._poll))
        some = bool(self._buffer)
        while self._buffer and not self._ready:
            self._fold(self._buffer.popleft())
        return some

    def _fold(self, record: Record) -> None:
        self._next = record.offset + 1
        event = self._read(record, report=record.offset > self._dead_until)
        if event is None:
            return
        if isinstance(event, Interaction):
            self._appended.append(record.timestamp)
        self.pipeline.apply(event)
        self._ready.extend(self.joiner.push(record.offset, record.timestamp, event))

    def _read(self, record: Record, *, report: bool) -> Event | None:
        """Decode a record, or send it to the dead letters (once: not when a restart passes it again)."""
        try:
            event = decode(record.value)
            self._admission.check(event, record.timestamp)
        except BadEvent as error:
            if report:
                self.dead.put(
                    error.kind, str(error), record.value, source=self._source, partition=record.partition, offset=record.offset
                )
            return None
        return event

    def _readable(self, start: int, stop: int) -> Iterator[tuple[int, float, Event]]:
        while start < stop:
            records = self.log.read({PARTITION: start}, min(self._poll, stop - start))
            if not records and self.log.end()[PARTITION] <= start:
                return
            for record in records:
                # A log can have offsets without records: a read of so many records may go past `stop`.
                event = self._read(record, report=False) if record.offset < stop else None
                if event is not None:
                    yield record.offset, record.timestamp, event
            start = records[-1].offset + 1 if records else start

    def _learn(self, joined: Joined) -> None:
        feedback = self.outcomes.take(joined)
        if feedback is not None:
            said = self.pipeline.predict(feedback)
            self.pipeline.learn(feedback)
            if self.monitor is not None:
                sources = ["" if row.impression is None else row.impression.source or "client" for row in joined.rows]
                self.monitor.learned(feedback, said, sources, self._appended)
        self._appended = []

    def _save_if_due(self) -> None:
        """Copy the state here, between two batches; write the copy on another thread."""
        due = time.monotonic() - self._saved_at >= self._every and self.pipeline.version != self._saved_version
        if self._folder is None or not due or not (self._saving is None or self._saving.done()):
            return
        self._finish_save()
        copied = self._checkpoint()
        self._saved_at, self._saved_version = time.monotonic(), copied.version
        self._rewinds.append(copied.meta["position"]["rewind"])
        self._saving = self._saver.submit(checkpoints.save, self._folder, copied, self._keep)

    def _finish_save(self) -> None:
        """Wait for a save in the background; when it failed, the checkpoints before are as they were, and it is counted."""
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result()
                self._trim()
            except OSError as error:
                self._saved_version = -1
                self._rewinds.clear()
                self._failed("checkpoint", error)

    def _trim(self) -> None:
        """Delete records that no checkpoint kept needs, once every one of those was written by this process."""
        if self._retain is not None and len(self._rewinds) == self._rewinds.maxlen:
            self.log.trim({PARTITION: min(self._rewinds[0], self._next - self._retain)})

    def _checkpoint(self) -> Checkpoint:
        position = self.joiner.position()
        meta = {"position": {name: getattr(position, name) for name in Position.__slots__}, "time": time.time()}
        return Checkpoint(self.pipeline.version, self.pipeline.state_dict(), meta)

    def _failed(self, what: str, error: OSError) -> None:
        self.failures[what] += 1
        self._notice(f"{what}: {error}")

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        _log.warning(text)
