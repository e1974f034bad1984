"""From the log to batches: read, decode, refuse, join. What comes out follows from the records and their order alone."""

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
from streams.joined import Joined, Position
from streams.log import Log, Offsets, Record

__all__ = ["POLL", "EventReader"]

POLL = 512
"""Records read at once: enough to make a read cheap. No result depends on it."""

FOLD_SECONDS = 0.005
"""Longest that one turn goes on to fold records, though more were read: some cost milliseconds. No result depends on it."""

_DONE = object()


class EventReader:
    """Folds records into one joiner a partition.

    Parameters
    ----------
    log : Log
    order : Order
        In which order its partitions are read.
    dead : DeadLetters
        Where records go that cannot be learned from.
    validator : EventValidator
        Which records those are, of the well-formed ones.
    make_joiner : callable returning a Joiner
    apply : callable
        Told every event, in the order in which they are folded.
    source : str
        What dead letters call the log.

    Attributes
    ----------
    joiners : dict of partition to Joiner
    ready : deque of Joined
        Complete batches, to be taken before the next record is folded.
    next : Offsets
        Offset of the next record to fold, by partition.
    appended : list of float
        When the interactions folded so far were appended; whoever takes a batch empties it.
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
    ) -> None:
        self.order = order
        self.joiners: dict[int, Joiner] = {}
        self.ready: deque[Joined] = deque()
        self.next: Offsets = {}
        self.appended: list[float] = []
        self._upto: dict[int, float] = {}
        self._waiting: dict[int, float] = {}
        self._log, self._dead, self._validator, self._make_joiner, self._apply = log, dead, validator, make_joiner, apply
        self._source = source
        self._buffer: deque[Record] = deque()
        self._folding: Iterator[None] | None = None
        self._reached: dict[int, float] = {}
        self._read_at = 0.0
        self._reported: Offsets = {}
        self._gone: Counter[str] = Counter()
        self._last: Record | None = None

    @property
    def position(self) -> int:
        """Place in the history of all partitions: how far the offsets have come, together."""
        return sum(self.next.values())

    @property
    def as_of(self) -> float:
        """Unix seconds: what was appended before has been folded, and is in no open batch; 0 when that is not known."""
        return min((min(upto, self._waiting.get(p, upto)) for p, upto in self._upto.items()), default=0.0)

    @property
    def whole(self) -> bool:
        """Whether no batch is ready and no record is folded by half: only then do positions and state go together."""
        return not self.ready and self._folding is None

    @property
    def pending(self) -> bool:
        """Whether a batch is open in a partition, and waits for more rows or a tick."""
        return any(joiner.pending for joiner in self.joiners.values())

    @property
    def counts(self) -> Counter[str]:
        """What the joiners met, together."""
        return sum((joiner.counts for joiner in self.joiners.values()), self._gone.copy())

    @property
    def nbytes(self) -> int:
        """Memory of what the joiners remember, about."""
        return sum(joiner.nbytes for joiner in self.joiners.values())

    def positions(self) -> dict[int, Position]:
        """Place in each partition; see `whole`."""
        # A joiner does not hear of records that cannot be learned from.
        return {p: replace(joiner.position(), next=self.next[p]) for p, joiner in self.joiners.items()}

    def open(self, positions: Mapping[int, Position]) -> None:
        """Go on with these partitions from where somebody, perhaps another process, has come."""
        self._reported = self._dead.reported(self._source)
        for partition, position in positions.items():
            joiner = self._make_joiner()
            joiner.restore(position, self._readable(partition, position.rewind, position.next))
            self.joiners[partition] = joiner
            self.next[partition] = position.next
            self._upto[partition] = 0.0
            if joiner.pending:
                self._waiting[partition] = 0.0

    def close(self) -> None:
        """Let go of all partitions, and of what was read from them and not folded."""
        self._gone = self.counts
        self.joiners.clear()
        for by_partition in (self.next, self._upto, self._waiting, self._reached):
            by_partition.clear()
        self.ready.clear()
        self.appended = []
        self._buffer.clear()
        self._folding = None

    def read_on(self) -> bool:
        """Fold records until a batch is complete or the turn is over; False when there is neither batch nor record.

        Raises
        ------
        LookupError, ConnectionError
            As `Log.read`.
        """
        if self.ready:
            return True
        if self._folding is None and not self._buffer:
            self._read_some()
        some = self._folding is not None or bool(self._buffer)
        until = time.perf_counter() + FOLD_SECONDS
        while not self.ready and (self._folding is not None or self._buffer):
            if self._folding is None:
                self._folding = self._fold(self._buffer.popleft())
            if next(self._folding, _DONE) is _DONE:
                self._folding = None
            if time.perf_counter() > until:
                break
        if self._folding is None and not self._buffer:
            for partition, now in self._reached.items():
                self._upto[partition] = max(self._upto[partition], now)
        return some

    def rest(self) -> Iterator[Joined]:
        """The batches that are complete, and those of the record at hand: after that, everything is `whole`."""
        while not self.whole:
            if not self.ready and self._folding is not None and next(self._folding, _DONE) is _DONE:
                self._folding = None
            while self.ready:
                yield self.ready.popleft()

    def batches(self) -> Iterator[Joined]:
        """All batches up to the end of the log."""
        while self.read_on():
            if self.ready:
                yield self.ready.popleft()

    def finish(self) -> Iterator[Joined]:
        """End of a log to which nothing is added: the open batches, every window closed."""
        for joiner in self.joiners.values():
            yield from joiner.finish()

    def poisoned(self, reason: str) -> None:
        """Put the record that was folded last to the dead letters: a learner could not take it, or the batch it completed."""
        record = self._last
        if record is not None and record.offset > self._reported.get(record.partition, -1):
            self._bury("poison", reason, record)

    def lag(self) -> int:
        """Records of the log that have not been folded."""
        end = self._log.end()
        return sum(end[partition] - offset for partition, offset in self.next.items())

    def _read_some(self) -> None:
        """Read what comes next, and note which partitions have been read to their end with it."""
        self._read_at = time.time()
        records = self.order.take(self.next)
        self._buffer.extend(records)
        last = self.next | {record.partition: record.offset + 1 for record in records}
        known = {partition: self._log.known_at(partition) for partition in last}
        end = self._log.end()
        self._reached = {partition: known[partition] for partition, offset in last.items() if offset >= end[partition]}

    def _fold(self, record: Record) -> Iterator[None]:
        """Fold a record in small steps."""
        partition, offset = record.partition, record.offset
        self._last = record
        self.next[partition] = offset + 1
        # The clock of whoever appended it may be ahead.
        self._upto[partition] = max(self._upto[partition], min(record.timestamp, self._read_at))
        event = self._read(record, report=offset > self._reported.get(partition, -1))
        if event is None:
            return
        if isinstance(event, Interaction):
            self.appended.append(record.timestamp)
        self._apply(event)
        joiner = self.joiners[partition]
        before, done = joiner.pending, False
        for _ in joiner.steps(offset, record.timestamp, event):
            done |= self._take(joiner)
            yield
        done |= self._take(joiner)
        if not joiner.pending:
            self._waiting.pop(partition, None)
        elif done or not before:
            self._waiting[partition] = record.timestamp

    def _take(self, joiner: Joiner) -> bool:
        done = joiner.take()
        self.ready.extend(done)
        return bool(done)

    def _read(self, record: Record, *, report: bool) -> Event | None:
        """Decode a record, or send it to the dead letters (once: not when a restart passes it again)."""
        try:
            event = decode(record.value)
            self._validator.check(event, record.timestamp)
        except BadEvent as error:
            if report:
                self._bury(error.kind, str(error), record)
            return None
        return event

    def _bury(self, kind: str, reason: str, record: Record) -> None:
        self._dead.put(kind, reason, record.value, source=self._source, partition=record.partition, offset=record.offset)

    def _readable(self, partition: int, start: int, stop: int) -> Iterator[tuple[int, float, Event]]:
        while start < stop:
            records = self._log.read({partition: start}, min(POLL, stop - start))
            if not records and self._log.end()[partition] <= start:
                return
            for record in records:
                # A log can have offsets without records: a read of so many records may go past `stop`.
                event = self._read(record, report=False) if record.offset < stop else None
                if event is not None:
                    yield record.offset, record.timestamp, event
            start = records[-1].offset + 1 if records else start
