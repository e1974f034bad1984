"""Divide the engine's time between ranking and learning."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Share"]

MAX_CREDIT = 0.025
"""Most seconds of learning that are credited: in a burst of requests, learning waits until they are used up."""

MAX_DEBT = 0.1
"""Most seconds of learning that can be owed. A request never waits longer than this for overdue learning."""


class Share:
    """Decides whether learning comes before the waiting requests (deficit round robin over two queues).

    Every second of serving adds ``share / (1 - share)`` seconds to the debt to learning, and learning turns reduce it. Turns
    while no request waits count as credit, up to `MAX_CREDIT`. When there is nothing to learn, the debt is cancelled.

    Parameters
    ----------
    share : float
        Smallest share of the busy time for learning while there is something to learn, 0 <= share < 1. With 0, requests
        always go first.
    clock : callable returning float
        Time in seconds.

    Attributes
    ----------
    served, learned : float
        Seconds spent on requests and on learning so far.

    References
    ----------
    M. Shreedhar, G. Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", IEEE/ACM Transactions on Networking 1996.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._rate, self._clock = share / (1.0 - share), clock
        self._debt = 0.0
        self.served = self.learned = 0.0

    @property
    def due(self) -> bool:
        """Whether a learning turn comes before the next request."""
        return self._debt > 0.0

    def serve(self, work: Callable[[], None]) -> None:
        """Do work for requests, and count its time."""
        start = self._clock()
        work()
        spent = self._clock() - start
        self.served += spent
        self._debt = min(self._debt + self._rate * spent, MAX_DEBT)

    def learn(self, turn: Callable[[], bool]) -> bool:
        """Take a learning turn; return whether there was something to learn."""
        start = self._clock()
        more = turn()
        spent = self._clock() - start
        self.learned += spent
        self._debt = max(self._debt - spent, -MAX_CREDIT) if more else min(self._debt, 0.0)
        return more
