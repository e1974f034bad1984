"""Turns the log into batches: read, decode, validate, join. The batches depend on the records and their order alone."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from service.learning.order import Order
from service.learning.validation import EventValidator
from streams.codec import BadEvent, decode
from streams.dead_letters import DeadLetters
from streams.events import Event, Interaction
from streams.join import Joiner
from streams.joined import JoinedBatch, Position
from streams.joining.record_times import RecordTimes, is_tick
from streams.log import DamagedRecord, Log, Offsets, Record

__all__ = ["POLL", "EventReader"]

POLL = 512
"""Records per read: enough to make a read cheap. Results do not depend on it."""

FOLD_SECONDS = 0.005
"""Time limit of one `advance`, in seconds: some records cost milliseconds. Results do not depend on it."""

MAX_APPENDED = 10_000
"""Most append times kept for one batch."""

_DONE = object()


class EventReader:
    """Reads records and feeds them to one joiner per partition.

    Parameters
    ----------
    log : Log
    order : Order
        Order in which the partitions are read.
    dead : DeadLetters
        Receives the records that cannot be learned from.
    validator : EventValidator
        Rejects well-formed records that cannot be learned from.
    make_joiner : callable returning a Joiner
    apply : callable
        Called with every event, in the order of processing.
    source : str
        Name of the log in its dead letters.
    waits : bool
        Whether a tick will be appended where one is needed to judge the time of a record; see `held`. Otherwise it is judged by
        the present time.
    skips_damage : bool
        Whether a damaged record becomes a dead letter; otherwise the error of the log is raised.

    Attributes
    ----------
    joiners : dict of partition to Joiner
    ready : deque of JoinedBatch
        Complete batches. The caller takes them before the next record is processed.
    next : Offsets
        Offset of the next record to process, by partition.
    appended : list of float
        Append times of the interactions since the last batch. The caller empties it with each batch.
    held : int or None
        Partition whose next record waits for a tick: its own time is ahead of this machine's. No other is read meanwhile.
    """

    def __init__(
        self,
        log: Log,
        order: Order,
        dead: DeadLetters,
        validator: EventValidator,
        make_joiner: Callable[[], Joiner],
        apply: Callable[[Event], None],
        *,
        source: str = "log",
        waits: bool = True,
        skips_damage: bool = False,
    ) -> None:
        self.order = order
        self.held: int | None = None
        self.joiners: dict[int, Joiner] = {}
        self.ready: deque[JoinedBatch] = deque()
        self.next: Offsets = {}
        self.appended: list[float] = []
        self._complete_until: dict[int, float] = {}
        self._open_since: dict[int, float] = {}
        self._log, self._dead, self._validator, self._make_joiner, self._apply = log, dead, validator, make_joiner, apply
        self._source, self._waits, self._times = source, waits, RecordTimes(log, validator.max_skew)
        self._skips_damage = skips_damage
        self._buffer: deque[Record] = deque()
        self._buffer_bytes = 0
        self._in_progress: Iterator[None] | None = None
        self._judged: float | None = None
        self._exhausted: dict[int, float] = {}
        self._read_at = 0.0
        self._reported: Offsets = {}
        self._closed_counts: Counter[str] = Counter()
        self._last_record: Record | None = None

    @property
    def position(self) -> int:
        """Position in the history of all partitions: the sum of their offsets."""
        return sum(self.next.values())

    @property
    def as_of(self) -> float:
        """Unix seconds: every record appended before this time is processed and in no open batch. 0 when unknown."""
        return min((min(until, self._open_since.get(p, until)) for p, until in self._complete_until.items()), default=0.0)

    @property
    def at_boundary(self) -> bool:
        """Whether no batch is ready and no record is half processed. Only then do positions match the state."""
        return not self.ready and self._in_progress is None

    @property
    def pending(self) -> bool:
        """Whether a partition has an open batch, which waits for more rows or a tick."""
        return any(joiner.pending for joiner in self.joiners.values())

    @property
    def open_impressions(self) -> int:
        """Number of impressions whose window has not ended."""
        return sum(joiner.open_impressions for joiner in self.joiners.values())

    @property
    def counts(self) -> Counter[str]:
        """Counts of all joiners, summed."""
        return sum((joiner.counts for joiner in self.joiners.values()), self._closed_counts.copy())

    @property
    def nbytes(self) -> int:
        """Approximate memory of the joiners."""
        return sum(joiner.nbytes for joiner in self.joiners.values())

    def has_request(self, request_id: str) -> bool:
        """Whether a joiner remembers an impression with this id. Called from any thread."""
        return any(request_id in joiner.requests for joiner in list(self.joiners.values()))

    @property
    def waiting_bytes(self) -> int:
        """Memory of the records that were read and not processed."""
        return self._buffer_bytes if self._buffer else 0

    def positions(self) -> dict[int, Position]:
        """Position in each partition; valid when `at_boundary`."""
        # A joiner does not see records that cannot be learned from, so its own `next` may lag.
        return {p: replace(joiner.position(), next=self.next[p]) for p, joiner in self.joiners.items()}

    def open(self, positions: Mapping[int, Position]) -> None:
        """Continue with these partitions from the given positions, which another process may have saved."""
        self._reported = self._dead.reported(self._source)
        for partition, position in positions.items():
            joiner = self.joiners[partition] = self._make_joiner()
            joiner.restore(position, self._reread(partition, position.rewind, position.next))
            self.next[partition] = position.next
            self._complete_until[partition] = 0.0
            if joiner.pending:
                self._open_since[partition] = 0.0

    def close(self) -> None:
        """Release all partitions and drop the records that were read but not processed."""
        self._closed_counts = self.counts
        self.joiners.clear()
        self.held = None
        for by_partition in (self.next, self._complete_until, self._open_since, self._exhausted):
            by_partition.clear()
        self.ready.clear()
        self.appended = []
        self._buffer.clear()
        self._in_progress = None

    def advance(self) -> bool:
        """Process records until a batch is complete or the time is up. Return False when there is no batch and no record.

        Raises
        ------
        LookupError, DamagedRecord, ConnectionError
            As `Log.read`.
        """
        if self.ready:
            return True
        if self._in_progress is None and not self._buffer:
            self._read_next()
        progressed = self._in_progress is not None
        until = time.perf_counter() + FOLD_SECONDS
        while not self.ready and (self._in_progress is not None or self._buffer):
            if self._in_progress is None:
                if not self._judge(self._buffer[0]):
                    break
                self._in_progress = self._fold(self._buffer.popleft())
            progressed = True
            if next(self._in_progress, _DONE) is _DONE:
                self._in_progress = None
            if time.perf_counter() > until:
                break
        if self._in_progress is None and not self._buffer:
            for partition, now in self._exhausted.items():
                self._complete_until[partition] = max(self._complete_until[partition], now)
        return progressed

    def finish_record(self) -> Iterator[JoinedBatch]:
        """Finish the record in progress and yield the complete batches. After that, the reader is `at_boundary`."""
        while not self.at_boundary:
            if not self.ready and self._in_progress is not None and next(self._in_progress, _DONE) is _DONE:
                self._in_progress = None
            while self.ready:
                yield self.ready.popleft()

    def batches(self) -> Iterator[JoinedBatch]:
        """Yield all batches up to the end of the log."""
        while self.advance():
            if self.ready:
                yield self.ready.popleft()

    def finish(self) -> Iterator[JoinedBatch]:
        """Close every window and yield the open batches, for a log that no longer grows."""
        for joiner in self.joiners.values():
            yield from joiner.finish()

    def report_poison(self, reason: str) -> None:
        """Send the last record to the dead letters: a learner failed on it, or on the batch it completed."""
        record = self._last_record
        if record is not None and record.offset > self._reported.get(record.partition, -1):
            self._send_dead_letter("poison", reason, record)

    def lag(self) -> int:
        """Number of records in the log that have not been processed."""
        end = self._log.end()
        return sum(end[partition] - offset for partition, offset in self.next.items())

    def _read_next(self) -> None:
        """Read the next records, and note which partitions they exhaust."""
        self._read_at = time.time()
        while True:
            try:
                records = self.order.take(self.next)
                break
            except DamagedRecord as error:
                self._skip(error)
        self._buffer.extend(records)
        self._buffer_bytes = sum(250 + len(record.value) for record in records)
        last = self.next | {record.partition: record.offset + 1 for record in records}
        known = {partition: self._log.end_known_at(partition) for partition in last}
        end = self._log.end()
        self._exhausted = {partition: known[partition] for partition, offset in last.items() if offset >= end[partition]}

    def _judge(self, record: Record) -> bool:
        """Find the time by which to judge a record's own time, if need be. Return False if there is none yet."""
        self.held = self._judged = None
        if not self._leads(record):
            return True
        self._judged = self._times.after(record, self._buffer)
        if self._judged is None:
            now = time.time()
            # A tick that comes later cannot be earlier than now.
            if record.timestamp > now and self._waits:
                self.held = record.partition
                return False
            self._judged = min(record.timestamp, now)
        return True

    def _leads(self, record: Record) -> bool:
        """Whether a record's own time is so far ahead of its partition's clock that it must be judged."""
        lead = record.timestamp - self.joiners[record.partition].clock.time
        return lead > self._validator.max_skew and not is_tick(record)

    def _skip(self, error: DamagedRecord) -> None:
        """Keep a damaged record as a dead letter, so that what follows it is learned."""
        if not self._skips_damage:
            raise error
        partition, offset = error.partition, error.offset
        if offset > self._reported.get(partition, -1):
            self._dead.put("damaged", str(error), b"", source=self._source, partition=partition, offset=offset)
        self.next[partition] = offset + 1

    def _fold(self, record: Record) -> Iterator[None]:
        """Process a record in small steps."""
        partition, offset = record.partition, record.offset
        self._last_record = record
        self.next[partition] = offset + 1
        # The producer's clock may be ahead.
        self._complete_until[partition] = max(self._complete_until[partition], min(record.timestamp, self._read_at))
        event = self._decode(record, report=offset > self._reported.get(partition, -1))
        if event is None:
            return
        if isinstance(event, Interaction):
            self.appended.append(record.timestamp)
            if len(self.appended) > MAX_APPENDED:  # repeated events make no batch
                del self.appended[: MAX_APPENDED // 2]
        self._apply(event)
        joiner = self.joiners[partition]
        was_pending, emitted = joiner.pending, False
        for _ in joiner.steps(offset, record.timestamp, event):
            emitted |= self._take(joiner)
            yield
        emitted |= self._take(joiner)
        if not joiner.pending:
            self._open_since.pop(partition, None)
        elif emitted or not was_pending:
            self._open_since[partition] = record.timestamp

    def _take(self, joiner: Joiner) -> bool:
        emitted = joiner.take()
        self.ready.extend(emitted)
        return bool(emitted)

    def _decode(self, record: Record, *, report: bool) -> Event | None:
        """Decode a record, or send it to the dead letters. A restart does not report it again."""
        try:
            if self._judged is not None:
                self._check_time(record, self._judged)
            event = decode(record.value)
            self._validator.check(event, record.timestamp, len(record.value))
        except BadEvent as error:
            if report:
                self._send_dead_letter(error.kind, str(error), record)
            return None
        return event

    def _check_time(self, record: Record, now: float) -> None:
        """Set the partition's clock to a record that leads it, or raise `BadEvent` if the record is too far ahead of `now`."""
        ahead = record.timestamp - now
        if ahead > self._validator.max_skew:
            raise BadEvent(
                "",
                f"its own time, {record.timestamp}, is {ahead:.0f} s in the future; at most {self._validator.max_skew:.0f} s "
                "are allowed: correct the clock of its producer, or let the broker date records (LogAppendTime)",
                kind="future",
                what="record",
            )
        self.joiners[record.partition].clock.tick(min(record.timestamp, now))

    def _send_dead_letter(self, kind: str, reason: str, record: Record) -> None:
        self._dead.put(kind, reason, record.value, source=self._source, partition=record.partition, offset=record.offset)

    def _reread(self, partition: int, start: int, stop: int) -> Iterator[tuple[int, float, Event]]:
        while start < stop:
            try:
                records = self._log.read({partition: start}, min(POLL, stop - start))
            except DamagedRecord as error:
                if not self._skips_damage:
                    raise
                start = error.offset + 1
                continue
            if not records and self._log.end()[partition] <= start:
                return
            for record in records:
                # Some offsets have no record, so a read of this many records may go past `stop`.
                if record.offset >= stop:
                    break
                self._judged = None
                if self._leads(record):
                    # The log did not say when it was read first: then its time had passed.
                    self._judged = self._times.after(record, ()) or record.timestamp
                event = self._decode(record, report=False)
                if event is not None:
                    yield record.offset, record.timestamp, event
            start = records[-1].offset + 1 if records else start
