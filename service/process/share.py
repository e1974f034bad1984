"""Divide the engine's time: between ranking and learning, and between small and large rankings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from service.process.own_events import Waiting
from service.ranking.requests import RankRequest, RecommendRequest

__all__ = ["Lane", "Lanes", "Share"]

LARGE = 300
"""Candidates, or a tenth of the excluded items, from which on a ranking is large. It takes more than a millisecond."""

SMOOTHING = 0.2
"""Weight of the latest batch in the exponential moving average of the time per request."""

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


class Lane:
    """Requests of about the same size, in order of arrival.

    Parameters
    ----------
    batch : int
        Most requests that are ranked together.

    Attributes
    ----------
    waiting : deque of Waiting
        Any thread appends; the engine takes out.
    ready : deque of Waiting
        Requests that were taken out, held, and go first now.
    seconds : float
        Average time of a request.
    """

    def __init__(self, batch: int) -> None:
        self.batch, self.seconds = batch, 0.0
        self.waiting, self.ready = deque[Waiting](), deque[Waiting]()

    def __len__(self) -> int:
        return len(self.waiting) + len(self.ready)

    def take(self, hold: Callable[[Waiting], bool]) -> list[Waiting]:
        """Take out the next batch, without the requests that are cancelled or that `hold` keeps."""
        batch: list[Waiting] = []
        while self.ready and len(batch) < self.batch:
            batch.append(self.ready.popleft())
        while self.waiting and len(batch) < self.batch:
            waiting = self.waiting.popleft()
            if waiting[1].set_running_or_notify_cancel() and not hold(waiting):
                batch.append(waiting)
        return batch

    def took(self, requests: int, seconds: float) -> None:
        """Note the time of a batch."""
        self.seconds += SMOOTHING * (seconds / requests - self.seconds)


class Lanes:
    """Two queues of ranking requests that take turns: a batch of small ones, then a large one alone.

    So a small request never waits for more than one large one, however many there are, and large ones are not starved either.

    Parameters
    ----------
    batch : int
        Most small requests that are ranked together.
    """

    def __init__(self, batch: int) -> None:
        self._small, self._large = Lane(batch), Lane(1)
        self._last = self._large

    def __len__(self) -> int:
        return len(self._small) + len(self._large)

    def __iter__(self) -> Iterator[Lane]:
        return iter((self._small, self._large))

    def of(self, request: RankRequest | RecommendRequest) -> Lane:
        """Lane of a request."""
        if isinstance(request, RankRequest):
            return self._large if len(request.items) >= LARGE else self._small
        return self._large if max(request.found, len(request.exclude) // 10) >= LARGE else self._small

    def next(self) -> Lane:
        """Lane whose turn it is."""
        other = self._large if self._last is self._small else self._small
        self._last = other if other else self._last
        return self._last

    def wait(self, lane: Lane, held: int) -> float:
        """Seconds that the next request of a lane has to wait, `held` other ones included."""
        other = self._large if lane is self._small else self._small
        waiting = len(lane) + held
        between = min(len(other), (waiting // lane.batch + 1) * other.batch)
        return waiting * lane.seconds + between * other.seconds
