"""Joining of impressions with the interactions that follow them.

The result depends on the records alone. Deadlines follow event time. A batch closes at a row count or at a `Tick` in the log,
never because a poll returned few records. So a replay of the log makes the same batches as the live run.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise

from streams.events import Event, Forget, Impression, Interaction, Tick
from streams.joined import Closing, JoinedBatch, Outcome, Position, TrackedImpression, bytes_of

__all__ = ["Joiner"]


_Mark = tuple[int, float]
"""A record: its offset, and the watermark (event time) after it."""

_Seen = tuple[int, float, int, float]
"""The mark of a remembered record, and the mark to rewind to for it. A flat tuple, because Python's cyclic garbage collector
skips those; 100,000 nested ones would stop the process for a tenth of a second."""

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
        ``unjoined`` (learned without its impression, which is forgotten, belongs to another user or did not show the item),
        ``evicted`` (closed early because `capacity` or `memory` was reached).

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
        self._window, self._lateness, self._batch_rows, self._capacity, self._ids = window, lateness, batch_rows, capacity, ids
        self._closing, self._memory = closing, memory
        self.counts: Counter[str] = Counter()
        self._reset((0, 0.0))

    def _reset(self, start: _Mark) -> None:
        self._next, self._watermark = start
        # Within the window, oldest first. A click may have closed some of them.
        self._open: deque[TrackedImpression] = deque()
        # After the window, or closed by a click and older than all open ones; waiting for late interactions.
        self._closed: deque[TrackedImpression] = deque()
        # Event time at which a click closes each open impression with one, by request id; the earliest first.
        self._clicked: OrderedDict[str, float] = OrderedDict()
        self._known: dict[str, TrackedImpression] = {}
        self._bytes = 0  # of the known impressions
        # Ids of impressions and of interactions, by the time they were last seen. (A plain dict would search for its first key
        # among all deleted ones.)
        self._seen_requests: OrderedDict[str, _Seen] = OrderedDict()
        self._seen_ids: OrderedDict[str, _Seen] = OrderedDict()
        self._rows: list[Outcome] = []
        self._shown: list[TrackedImpression] = []
        self._ended: list[TrackedImpression] = []  # impressions that have closed since the last batch
        self._batch_rewind: _Mark | None = None  # mark to rewind to for the open batch
        self._ready: list[JoinedBatch] = []
        self._cutting = True

    @property
    def pending(self) -> bool:
        """Whether an open batch is waiting for more rows or a tick."""
        return bool(self._rows or self._shown)

    @property
    def nbytes(self) -> int:
        """Approximate bytes of the remembered ids and impressions."""
        ids = len(self._seen_requests) + len(self._seen_ids) + len(self._clicked)
        return _ID_BYTES * ids + self._bytes

    @property
    def room(self) -> int:
        """Number of rows until the open batch is full."""
        return self._batch_rows - len(self._rows) - len(self._shown)

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
        """Event time at which the next open impression closes; None without one."""
        if not self._open:
            return None
        window_ends = self._open[0].seen[1] + self._window
        return min(window_ends, next(iter(self._clicked.values()))) if self._clicked else window_ends

    def push(self, offset: int, appended: float, event: Event) -> list[JoinedBatch]:
        """Process the next record of the partition. Return the batches that it completed.

        Parameters
        ----------
        offset : int
            Offset of the record.
        appended : float
            Time of the append, Unix seconds. It is the event's time where the event has none.
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
            self._cut()

    def take(self) -> list[JoinedBatch]:
        """Return the batches completed since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def shown(self) -> Iterator[TrackedImpression]:
        """Iterate over the impressions that are remembered or belong to rows of the open batch; some are repeated."""
        yield from self._known.values()
        yield from (row.shown for row in self._rows if row.shown is not None)

    def finish(self) -> Iterator[JoinedBatch]:
        """End a finite stream: close every window and the last batch. Yield the batches one by one."""
        while self._open:
            waiting = self._open.popleft()
            if not waiting.closed:
                self._close(waiting)
                yield from self.take()
        if self.pending or self._ended:
            self._cut()
        yield from self.take()

    def position(self) -> Position:
        """Return the position to store in a checkpoint. Call it between two pushes."""
        rewind, watermark = self._batch_rewind or self._rewind_mark() or (self._next, self._watermark)
        return Position(self._next, rewind, watermark, len(self._rows), len(self._shown))

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
        self._reset((position.rewind, position.watermark))
        self._cutting = False
        for offset, appended, event in records:
            for _ in self._fold(offset, appended, event):
                pass
        self._next = position.next
        del self._rows[: len(self._rows) - position.rows]
        del self._shown[: len(self._shown) - position.shown]
        self._ended.clear()
        self._batch_rewind = (position.rewind, position.watermark) if self.pending else None
        self._cutting = True
        self.counts = counts

    def _fold(self, offset: int, appended: float, event: Event) -> Iterator[None]:
        self._next = offset + 1
        timestamp = event.timestamp or appended
        if isinstance(event, Interaction):
            yield from self._advance(timestamp)
            if not event.id or self._is_new(self._seen_ids, event.id, self._mark_seen(offset)):
                self._add_interaction(event, timestamp)
                if len(self._seen_ids) > self._ids:
                    self._seen_ids.popitem(last=False)
        elif isinstance(event, Impression):
            yield from self._advance(timestamp)
            seen = self._mark_seen(offset)
            if self._is_new(self._seen_requests, event.request_id, seen):
                self._add_impression(event, timestamp, seen)
                while len(self._seen_requests) > (self._capacity if self._bytes <= self._memory else 1):
                    self._evict(self._seen_requests.popitem(last=False)[0])
        elif isinstance(event, Tick):
            yield from self._advance(timestamp)
        elif isinstance(event, Forget):
            yield from self._forget(event.user)

    def _advance(self, timestamp: float) -> Iterator[None]:
        """Advance the watermark: close and forget the impressions and ids that have expired."""
        if timestamp <= self._watermark:
            return
        self._watermark = timestamp
        past_window = timestamp - self._window
        past_memory = past_window - self._lateness
        while self._clicked and next(iter(self._clicked.values())) <= timestamp:
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
        for memory in (self._seen_requests, self._seen_ids):
            while memory and next(iter(memory.values()))[1] <= past_memory:
                for key in [key for key, seen in islice(memory.items(), STEP) if seen[1] <= past_memory]:
                    del memory[key]
                yield

    def _oldest(self) -> tuple[_Seen | None, _Seen | None, _Seen | None]:
        """Return the oldest remembered request id, interaction id and impression, each None where there is none."""
        queue = self._closed or self._open
        return (
            next(iter(self._seen_requests.values()), None),
            next(iter(self._seen_ids.values()), None),
            queue[0].seen if queue else None,
        )

    def _rewind_mark(self) -> _Mark | None:
        """Return the mark to rewind to for all that is remembered now; None when nothing is."""
        return min((seen[2:] for seen in self._oldest() if seen is not None), default=None)

    def _mark_seen(self, offset: int) -> _Seen:
        here = offset, self._watermark
        request, event, impression = self._oldest()
        rewind = here if request is None else request[:2]
        if event is not None and event[0] < rewind[0]:
            rewind = event[:2]
        if impression is not None and impression[0] < rewind[0]:
            rewind = impression[:2]
        return *here, *rewind

    def _is_new(self, memory: OrderedDict[str, _Seen], key: str, seen: _Seen) -> bool:
        new = memory.pop(key, None) is None
        memory[key] = seen
        if not new:
            self.counts["duplicates"] += 1
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

    def _add_impression(self, impression: Impression, timestamp: float, seen: _Seen) -> None:
        self.counts["impressions"] += 1
        waiting = TrackedImpression(impression=impression, timestamp=timestamp, seen=seen)
        self._known[impression.request_id] = waiting
        self._bytes += bytes_of(impression)
        self._open.append(waiting)
        self._shown.append(waiting)
        self._entry_added()

    def _add_interaction(self, event: Interaction, timestamp: float) -> None:
        self.counts["interactions"] += 1
        row = Outcome(
            user=event.user, item=event.item, kind=event.kind, value=event.value, timestamp=timestamp, context=event.context
        )
        if event.request_id is not None:
            self._join(row, self._known.get(event.request_id))
        self._rows.append(row)
        self._entry_added()

    def _join(self, row: Outcome, waiting: TrackedImpression | None) -> None:
        """Join an interaction with its impression."""
        if waiting is None or row.user != waiting.impression.user or row.item not in waiting.impression.items:
            self.counts["unjoined"] += 1
            return
        row.shown, row.context = waiting, waiting.impression.context
        row.position = waiting.impression.items.index(row.item)
        repeated = bool(waiting.touched >> row.position & 1)
        row.correction = repeated or row.position < waiting.closed
        if repeated or waiting.closed:
            self.counts["repeated" if repeated else "late"] += 1
        waiting.touched |= 1 << row.position
        if self._closing.after_click is not None and not waiting.closed:
            request = waiting.impression.request_id
            if request not in self._clicked or self._closing.click == "last":
                self._clicked[request] = self._watermark + self._closing.after_click
                self._clicked.move_to_end(request)

    def _close(self, waiting: TrackedImpression) -> None:
        """Emit the positions of an impression without an interaction, dated at the time at which it was to close."""
        impression, ends = waiting.impression, waiting.seen[1] + self._window
        if self._clicked:
            ends = min(ends, self._clicked.pop(impression.request_id, ends))
        waiting.closed = self._closing.positions(waiting.touched, len(impression.items))
        user, context = impression.user, impression.context
        for position, item in enumerate(impression.items[: waiting.closed]):
            if not waiting.touched >> position & 1:
                row = Outcome(
                    user=user, item=item, kind="", value=0.0, timestamp=ends, shown=waiting, position=position, context=context
                )
                self._rows.append(row)
                self._entry_added()
        if waiting.closed < len(impression.items):
            self.counts["skipped"] += len(impression.items) - waiting.closed
        self._ended.append(waiting)

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

    def _remove(self, waiting: TrackedImpression) -> None:
        del self._known[waiting.impression.request_id]
        if self._clicked:
            self._clicked.pop(waiting.impression.request_id, None)
        self._bytes -= bytes_of(waiting.impression)

    def _entry_added(self) -> None:
        """Update the open batch after an entry was added: note its rewind mark, and close it when it is full."""
        if self._batch_rewind is None:
            self._batch_rewind = self._rewind_mark() or (self._next - 1, self._watermark)
        if self._cutting and len(self._rows) + len(self._shown) >= self._batch_rows:
            self._cut()

    def _cut(self) -> None:
        self._ready.append(JoinedBatch(self._shown, _group_by_impression(self._rows), self._ended))
        self._shown, self._rows, self._ended, self._batch_rewind = [], [], [], None


def _group_by_impression(rows: list[Outcome]) -> list[Outcome]:
    """Reorder the rows so that those of one impression are adjacent: they become one request."""
    first: dict[int, int] = {}
    order = [n if row.shown is None else first.setdefault(id(row.shown), n) for n, row in enumerate(rows)]
    if all(left <= right for left, right in pairwise(order)):
        return rows
    return [rows[n] for n in sorted(range(len(rows)), key=order.__getitem__)]


STEP = 500
"""Remembered records that one step looks at."""

_ID_BYTES = 300
"""Approximate bytes of a remembered id: its text, a tuple and the entry of the dict."""
