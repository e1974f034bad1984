"""The demonstration's visitors: a process that comes to the service over HTTP, and what the service's process knows of it."""

from __future__ import annotations

import http.client
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from service.demo.clicks import LONGEST_PHASE, Second, against_control, click_through, recovery, span
from streams.simulator import Population

__all__ = ["CONTROL", "Plan", "Visitors"]

CONTROL = "popularity"
"""Retriever whose order the control group gets."""

PLACES = 8

REMEMBERED = 900
"""Seconds that are remembered one by one: more than lie between two shifts."""

PATIENCE = 5.0
"""Seconds that the visitors' process has to end."""

TIMEOUT, PAUSE = 30.0, 0.2
"""Seconds that a visitor waits for an answer; seconds until the next attempt, unless the service says otherwise."""


@dataclass(frozen=True)
class Plan:
    """What the visitors' process is told.

    Attributes
    ----------
    address : (str, int)
        Of the service.
    folder : Path
        To be removed when the process that should do so was killed.
    rate : float
        Visits a second.
    shift_every : float
        Seconds between two shifts of taste.
    users, items, seed : int
        Of the population.
    """

    address: tuple[str, int]
    folder: Path
    rate: float
    shift_every: float
    users: int
    items: int
    seed: int


@dataclass(frozen=True)
class _Shift:
    """Tastes shifted."""

    time: float


@dataclass(frozen=True)
class _Failure:
    """The visitors' process came to grief."""

    problem: str


class Visitors:
    """The visitors' process, seen from the service's.

    Parameters
    ----------
    plan : Plan
    source : str
        Learner whose order all others than the control group get.
    shifted : callable
        Told of each shift of taste, on a thread.

    Attributes
    ----------
    visits, clicks : int
    shifts : list of float
        When tastes shifted, Unix seconds.
    seconds : deque of Second
        The last ones.
    failure : str or None
        Why the process ended by itself.
    """

    def __init__(self, plan: Plan, source: str, shifted: Callable[[], None]) -> None:
        self._plan, self._source, self._shifted = plan, source, shifted
        context = multiprocessing.get_context("spawn")
        self._ending: Flag = context.Event()
        self._reports, self._child = context.Pipe(duplex=False)
        self._process = context.Process(target=_visit, args=(plan, self._child, self._ending), daemon=True)
        self._listener = threading.Thread(target=self._listen, name="visitors", daemon=True)
        self._on_arrival: Callable[[], None] = lambda: None
        self._on_failure: Callable[[], None] = lambda: None
        self.visits = self.clicks = 0
        self.began = self.ended = 0.0
        self.shifts: list[float] = []
        self.seconds: deque[Second] = deque(maxlen=REMEMBERED)
        self.failure: str | None = None

    def start(self, on_arrival: Callable[[], None], on_failure: Callable[[], None]) -> None:
        """Send them on their way: they wait at the door until the service is ready."""
        self._on_arrival, self._on_failure = on_arrival, on_failure
        with _deaf():
            self._process.start()
        self._child.close()
        self._listener.start()

    def stop(self) -> None:
        """Send them home; the last numbers are those of this moment. Before `start`, and a second time, nothing happens."""
        self._ending.set()
        if self._process.pid is None:
            return
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._listener.join(PATIENCE)

    @property
    def phase(self) -> float:
        """Seconds that click-through is summed over."""
        return min(LONGEST_PHASE, self._plan.shift_every / 2)

    def click_through(self, until: float) -> dict[str, float]:
        """Click-through in the seconds before a time, by source."""
        return click_through(span(list(self.seconds), until, self.phase))

    def recoveries(self) -> list[float | None]:
        """Seconds that recovery from each shift took; None: it did not come before the next one."""
        seconds, shifts = list(self.seconds), [*self.shifts, float("inf")]
        return [recovery(seconds, shift, following, self._source) for shift, following in pairwise(shifts)]

    def gauges(self) -> dict[str, Any]:
        """What the live page tells of the demonstration, under ``demo``; nothing before the first second."""
        seconds, shifts = list(self.seconds), list(self.shifts)
        if not seconds:
            return {"demo": {"waiting": True, "control": CONTROL}}
        last = seconds[-1]
        told: dict[str, Any] = {
            "control": CONTROL,
            "against_control": against_control(self.click_through(last.time), CONTROL),
            "next_shift": last.next_shift,
            "shift_every": self._plan.shift_every,
        }
        if shifts:
            told |= {"shifted": shifts[-1], "recovery": recovery(seconds, shifts[-1], last.time, self._source)}
        return {"demo": told}

    def _listen(self) -> None:
        while True:
            try:
                told = self._reports.recv()
            except (EOFError, OSError):
                break
            if isinstance(told, Second):
                self._note(told)
            elif isinstance(told, _Shift):
                self.shifts.append(told.time)
                self._shifted()
            else:
                self.failure = told.problem
        if not self._ending.is_set():
            self.failure = self.failure or "it ended without a word"
            self._on_failure()

    def _note(self, second: Second) -> None:
        self.visits += second.visits
        self.clicks += sum(second.clicked.values())
        self.seconds.append(second)
        self.ended = second.time
        if not self.began:
            self.began = second.time
            self._on_arrival()


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started here do not hear the signals that end the service: it tells them itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _visit(plan: Plan, reports: Connection, ending: Flag) -> None:
    """Be the visitors until the flag is set; the main function of their process."""
    threading.Thread(target=_outlive, args=(plan.folder,), daemon=True).start()
    try:
        _come_and_go(plan, reports, ending)
    except Exception as error:
        reports.send(_Failure(f"{type(error).__name__}: {error}"))
    finally:
        reports.close()


def _outlive(folder: Path) -> None:
    """When the service's process has been killed, clear up after it and go."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _come_and_go(plan: Plan, reports: Connection, ending: Flag) -> None:
    people = Population(users=plan.users, items=plan.items, seed=plan.seed, places=PLACES)
    service = _Client(plan.address, ending)
    service.wait_until_ready()
    service.post("/v1/events", [*people.catalogue(), *people.profiles()])
    due = time.monotonic()
    second_ends, next_shift = due + 1.0, due + plan.shift_every
    visits, shown, clicked = 0, Counter[str](), Counter[str]()
    while not ending.is_set():
        user, context = people.visit()
        request = {"user": user, "context": context, "n": PLACES, "candidates": plan.items, "repeat": True}
        if _in_control_group(user):
            request["by"] = CONTROL
        ranking = service.post("/v1/recommend", request)
        if ranking is None:
            break
        places = [place["item"] for place in ranking["items"]]
        clicks = people.react(user, ranking["request_id"], places, time.time())
        if clicks:
            service.post("/v1/events", clicks)
        source = ranking["source"]
        visits += 1
        shown[source] += len(places)
        clicked[source] += len(clicks)
        now = time.monotonic()
        if now >= next_shift:
            people.shift()
            reports.send(_Shift(time.time()))
            next_shift = now + plan.shift_every
        if now >= second_ends:
            reports.send(Second(time.time(), visits, shown, clicked, time.time() + next_shift - now))
            visits, shown, clicked = 0, Counter(), Counter()
            second_ends = now + 1.0
        # Whoever was late does not make up for it: this is a crowd, not a benchmark.
        due = max(due + 1.0 / plan.rate, now)
        ending.wait(due - now)
    if visits:
        reports.send(Second(time.time(), visits, shown, clicked, time.time() + next_shift - time.monotonic()))


def _in_control_group(user: str) -> bool:
    return xxhash.xxh3_64_intdigest(f"control {user}".encode()) % 2 == 0


class _Client:
    """One kept-alive connection to the service, for as long as it takes it to answer.

    Parameters
    ----------
    address : (str, int)
    ending : Flag
        Set: whatever still waits is given up.
    """

    def __init__(self, address: tuple[str, int], ending: Flag) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=TIMEOUT)
        self._ending = ending

    def wait_until_ready(self) -> None:
        """Return when the service is ready, or it is time to go."""
        self._ask("GET", "/readyz")

    def post(self, path: str, body: Any) -> Any:
        """Answer to a request; None when it is time to go. Late answers, and refusals for now, are no reason to give up.

        Raises
        ------
        RuntimeError
            For a request that is refused for good.
        """
        data = self._ask("POST", path, msgspec.json.encode(body))
        return None if data is None else msgspec.json.decode(data)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes | None:
        while not self._ending.is_set():
            pause = PAUSE
            try:
                self._connection.request(method, path, body, {"Content-Type": "application/json"})
                answer = self._connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException):  # too slow, or the connection was closed
                self._connection.close()
            else:
                if answer.status in (200, 202):
                    return data
                again = answer.getheader("Retry-After")
                if answer.status != 503 or again is None:
                    raise RuntimeError(f"{path} was answered {answer.status}: {data.decode(errors='replace'):.500}")
                pause = max(PAUSE, float(again))
            self._ending.wait(pause)
        return None
