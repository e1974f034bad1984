"""How the engine's time is shared between rankings and learning."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Share"]

AHEAD = 0.025
"""Seconds of learning, at most, that count for later: so many are not owed when requests come in a burst."""

BEHIND = 0.1
"""Seconds of learning, at most, that can be owed: a request never waits longer for what others' requests took."""


class Share:
    """Decides whether a learn turn is due though requests wait (deficit round robin over two queues).

    For every second of serving, learning is owed ``share / (1 - share)`` seconds, and learn turns pay it off. What is learned
    while no request waits counts too, up to `AHEAD`. When there is nothing to learn, nothing is owed.

    Parameters
    ----------
    share : float
        Least share of the busy time that learning gets while there is something to learn, 0 <= share < 1. With 0, any
        number of requests goes first.
    clock : callable returning float
        Seconds.

    Attributes
    ----------
    served, learned : float
        Seconds spent so far.

    References
    ----------
    M. Shreedhar, G. Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", IEEE/ACM Transactions on Networking 1996.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._rate, self._clock = share / (1.0 - share), clock
        self._owed = 0.0
        self.served = self.learned = 0.0

    @property
    def due(self) -> bool:
        """Whether learning is owed a turn before the next request."""
        return self._owed > 0.0

    def serve(self, work: Callable[[], None]) -> None:
        """Do work for requests."""
        start = self._clock()
        work()
        spent = self._clock() - start
        self.served += spent
        self._owed = min(self._owed + self._rate * spent, BEHIND)

    def learn(self, turn: Callable[[], bool]) -> bool:
        """Take a learn turn; whether there was something to learn."""
        start = self._clock()
        more = turn()
        spent = self._clock() - start
        self.learned += spent
        self._owed = max(self._owed - spent, -AHEAD) if more else min(self._owed, 0.0)
        return more
