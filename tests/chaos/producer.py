"""Events at a fixed rate: posted to the replicas until they are accepted, and some appended to the log directly."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import httpx
import msgspec

from streams.codec import encode, partition_key
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, UserUpdate
from streams.log import Log

__all__ = ["BAD", "Producer", "ids_of", "world"]

USERS, ITEMS = 20, 10
AT_ONCE = 5
"""Events of a request."""

HANGS = 20.0
"""Seconds after which a request is given up, and sent elsewhere."""

MARK = b"chaos-bad"
BAD = (
    MARK + b": no JSON",
    b'{"type": "interaction", "user": "%s"}' % MARK,
    b'{"type": "interaction", "user": "%s", "item": "i1", "kind": "stolen"}' % MARK,
    b'{"type": "interaction", "user": "%s", "item": "i1", "timestamp": 9e10}' % MARK,
)
"""Records that cannot be learned from, each for a reason of its own."""


def world(seed: int) -> Iterator[Event]:
    """Endless events without a time: what was shown and clicked, each with an id; changes of items and users between.

    Every twentieth event comes a second time some events later, as it was.
    """
    rng = random.Random(seed)
    for n in range(ITEMS):
        yield ItemUpdate(item=f"i{n}", attributes={"colour": "red" if n < 5 else "blue"})
    last: deque[Event] = deque(maxlen=30)
    number = 0
    while True:
        for event in _visit(rng, number):
            last.append(event)
            yield event
            if rng.random() < 0.05:
                yield rng.choice(last)
        number += 1


def _visit(rng: random.Random, number: int) -> Iterator[Event]:
    user, draw = rng.randrange(USERS), rng.random()
    if draw < 0.02:
        yield UserUpdate(user=f"u{user}", attributes={"tribe": rng.choice(["red", "blue"])})
    elif draw < 0.03:
        yield Forget(user=f"u{user}")
    elif draw < 0.04:
        yield ItemUpdate(item=f"i{rng.randrange(ITEMS)}", attributes={"colour": rng.choice(["red", "blue"])})
    shown = rng.sample(range(ITEMS), 4)
    yield Impression(request_id=f"r{number}", user=f"u{user}", items=tuple(f"i{i}" for i in shown))
    for place, item in enumerate(shown):
        if rng.random() < (0.6 if (item < 5) == (user < 10) else 0.1):
            yield Interaction(id=f"c{number}.{place}", request_id=f"r{number}", user=f"u{user}", item=f"i{item}")


def ids_of(event: Event) -> str | None:
    """What makes it one of its kind; None where a second one like it is another event."""
    if isinstance(event, Impression):
        return f"impression {event.request_id}"
    return f"interaction {event.id}" if isinstance(event, Interaction) else None


class Producer:
    """Sends the events of a `world`.

    Parameters
    ----------
    seed : int
    rate : float
        Events a second.
    addresses : sequence of callable returning str or None
        Where replicas are now; None while they are nowhere.
    log : Log
        For what is appended directly: bad records, and repetitions.

    Attributes
    ----------
    accepted : set of str
        Ids of events that were acknowledged.
    posted, bad, repeated : int
        Events that were acknowledged over HTTP, and records appended directly.
    retries : int
        Requests that were sent again.
    problems : list of str
        Answers that there must not be.
    """

    def __init__(self, seed: int, rate: float, addresses: Sequence[Callable[[], str | None]], log: Log) -> None:
        self._rng, self._rate, self._addresses, self._log = random.Random(seed), rate, addresses, log
        self._events = world(seed)
        self._counting = threading.Lock()
        self._pool = ThreadPoolExecutor(8, "producer")
        self._waiting: deque[Future[None]] = deque()
        self._last: deque[bytes] = deque(maxlen=50)
        self.accepted: set[str] = set()
        self.posted = self.bad = self.repeated = self.retries = 0
        self.problems: list[str] = []

    def run(self, done: threading.Event) -> None:
        """Send until `done`, then until everything sent has been accepted."""
        due = time.monotonic()
        number = 0
        while not done.wait(max(due - time.monotonic(), 0.0)):
            due += AT_ONCE / self._rate
            now = time.time()
            events = [msgspec.structs.replace(event, timestamp=now) for event in islice(self._events, AT_ONCE)]
            self._waiting.append(self._pool.submit(self._post, number, events))
            if number % 7 == 0:
                self._waiting.append(self._pool.submit(self._append, number))
            number += 1
            while self._waiting and self._waiting[0].done():
                self._waiting.popleft().result()
        for sent in self._waiting:
            sent.result()
        self._pool.shutdown()

    def _post(self, number: int, events: list[Event]) -> None:
        body = msgspec.json.encode(events)
        for attempt in range(10_000):
            address = self._addresses[(number + attempt) % len(self._addresses)]()
            if address is not None and self._accepts(address, body):
                break
            with self._counting:
                self.retries += 1
            time.sleep(0.05)
        else:
            raise AssertionError("an event was never accepted")
        with self._counting:
            self.posted += len(events)
            self.accepted |= {one for one in map(ids_of, events) if one is not None}
            self._last.extend(encode(event) for event in events if ids_of(event) is not None)

    def _accepts(self, address: str, body: bytes) -> bool:
        try:
            answer = httpx.post(f"{address}/v1/events", content=body, timeout=HANGS)
        except httpx.TransportError:
            return False
        if answer.status_code == 202:
            return True
        if answer.status_code != 503 or "Retry-After" not in answer.headers:
            with self._counting:
                self.problems.append(f"events were answered with {answer.status_code}: {answer.text}")
        return False

    def _append(self, number: int) -> None:
        """Append a bad record, or one that is there already, until the log has it."""
        with self._counting:
            repeat = number % 2 and self._last
            value = self._rng.choice(self._last) if repeat else self._rng.choice(BAD)
            key = partition_key(msgspec.json.decode(value, type=Interaction | Impression)) if repeat else b"%d" % number
        for _ in range(10_000):
            try:
                self._log.append([(key, value)])
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise AssertionError("a record was never appended")
        with self._counting:
            self.bad, self.repeated = (self.bad, self.repeated + 1) if repeat else (self.bad + 1, self.repeated)
