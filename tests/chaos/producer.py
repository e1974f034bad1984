"""Events at a fixed rate: posted to the replicas until they are accepted, and some appended to the log directly."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice

import httpx
import msgspec

from streams.codec import decode, encode, partition_key
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, UserUpdate
from streams.log import Log

__all__ = ["BAD", "MARK", "Producer", "ids_of", "world"]

USERS, ITEMS = 20, 10
AT_ONCE = 5
"""Events of a request."""

HANGS = 20.0
"""Seconds after which a request is given up, and sent elsewhere."""

PATIENCE = 300.0
"""Seconds until somebody must have accepted what was sent."""

MARK = b"chaos-bad"
BAD = {
    MARK + b": no JSON": "not_json",
    b'{"type": "interaction", "user": "%s"}' % MARK: "not_an_event",
    b'{"type": "interaction", "user": "%s", "item": "i1", "kind": "stolen"}' % MARK: "kind",
    b'{"type": "interaction", "user": "%s", "item": "i1", "timestamp": 9e10}' % MARK: "future",
}
"""Records that cannot be learned from, and what dead letters call the reason."""


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
    sent, accepted : int
        Events that were sent over HTTP, and that were acknowledged.
    ids : set of str
        What the acknowledged ones of them have.
    bad, repeated : int
        Records appended directly.
    retries : int
        Requests and appends that were made again.
    problems : list of str
        Answers that there must not be.
    """

    def __init__(self, seed: int, rate: float, addresses: Sequence[Callable[[], str | None]], log: Log) -> None:
        self._rng, self._rate, self._addresses, self._log = random.Random(seed), rate, addresses, log
        self._events = world(seed)
        self._counting = threading.Lock()
        self._last: deque[bytes] = deque(maxlen=50)
        self.sent = self.accepted = self.bad = self.repeated = self.retries = 0
        self.ids: set[str] = set()
        self.problems: list[str] = []

    def run(self, done: threading.Event) -> None:
        """Send until `done`, then until everything sent has been accepted."""
        waiting: deque[Future[None]] = deque()
        due, number = time.monotonic(), 0
        with httpx.Client(timeout=HANGS) as client, ThreadPoolExecutor(8, "producer") as pool:
            while not done.wait(max(due - time.monotonic(), 0.0)):
                due += AT_ONCE / self._rate
                now = time.time()
                events = [msgspec.structs.replace(event, timestamp=now) for event in islice(self._events, AT_ONCE)]
                self.sent += len(events)
                waiting.append(pool.submit(self._post, client, number, events))
                if number % 7 == 0:
                    waiting.append(pool.submit(self._append, number))
                number += 1
                while waiting and waiting[0].done():
                    waiting.popleft().result()
        for one in waiting:
            one.result()

    def _post(self, client: httpx.Client, number: int, events: list[Event]) -> None:
        body = msgspec.json.encode(events)
        for attempt in self._attempts():
            address = self._addresses[(number + attempt) % len(self._addresses)]()
            if address is not None and self._accepts(client, address, body):
                break
        with self._counting:
            self.accepted += len(events)
            self.ids |= {one for one in map(ids_of, events) if one is not None}
            self._last.extend(encode(event) for event in events if ids_of(event) is not None)

    def _accepts(self, client: httpx.Client, address: str, body: bytes) -> bool:
        try:
            answer = client.post(f"{address}/v1/events", content=body, headers={"Content-Type": "application/json"})
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
            repeat = number % 2 == 1 and bool(self._last)
            value = self._rng.choice(self._last) if repeat else self._rng.choice(list(BAD))
        key = partition_key(decode(value)) if repeat else b"%d" % number
        for _ in self._attempts():
            try:
                self._log.append([(key, value)])
                break
            except OSError:
                continue
        with self._counting:
            self.bad, self.repeated = self.bad + (not repeat), self.repeated + repeat

    def _attempts(self) -> Iterator[int]:
        limit = time.monotonic() + PATIENCE
        for attempt in count():
            assert time.monotonic() < limit, "what was sent was never accepted"
            yield attempt
            with self._counting:
                self.retries += 1
            time.sleep(0.05)
