"""Interactions that were accepted and not learned yet: nobody is recommended in the next moment what they just clicked."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from learners.features import hash_id
from streams.batch import Ids
from streams.events import Event, Interaction

__all__ = ["PendingTouches"]


class PendingTouches:
    """Items that users touched in the last seconds, by what this process accepted; thread-safe.

    The state learns of an interaction some milliseconds after it was accepted, at a replica later. Until then this list
    excludes it from recommendations. It is not part of the state, and a replay does not need it.

    Parameters
    ----------
    kinds : sequence of str or None
        Kinds of interactions that count; None: all.
    capacity : int
        Interactions at most; the oldest leaves first.
    seconds : float
        Time after which an interaction is taken to be learned.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        kinds: Sequence[str] | None = None,
        capacity: int = 10_000,
        seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kinds = None if kinds is None else frozenset(kinds)
        self._capacity, self._seconds, self._clock = capacity, seconds, clock
        self._entries: deque[tuple[float, int]] = deque()
        self._items: dict[int, deque[int]] = {}
        self._lock = threading.Lock()

    def add(self, events: Iterable[Event]) -> None:
        """Note the interactions among events that were accepted."""
        touched = [
            (hash_id(event.user), hash_id(event.item))
            for event in events
            if isinstance(event, Interaction) and (self._kinds is None or event.kind in self._kinds)
        ]
        now = self._clock()
        with self._lock:
            for user, item in touched:
                self._entries.append((now, user))
                self._items.setdefault(user, deque()).append(item)
            while len(self._entries) > self._capacity or (self._entries and self._entries[0][0] < now - self._seconds):
                self._drop_oldest()

    def of(self, user: int) -> Ids:
        """Items that a user (hashed) has touched lately, (n,) int64, hashed."""
        with self._lock:
            return np.array(self._items.get(user, ()), np.int64)

    def forget(self, user: str) -> None:
        """Remove the items of a user."""
        with self._lock:
            self._items.pop(hash_id(user), None)

    @property
    def nbytes(self) -> int:
        """Approximate memory."""
        return 130 * len(self._entries) + 800 * len(self._items)

    def _drop_oldest(self) -> None:
        _, user = self._entries.popleft()
        items = self._items.get(user)
        if items is not None:  # else the user was forgotten
            items.popleft()
            if not items:
                del self._items[user]
