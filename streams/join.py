"""Joining of impressions with the interactions that follow them.

The result depends on the records alone. Deadlines follow event time, up to the clock of the log (decision 0042). A batch
closes at a row count or at a `Tick` in the log, never because a poll returned few records. So a replay of the log makes the
same batches as the live run.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator

from msgspec import structs

from streams.events import Event, Forget, Impression, Interaction, Tick
from streams.joined import Closing, JoinedBatch, Mark, Outcome, Position, Seen, TrackedImpression
from streams.joining.early import EarlyInteractions
from streams.joining.log_clock import LogClock
from streams.joining.open_batch import OpenBatch
from streams.joining.remembered_ids import RememberedIds

__all__ = ["Joiner"]

_WINDOW_ONLY = Closing()


class Joiner:
    """Joins the records of one partition.

    Parameters
    ----------
    window : float
        Seconds of event time that an impression waits for interactions. Then its rows without one are emitted with reward 0.
    lateness : float
        Seconds after the window in which a late interaction is still joined, as a correction. The id of an event is
        remembered for ``window + lateness`` seconds; until then a second event with this id is dropped.
    batch_rows : int
        Outcomes plus impressions in a batch.
    capacity : int
        Largest number of impressions that are remembered. Beyond it the oldest is evicted: its rows without an interaction
        are emitted early, and it is counted.
    memory : int
        Most bytes of the remembered impressions, as `streams.joined.bytes_of` estimates them. Beyond it the oldest are evicted.
    ids : int
        Largest number of interaction ids that are remembered. Beyond it, duplicates of the oldest are not recognised.
    closing : Closing
        Whether clicks close an impression before its window ends, and what is learned of the positions below them.

    Attributes
    ----------
    counts : Counter
        ``impressions``, ``interactions``, ``duplicates`` (dropped), ``late`` (joined after the impression closed),
        ``repeated`` (a second interaction with one position), ``skipped`` (positions below all clicks that were left out),
        ``unjoined`` (learned without its impression, which is forgotten, did not show the item or never came),
        ``other_user`` (learned without its impression, which was shown to another user), ``early`` (learned without its
        impression, and again when that came), ``ahead`` (dated after its append by more than the clock's limit),
        ``evicted`` (closed early because `capacity` or `memory` was reached).
    clock : LogClock
        Clock of the partition.
    requests : RememberedIds
        Ids of the impressions that are remembered.

    Notes
    -----
    An event is remembered for a fixed span of event time after it was last seen. So the memory at any record follows from the
    records of the span before it. To rebuild the memory, a reader rewinds by up to two spans: to the record that was the
    oldest in memory when the now oldest one arrived (decision 0002).
    """

    def __init__(
        self,
        *,
        window: float = 600.0,
        lateness: float = 600.0,
        batch_rows: int = 64,
        capacity: int = 100_000,
        memory: int = 1 << 30,
        ids: int = 200_000,
        closing: Closing = _WINDOW_ONLY,
    ) -> None:
        self._window, self._lateness, self._batch_rows = window, lateness, batch_rows
        self._capacity, self._ids, self._closing = capacity, ids, closing
        self._memory = memory
        self.counts: Counter[str] = Counter()
        self.clock = LogClock(window)
        self._reset((0, 0.0, 0.0, 0.0))

    def _reset(self, start: Mark) -> None:
        self._next, self._watermark, self.clock.time, self.clock.shift = start
        # Within the window, oldest first. A click may have closed some of them.
        self._open: deque[TrackedImpression] = deque()
        # After the window, or closed by a click and older than all open ones; waiting for late interactions.
        self._closed: deque[TrackedImpression] = deque()
        # Event time at which a click closes each open impression with one, by request id; the earliest first.
        self._clicked: OrderedDict[str, float] = OrderedDict()
        self._known: dict[str, TrackedImpression] = {}
        self._bytes = 0  # of the known impressions
        self.requests, self._seen_ids = RememberedIds(self._capacity), RememberedIds(self._ids)
        self._early = EarlyInteractions(self._capacity)
        self._batch = OpenBatch(self._batch_rows)
        self._batch_rewind: Mark | None = None  # mark to rewind to for the open batch

    @property
    def pending(self) -> bool:
        """Whether an open batch is waiting for more rows or a tick."""
        return self._batch.pending

    @property
    def nbytes(self) -> int:
        """Approximate bytes of the remembered ids and impressions."""
        closing = 150 * len(self._clicked)
        return self.requests.nbytes + self._seen_ids.nbytes + self._early.nbytes + closing + self._bytes

    @property
    def room(self) -> int:
        """Number of rows until the open batch is full."""
        return self._batch.room

    @property
    def open_impressions(self) -> int:
        """Number of impressions whose window has not ended."""
        return len(self._open)

    @property
    def next(self) -> int:
        """Offset after the last record pushed."""
        return self._next

    @property
    def deadline(self) -> float | None:
        """Time, by the clock, at which the next open impression closes; None without one."""
        if not self._open:
            return None
        ends = self._open[0].seen[1] + self._window
        return (min(ends, next(iter(self._clicked.values()))) if self._clicked else ends) + self.clock.shift

    def push(self, offset: int, appended: float, event: Event) -> list[JoinedBatch]:
        """Process the next record of the partition. Return the batches that it completed.

        Parameters
        ----------
        offset : int
            Offset of the record.
        appended : float
            Time of the append, Unix seconds. It is the event's time where the event has none, and the watermark does not go
            beyond it. 0: the stream has none, and the watermark is that of the events.
        event : Event
            The decoded record. Updates of items and users have no effect here.
        """
        for _ in self.steps(offset, appended, event):
            pass
        return self.take()

    def steps(self, offset: int, appended: float, event: Event) -> Iterator[None]:
        """Process the next record like `push`, in small steps: one record can end the windows of 100,000 impressions.

        `take` returns the batches that are complete. Call nothing else before the last step.
        """
        yield from self._fold(offset, appended, event)
        if isinstance(event, Tick) and self.pending:
            self._batch.cut()
            self._batch_rewind = None

    def take(self) -> list[JoinedBatch]:
        """Return the batches completed since the last call."""
        return self._batch.take()

    def shown(self) -> Iterator[TrackedImpression]:
        """Iterate over the impressions that are remembered or belong to rows of the open batch; some are repeated."""
        yield from self._known.values()
        yield from (row.shown for row in self._batch.rows if row.shown is not None)

    def finish(self) -> Iterator[JoinedBatch]:
        """End a finite stream: close every window and the last batch. Yield the batches one by one."""
        while self._open:
            waiting = self._open.popleft()
            if not waiting.closed:
                self._close(waiting)
                yield from self.take()
        self._batch.flush()
        self._batch_rewind = None
        yield from self.take()

    def position(self) -> Position:
        """Return the position to store in a checkpoint. Call it between two pushes."""
        rewind, watermark, clock, shift = self._batch_rewind or self._rewind_mark() or (self._next, *self._now())
        return Position(self._next, rewind, watermark, len(self._batch.rows), len(self._batch.shown), clock, shift)

    def restore(self, position: Position, records: Iterable[tuple[int, float, Event]]) -> None:
        """Restore the state that the joiner had at `position`.

        Parameters
        ----------
        position : Position
            Position from a checkpoint.
        records : iterable of (offset, appended, event)
            The valid records from ``position.rewind`` up to ``position.next`` (excluded).
        """
        counts = self.counts.copy()
        start = position.rewind, position.watermark, position.clock, position.shift
        self._reset(start)
        self._batch.cutting = False
        for offset, appended, event in records:
            for _ in self._fold(offset, appended, event):
                pass
        self._next = position.next
        self._batch.keep_last(position.rows, position.shown)
        self._batch_rewind = start if self.pending else None
        self._batch.cutting = True
        self.counts = counts

    def _fold(self, offset: int, appended: float, event: Event) -> Iterator[None]:
        self._next = offset + 1
        timestamp, clock = event.timestamp or appended, self.clock
        if isinstance(event, Tick):
            clock.tick(appended)
            yield from self._advance(clock.watermark(timestamp))
            return
        clock.record(appended)
        if appended and timestamp > appended + clock.limit:
            self.counts["ahead"] += 1
        if isinstance(event, Interaction):
            yield from self._advance(clock.watermark(timestamp))
            seen = self._mark_seen(offset)
            if not event.id or self._is_new(self._seen_ids, event.id, seen):
                self._add_interaction(event, timestamp, seen)
                self._seen_ids.drop_surplus()
        elif isinstance(event, Impression):
            yield from self._advance(clock.watermark(timestamp))
            seen = self._mark_seen(offset)
            if self._is_new(self.requests, event.request_id, seen):
                yield from self._join_early(self._add_impression(event, timestamp, seen))
                while (surplus := self.requests.drop_surplus(more=self._bytes > self._memory)) is not None:
                    self._evict(surplus)
        elif isinstance(event, Forget):
            yield from self._forget(event.user)

    def _advance(self, watermark: float) -> Iterator[None]:
        """Advance the watermark: close and forget the impressions and ids that have expired."""
        if watermark <= self._watermark:
            return
        self._watermark = watermark
        past_window = watermark - self._window
        past_memory = past_window - self._lateness
        while self._clicked and next(iter(self._clicked.values())) <= watermark:
            self._close(self._known[next(iter(self._clicked))])
            yield
        while self._open and (self._open[0].closed or self._open[0].seen[1] <= past_window):
            waiting = self._open.popleft()
            if not waiting.closed:
                self._close(waiting)
            self._closed.append(waiting)
            yield
        while self._closed and self._closed[0].seen[1] <= past_memory:
            self._remove(self._closed.popleft())
            yield
        for unjoined in self._early.expire(past_window):
            self.counts["unjoined"] += unjoined
            yield
        for memory in (self.requests, self._seen_ids):
            yield from memory.expire(past_memory, STEP)

    def _oldest(self) -> tuple[Seen | None, Seen | None, Seen | None, Seen | None]:
        """Return the oldest of each kind that is remembered, None where there is none."""
        queue = self._closed or self._open
        return self.requests.oldest, self._seen_ids.oldest, queue[0].seen if queue else None, self._early.oldest

    def _now(self) -> tuple[float, float, float]:
        return self._watermark, self.clock.time, self.clock.shift

    def _rewind_mark(self) -> Mark | None:
        """Return the mark to rewind to for all that is remembered now; None when nothing is."""
        return min((seen[4:] for seen in self._oldest() if seen is not None), default=None)

    def _mark_seen(self, offset: int) -> Seen:
        here: Mark = (offset, *self._now())
        rewind = here
        for oldest in self._oldest():
            if oldest is not None and oldest[0] < rewind[0]:
                rewind = oldest[:4]
        return (*here, *rewind)

    def _is_new(self, memory: RememberedIds, key: str, seen: Seen) -> bool:
        self.counts["duplicates"] += not (new := memory.add(key, seen))
        return new

    def _evict(self, request: str) -> None:
        """Close the impression of a request before its window ends, because `capacity` is reached."""
        waiting = self._known.get(request)
        if waiting is None:
            return
        self._remove(waiting)
        self.counts["evicted"] += 1
        older = self._closed and waiting.seen[0] <= self._closed[-1].seen[0]
        (self._closed if older else self._open).remove(waiting)
        if not waiting.closed:
            self._close(waiting)

    def _add_impression(self, impression: Impression, timestamp: float, seen: Seen) -> TrackedImpression:
        self.counts["impressions"] += 1
        waiting = TrackedImpression(impression=impression, timestamp=timestamp, seen=seen)
        self._known[impression.request_id] = waiting
        self._bytes += waiting.nbytes
        self._open.append(waiting)
        self._note_rewind()
        if self._batch.add_shown(waiting):
            self._batch_rewind = None
        return waiting

    def _join_early(self, waiting: TrackedImpression) -> Iterator[None]:
        """Join the interactions that came before their impression. Each was learned without it."""
        for early in self._early.take(waiting.impression.request_id):
            row = structs.replace(early, shown=None, position=-1, correction=False)
            if self._join(row, waiting):
                self.counts["early"] += 1
                self._add_row(row)
            yield

    def _add_interaction(self, event: Interaction, timestamp: float, seen: Seen) -> None:
        self.counts["interactions"] += 1
        row = Outcome(
            user=event.user, item=event.item, kind=event.kind, value=event.value, timestamp=timestamp, context=event.context
        )
        if event.request_id is not None:
            waiting = self._known.get(event.request_id)
            forgotten = waiting is None and event.request_id in self.requests
            if waiting is not None:
                self._join(row, waiting)
            waits = waiting is None and not forgotten
            self.counts["unjoined"] += forgotten + self._early.add(event.request_id, row, seen, waits=waits)
        self._add_row(row)

    def _join(self, row: Outcome, waiting: TrackedImpression) -> bool:
        """Join an interaction with its impression. Return whether they belong together."""
        impression = waiting.impression
        if row.user != impression.user or row.item not in impression.items:
            self.counts["unjoined" if row.user == impression.user else "other_user"] += 1
            return False
        row.shown, row.context = waiting, impression.context
        row.position = impression.items.index(row.item)
        repeated = bool(waiting.touched >> row.position & 1)
        row.correction = repeated or row.position < waiting.closed
        if repeated or waiting.closed:
            self.counts["repeated" if repeated else "late"] += 1
        waiting.touched |= 1 << row.position
        if self._closing.after_click is not None and not waiting.closed:
            request = impression.request_id
            if request not in self._clicked or self._closing.click == "last":
                self._clicked[request] = self._watermark + self._closing.after_click
                self._clicked.move_to_end(request)
        return True

    def _close(self, waiting: TrackedImpression) -> None:
        """Emit the positions of an impression without an interaction, dated at the time at which it was to close."""
        impression, ends = waiting.impression, waiting.seen[1] + self._window
        if self._clicked:
            ends = min(ends, self._clicked.pop(impression.request_id, ends))
        ends += self.clock.shift
        waiting.closed = self._closing.positions(waiting.touched, len(impression.items))
        user, context = impression.user, impression.context
        for position, item in enumerate(impression.items[: waiting.closed]):
            if not waiting.touched >> position & 1:
                row = Outcome(user=user, item=item, kind="", value=0.0, timestamp=ends, shown=waiting, context=context)
                row.position = position
                self._add_row(row)
        if waiting.closed < len(impression.items):
            self.counts["skipped"] += len(impression.items) - waiting.closed
        self._batch.add_ended(waiting)

    def _forget(self, user: str) -> Iterator[None]:
        """Drop the user's impressions without learning from them, in one pass: a user may have many of them."""
        for queue in (self._closed, self._open):
            for n in range(len(queue)):
                waiting = queue.popleft()
                if waiting.impression.user == user:
                    self._remove(waiting)
                else:
                    queue.append(waiting)
                if n % STEP == STEP - 1:
                    yield
        yield from self._early.forget(user, STEP)

    def _remove(self, waiting: TrackedImpression) -> None:
        del self._known[waiting.impression.request_id]
        if self._clicked:
            self._clicked.pop(waiting.impression.request_id, None)
        self._bytes -= waiting.nbytes

    def _add_row(self, row: Outcome) -> None:
        self._note_rewind()
        if self._batch.add_row(row):
            self._batch_rewind = None

    def _note_rewind(self) -> None:
        """Note the mark to rewind to for the open batch, when it gets its first entry."""
        if self._batch_rewind is None:
            self._batch_rewind = self._rewind_mark() or (self._next - 1, *self._now())


STEP = 500  # remembered records that one step looks at
