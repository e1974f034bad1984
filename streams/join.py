"""Joining impressions with what users did about them.

Everything here is a function of the records alone: deadlines follow event time, batches close at a row count or at a `Tick`
of the log, never because a poll came back short. So a replay of the log joins and cuts as the live run did.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import pairwise

from streams.events import Event, Forget, Impression, Interaction, Tick
from streams.joined import Joined, Position, Row, Shown

__all__ = ["Joiner"]


_Mark = tuple[int, float]
"""A record: its offset, and the event time that it reached."""

_Seen = tuple[int, float, int, float]
"""A remembered record, and the one to go back to for it. Flat and exactly a tuple: then Python's cyclic garbage collector,
which would stop everything for a tenth of a second over 100,000 nested ones, leaves it alone."""


class Joiner:
    """Joins the records of one partition.

    Parameters
    ----------
    window : float
        Seconds of event time that an impression waits for interactions; then its untouched rows leave with reward 0.
    lateness : float
        Seconds past the window in which a late interaction is still joined, as a correction. For ``window + lateness``
        seconds the id of an event is remembered, and a second event with it is dropped.
    batch_rows : int
        Rows (and impressions) of a batch.
    capacity : int
        Most impressions that are remembered; past it the oldest is let go: its untouched rows leave early, and it is counted.
    ids : int
        Most ids of interactions that are remembered; past it a repetition of the oldest is not recognised.

    Attributes
    ----------
    counts : Counter
        ``impressions``, ``interactions``, ``duplicates`` (dropped), ``late`` (joined after the window), ``repeated`` (a second
        interaction with one position), ``unjoined`` (its impression is not known any more, was another user's, or never
        showed the item: learned as if it had none), ``let_go`` (closed early for want of capacity).

    Notes
    -----
    An event is remembered for a fixed span of event time since it was last seen, so what is remembered at any record follows
    from the records of one span before it. To decide again about every record that is still remembered now, the reader goes
    back one more span: to what was the oldest remembered record when the now oldest one came (decision 0002).
    """

    def __init__(
        self,
        *,
        window: float = 600.0,
        lateness: float = 600.0,
        batch_rows: int = 64,
        capacity: int = 100_000,
        ids: int = 200_000,
    ) -> None:
        self._window, self._lateness, self._batch_rows, self._capacity, self._ids = window, lateness, batch_rows, capacity, ids
        self.counts: Counter[str] = Counter()
        self._clear((0, 0.0))

    def _clear(self, start: _Mark) -> None:
        self._next, self._watermark = start
        self._open: deque[Shown] = deque()  # within the window
        self._closed: deque[Shown] = deque()  # past the window but still known to late interactions; older than the open
        self._known: dict[str, Shown] = {}
        self._bytes = 0  # of the known impressions
        # Ids of impressions and of interactions, in order of when they were last seen. (A plain dict would look for its first
        # key past all that were deleted.)
        self._seen_requests: OrderedDict[str, _Seen] = OrderedDict()
        self._seen_ids: OrderedDict[str, _Seen] = OrderedDict()
        self._rows: list[Row] = []
        self._shown: list[Shown] = []
        self._ended: list[Shown] = []  # impressions whose window has ended since the last batch
        self._batch_needs: _Mark | None = None  # where to go back to for the open batch
        self._ready: list[Joined] = []
        self._cutting = True

    @property
    def pending(self) -> bool:
        """Whether an unfinished batch is waiting for more rows or a tick."""
        return bool(self._rows or self._shown)

    @property
    def nbytes(self) -> int:
        """Memory of what is remembered, about: ids, and impressions with their rows."""
        ids = len(self._seen_requests) + len(self._seen_ids)
        return _ID_BYTES * ids + self._bytes

    @property
    def room(self) -> int:
        """Rows that the open batch still takes."""
        return self._batch_rows - len(self._rows) - len(self._shown)

    @property
    def next(self) -> int:
        """Offset after the last record pushed."""
        return self._next

    @property
    def deadline(self) -> float | None:
        """Event time at which the oldest open impression leaves, if there is one."""
        return self._open[0].seen[1] + self._window if self._open else None

    def push(self, offset: int, appended: float, event: Event) -> list[Joined]:
        """Take the next record of the partition; return the batches that this record completed.

        Parameters
        ----------
        offset : int
            Its place in the partition.
        appended : float
            When it was appended, Unix seconds: the event's time if it carries none itself.
        event : Event
            What it says. Updates of items and users pass without effect: they are not joined.
        """
        self._fold(offset, appended, event)
        if isinstance(event, Tick) and self.pending:
            self._cut()
        return self._take()

    def shown(self) -> Iterator[Shown]:
        """Impressions that outcomes may still come of, or that outcomes of the open batch come of; some come twice."""
        yield from self._known.values()
        yield from (row.shown for row in self._rows if row.shown is not None)

    def finish(self) -> list[Joined]:
        """End of a finite stream: close every window and the last batch, whatever its length."""
        while self._open:
            self._close(self._open.popleft())
        if self.pending or self._ended:
            self._cut()
        return self._take()

    def position(self) -> Position:
        """What to keep in a checkpoint; valid between two pushes."""
        rewind, watermark = self._batch_needs or self._going_back() or (self._next, self._watermark)
        return Position(self._next, rewind, watermark, len(self._rows), len(self._shown))

    def restore(self, position: Position, records: Iterable[tuple[int, float, Event]]) -> None:
        """Become the joiner that `position` was taken from.

        Parameters
        ----------
        position : Position
            From a checkpoint.
        records : iterable of (offset, appended, event)
            The readable records from ``position.rewind`` up to, not including, ``position.next``.
        """
        counted = self.counts.copy()
        self._clear((position.rewind, position.watermark))
        self._cutting = False
        for offset, appended, event in records:
            self._fold(offset, appended, event)
        self._next = position.next
        del self._rows[: len(self._rows) - position.rows]
        del self._shown[: len(self._shown) - position.shown]
        self._ended.clear()
        self._batch_needs = (position.rewind, position.watermark) if self.pending else None
        self._cutting = True
        self.counts = counted

    def _fold(self, offset: int, appended: float, event: Event) -> None:
        self._next = offset + 1
        timestamp = event.timestamp or appended
        if isinstance(event, Interaction):
            self._advance(timestamp)
            if not event.id or self._is_new(self._seen_ids, event.id, self._sight(offset)):
                self._interact(event, timestamp)
                if len(self._seen_ids) > self._ids:
                    self._seen_ids.popitem(last=False)
        elif isinstance(event, Impression):
            self._advance(timestamp)
            seen = self._sight(offset)
            if self._is_new(self._seen_requests, event.request_id, seen):
                self._show(event, timestamp, seen)
                if len(self._seen_requests) > self._capacity:
                    self._let_go(self._seen_requests.popitem(last=False)[0])
        elif isinstance(event, Tick):
            self._advance(timestamp)
        elif isinstance(event, Forget):
            self._forget(event.user)

    def _advance(self, timestamp: float) -> None:
        """Reach an event time: close and drop what has outlived its span."""
        if timestamp <= self._watermark:
            return
        self._watermark = timestamp
        past_window = timestamp - self._window
        past_memory = past_window - self._lateness
        while self._open and self._open[0].seen[1] <= past_window:
            waiting = self._open.popleft()
            self._close(waiting)
            self._closed.append(waiting)
        while self._closed and self._closed[0].seen[1] <= past_memory:
            self._unknow(self._closed.popleft())
        for memory in (self._seen_requests, self._seen_ids):
            outlived = []
            for key, seen in memory.items():
                if seen[1] > past_memory:
                    break
                outlived.append(key)
            for key in outlived:
                del memory[key]

    def _oldest(self) -> tuple[_Seen | None, _Seen | None, _Seen | None]:
        """The oldest remembered ids, and the oldest known impression, as far as there are any."""
        queue = self._closed or self._open
        return (
            next(iter(self._seen_requests.values()), None),
            next(iter(self._seen_ids.values()), None),
            queue[0].seen if queue else None,
        )

    def _going_back(self) -> _Mark | None:
        """Where to go back to, to know all that is remembered now; None when nothing is."""
        return min((seen[2:] for seen in self._oldest() if seen is not None), default=None)

    def _sight(self, offset: int) -> _Seen:
        here = offset, self._watermark
        request, event, impression = self._oldest()
        needs = here if request is None else request[:2]
        if event is not None and event[0] < needs[0]:
            needs = event[:2]
        if impression is not None and impression[0] < needs[0]:
            needs = impression[:2]
        return *here, *needs

    def _is_new(self, memory: OrderedDict[str, _Seen], key: str, seen: _Seen) -> bool:
        new = memory.pop(key, None) is None
        memory[key] = seen
        if not new:
            self.counts["duplicates"] += 1
        return new

    def _let_go(self, request: str) -> None:
        """Close an impression before its time."""
        waiting = self._known.get(request)
        if waiting is None:
            return
        self._unknow(waiting)
        self.counts["let_go"] += 1
        if waiting.seen[1] > self._watermark - self._window:
            self._open.remove(waiting)
            self._close(waiting)
        else:
            self._closed.remove(waiting)

    def _show(self, impression: Impression, timestamp: float, seen: _Seen) -> None:
        self.counts["impressions"] += 1
        waiting = Shown(impression=impression, timestamp=timestamp, seen=seen)
        self._known[impression.request_id] = waiting
        self._bytes += _size(impression)
        self._open.append(waiting)
        self._shown.append(waiting)
        self._added()

    def _interact(self, event: Interaction, timestamp: float) -> None:
        self.counts["interactions"] += 1
        row = Row(
            user=event.user, item=event.item, kind=event.kind, value=event.value, timestamp=timestamp, context=event.context
        )
        if event.request_id is not None:
            self._join(row, self._known.get(event.request_id))
        self._rows.append(row)
        self._added()

    def _join(self, row: Row, waiting: Shown | None) -> None:
        """Connect an interaction with the impression that it answers."""
        if waiting is None or row.user != waiting.impression.user or row.item not in waiting.impression.items:
            self.counts["unjoined"] += 1
            return
        row.shown, row.context = waiting, waiting.impression.context
        row.position = waiting.impression.items.index(row.item)
        late = waiting.seen[1] <= self._watermark - self._window
        again = bool(waiting.touched >> row.position & 1)
        row.correction = late or again
        if row.correction:
            self.counts["repeated" if again else "late"] += 1
        waiting.touched |= 1 << row.position

    def _close(self, waiting: Shown) -> None:
        """Let the untouched positions of an impression leave, as of the end of its window."""
        impression, ends = waiting.impression, waiting.seen[1] + self._window
        for position, item in enumerate(impression.items):
            if not waiting.touched >> position & 1:
                self._rows.append(
                    Row(
                        user=impression.user,
                        item=item,
                        kind="",
                        value=0.0,
                        timestamp=ends,
                        shown=waiting,
                        position=position,
                        context=impression.context,
                    )
                )
                self._added()
        self._ended.append(waiting)

    def _forget(self, user: str) -> None:
        """Let go of the user's impressions without learning from them; one pass, for a user may have most of them."""
        gone = [waiting for waiting in self._known.values() if waiting.impression.user == user]
        if not gone:
            return
        for waiting in gone:
            self._unknow(waiting)
        self._open = deque(waiting for waiting in self._open if waiting.impression.user != user)
        self._closed = deque(waiting for waiting in self._closed if waiting.impression.user != user)

    def _unknow(self, waiting: Shown) -> None:
        del self._known[waiting.impression.request_id]
        self._bytes -= _size(waiting.impression)

    def _added(self) -> None:
        """After an entry went into the open batch: note where it began, close it when it is full."""
        if self._batch_needs is None:
            self._batch_needs = self._going_back() or (self._next - 1, self._watermark)
        if self._cutting and len(self._rows) + len(self._shown) >= self._batch_rows:
            self._cut()

    def _cut(self) -> None:
        self._ready.append(Joined(self._shown, _together(self._rows), self._ended))
        self._shown, self._rows, self._ended, self._batch_needs = [], [], [], None

    def _take(self) -> list[Joined]:
        ready, self._ready = self._ready, []
        return ready


def _together(rows: list[Row]) -> list[Row]:
    """The same rows, those of one impression beside each other: they are one request."""
    first: dict[int, int] = {}
    order = [n if row.shown is None else first.setdefault(id(row.shown), n) for n, row in enumerate(rows)]
    if all(one <= other for one, other in pairwise(order)):
        return rows
    return [rows[n] for n in sorted(range(len(rows)), key=order.__getitem__)]


_ID_BYTES = 300
"""Of a remembered id: its text, a tuple, and its place in the memory, about."""


def _size(impression: Impression) -> int:
    """Memory of an impression, about: its rows, and a text and two numbers an item."""
    return 1000 + len(impression.features) + len(impression.unshown) + 150 * len(impression.items)
