"""Requests that wait a moment until what their own user did just before them is learned."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from service.ranking.requests import RankRequest, RecommendRequest

__all__ = ["HeldRequests", "Waiting"]

Waiting = tuple[RankRequest | RecommendRequest, Future[Any]]

BACK_OFF = 1.0
"""Seconds without holding after a request was released unlearned: the trainer is behind, and waiting would not help."""


class HeldRequests:
    """Holds the requests of users whose events were accepted and are not learned yet.

    A click and the next page are often a few milliseconds apart, and learning takes about as long. The list would then be of
    before the click, although the last click says more than any other.

    Parameters
    ----------
    seconds : float
        Most seconds for which a request is held; 0: none is.
    is_behind : callable
        Tells whether a user has an event that was accepted and is not learned.
    clock : callable returning float
        Seconds.

    Attributes
    ----------
    counts : Counter
        Requests that were released, by how: ``learned`` or ``timed_out``.
    """

    def __init__(
        self, seconds: float, is_behind: Callable[[str], bool], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._seconds, self._is_behind, self._clock = seconds, is_behind, clock
        self._held: deque[tuple[float, Waiting]] = deque()
        self._not_before = 0.0
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, waiting: Waiting) -> bool:
        """Hold a request if its user has unlearned events. Return whether it is held."""
        if self._seconds <= 0.0:
            return False
        now = self._clock()
        if now < self._not_before or not self._is_behind(waiting[0].user):
            return False
        self._held.append((now + self._seconds, waiting))
        return True

    def release(self) -> list[Waiting]:
        """Take out the requests whose events are learned, and those held for long enough."""
        if not self._held:
            return []
        now, released, kept = self._clock(), [], deque[tuple[float, Waiting]]()
        for until, waiting in self._held:
            if not self._is_behind(waiting[0].user):
                self.counts["learned"] += 1
                released.append(waiting)
            elif until <= now:
                self.counts["timed_out"] += 1
                self._not_before = now + BACK_OFF
                released.append(waiting)
            else:
                kept.append((until, waiting))
        self._held = kept
        return released

    def clear(self) -> list[Waiting]:
        """Take out all requests."""
        cleared = [waiting for _, waiting in self._held]
        self._held.clear()
        return cleared
