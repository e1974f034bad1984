"""Interactions of the last window, for an impression that comes after them: beacons overtake each other.

All interactions with a request id are kept, also those that found their impression: whether one did depends on older records
than a restart reads again, so nothing may depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from msgspec import Struct

from streams.joined import Outcome, Seen

__all__ = ["EarlyInteractions"]


class _Entry(Struct, gc=False, eq=False):
    request: str
    row: Outcome
    seen: Seen
    waits: bool
    gone: bool = False


class EarlyInteractions:
    """Remembers interactions by their request id, oldest first.

    Parameters
    ----------
    capacity : int
        Largest number that is remembered.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queue: deque[_Entry] = deque()
        self._by_request: dict[str, list[_Entry]] = {}

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def nbytes(self) -> int:
        """Approximate bytes of the remembered interactions."""
        return _ENTRY_BYTES * len(self._queue)

    @property
    def oldest(self) -> Seen | None:
        """What is noted of the oldest one; None without one."""
        return self._queue[0].seen if self._queue else None

    def add(self, request: str, row: Outcome, seen: Seen, *, waits: bool) -> bool:
        """Remember an interaction with a request. Return whether one that waits for its impression was dropped for it.

        Parameters
        ----------
        request : str
        row : Outcome
            The interaction.
        seen : tuple
            See `Seen`.
        waits : bool
            Whether the impression is still expected, as far as this process knows. It is for counting only.
        """
        entry = _Entry(request, row, seen, waits)
        self._queue.append(entry)
        others = self._by_request.setdefault(request, [])
        others.append(entry)
        if len(others) >= _COMPACT and len(others).bit_count() == 1:
            others[:] = [other for other in others if not other.gone]
        return len(self._queue) > self._capacity and self._drop_oldest()

    def expire(self, before: float) -> Iterator[bool]:
        """Drop those seen at `before` or earlier, in elapsed time. For each, yield whether it still waited."""
        while self._queue and self._queue[0].seen[1] <= before:
            yield self._drop_oldest()

    def take(self, request: str) -> list[Outcome]:
        """Return the interactions with a request, in order, and drop them."""
        found = [entry for entry in self._by_request.pop(request, ()) if not entry.gone]
        for entry in found:
            entry.gone = True
        return [entry.row for entry in found]

    def forget(self, user: str, step: int) -> Iterator[None]:
        """Drop those of a user. Yield after each `step` of them that were looked at."""
        for n, entry in enumerate(self._queue):
            entry.gone = entry.gone or entry.row.user == user
            if n % step == step - 1:
                yield

    def _drop_oldest(self) -> bool:
        entry = self._queue.popleft()
        others = self._by_request.get(entry.request)
        if others is not None and others[-1] is entry:
            del self._by_request[entry.request]
        waited, entry.gone = entry.waits and not entry.gone, True
        return waited


_COMPACT = 64
"""Interactions with one request from which the list of them is cleared of dropped ones, whenever it has doubled."""

_ENTRY_BYTES = 600
"""Approximate bytes of an entry: its row and mark, and what the list and the dict take."""
