"""The simulated visitors: a process that uses the service over HTTP, and its handle in the service's process."""

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

from service.demo.clicks import MAX_PHASE, Second, click_through, control_lift, recovery, window
from streams.simulator import Population

__all__ = ["CONTROL", "Plan", "Visitors"]

CONTROL = "popularity"
"""Retriever whose rankings the control group gets."""

POSITIONS = 8
"""Items in a ranking."""

MAX_SECONDS = 900
"""Latest seconds whose counts are kept: more than between two shifts."""

STOP_TIMEOUT = 5.0
"""Seconds for the visitors' process to stop; then it is killed."""

TIMEOUT, PAUSE = 30.0, 0.2
"""Seconds that a visitor waits for a response; seconds until a retry, unless the service sends ``Retry-After``."""


@dataclass(frozen=True)
class Plan:
    """Settings of the visitors' process.

    Attributes
    ----------
    address : (str, int)
        Address of the service.
    folder : Path
        Folder to delete if the service's process is killed.
    rate : float
        Visits per second.
    shift_every : float
        Seconds between two shifts of tastes.
    users, items, seed : int
        Size and seed of the population.
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
    """Report: the tastes shifted at `time`."""

    time: float


@dataclass(frozen=True)
class _Failure:
    """Report: the visitors' process failed."""

    problem: str


class Visitors:
    """Handle of the visitors' process in the service's process.

    Parameters
    ----------
    plan : Plan
    source : str
        Learner whose rankings everybody outside the control group gets.
    shifted : callable
        Called on another thread at each shift of tastes.

    Attributes
    ----------
    visits, clicks : int
    shifts : list of float
        Unix times of the shifts of tastes.
    seconds : deque of Second
        Counts of the latest seconds.
    failure : str or None
        Why the process failed.
    """

    def __init__(self, plan: Plan, source: str, shifted: Callable[[], None]) -> None:
        self._plan, self._source, self._shifted = plan, source, shifted
        context = multiprocessing.get_context("spawn")
        self._ending: Flag = context.Event()
        self._reports, self._child = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(plan, self._child, self._ending), daemon=True)
        self._listener = threading.Thread(target=self._listen, name="visitors", daemon=True)
        self._on_arrival: Callable[[], None] = lambda: None
        self._on_failure: Callable[[], None] = lambda: None
        self.visits = self.clicks = 0
        self.began = self.ended = 0.0
        self.shifts: list[float] = []
        self.seconds: deque[Second] = deque(maxlen=MAX_SECONDS)
        self.failure: str | None = None

    def start(self, on_arrival: Callable[[], None], on_failure: Callable[[], None]) -> None:
        """Start the visitors' process. The visits begin when the service is ready."""
        self._on_arrival, self._on_failure = on_arrival, on_failure
        with _signals_blocked():
            self._process.start()
        self._child.close()
        self._listener.start()

    def stop(self) -> None:
        """Stop the visitors' process and collect its last counts. Does nothing before `start` or a second time."""
        self._ending.set()
        if self._process.pid is None:
            return
        self._process.join(STOP_TIMEOUT)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._listener.join(STOP_TIMEOUT)

    @property
    def phase(self) -> float:
        """Seconds over which click-through is measured."""
        return min(MAX_PHASE, self._plan.shift_every / 2)

    def click_through(self, until: float) -> dict[str, float]:
        """Click-through in the seconds before a time, by source."""
        return click_through(window(list(self.seconds), until, self.phase))

    def recoveries(self) -> list[float | None]:
        """Seconds of recovery after each shift; None: not before the next one."""
        seconds, shifts = list(self.seconds), [*self.shifts, float("inf")]
        return [recovery(seconds, shift, following, self._source) for shift, following in pairwise(shifts)]

    def gauges(self) -> dict[str, Any]:
        """Data of the demonstration for the live page, under ``demo``; ``waiting`` before the first second."""
        seconds, shifts = list(self.seconds), list(self.shifts)
        if not seconds:
            return {"demo": {"waiting": True, "control": CONTROL}}
        last = seconds[-1]
        report: dict[str, Any] = {
            "control": CONTROL,
            "control_lift": control_lift(self.click_through(last.time), CONTROL),
            "next_shift": last.next_shift,
            "shift_every": self._plan.shift_every,
        }
        if shifts:
            report |= {"shifted": shifts[-1], "recovery": recovery(seconds, shifts[-1], last.time, self._source)}
        return {"demo": report}

    def _listen(self) -> None:
        while True:
            try:
                report = self._reports.recv()
            except (EOFError, OSError):
                break
            if isinstance(report, Second):
                self._note(report)
            elif isinstance(report, _Shift):
                self.shifts.append(report.time)
                self._shifted()
            else:
                self.failure = report.problem
        if not self._ending.is_set():
            self.failure = self.failure or "it ended without a message"
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
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM in child processes started here: the service stops them itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(plan: Plan, reports: Connection, ending: Flag) -> None:
    """Main function of the visitors' process: simulate visits until the flag is set."""
    threading.Thread(target=_exit_with_parent, args=(plan.folder,), daemon=True).start()
    try:
        _simulate(plan, reports, ending)
    except Exception as error:
        reports.send(_Failure(f"{type(error).__name__}: {error}"))
    finally:
        reports.close()


def _exit_with_parent(folder: Path) -> None:
    """When the service's process has been killed, delete its folder and exit."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _simulate(plan: Plan, reports: Connection, ending: Flag) -> None:
    population = Population(users=plan.users, items=plan.items, seed=plan.seed, positions=POSITIONS)
    service = _Client(plan.address, ending)
    service.wait_until_ready()
    service.post("/v1/events", [*population.catalogue(), *population.profiles()])
    due = time.monotonic()
    second_ends, next_shift = due + 1.0, due + plan.shift_every
    visits, shown, clicked = 0, Counter[str](), Counter[str]()
    while not ending.is_set():
        user, context = population.visit()
        request = {"user": user, "context": context, "n": POSITIONS, "candidates": plan.items, "repeat": True}
        if _in_control_group(user):
            request["by"] = CONTROL
        ranking = service.post("/v1/recommend", request)
        if ranking is None:
            break
        items = [ranked["item"] for ranked in ranking["items"]]
        clicks = population.react(user, ranking["request_id"], items, time.time())
        if clicks:
            service.post("/v1/events", clicks)
        source = ranking["source"]
        visits += 1
        shown[source] += len(items)
        clicked[source] += len(clicks)
        now = time.monotonic()
        if now >= next_shift:
            population.shift()
            reports.send(_Shift(time.time()))
            next_shift = now + plan.shift_every
        if now >= second_ends:
            reports.send(Second(time.time(), visits, shown, clicked, time.time() + next_shift - now))
            visits, shown, clicked = 0, Counter(), Counter()
            second_ends = now + 1.0
        # Late visits are not made up for: this is a demonstration, not a benchmark.
        due = max(due + 1.0 / plan.rate, now)
        ending.wait(due - now)
    if visits:
        reports.send(Second(time.time(), visits, shown, clicked, time.time() + next_shift - time.monotonic()))


def _in_control_group(user: str) -> bool:
    return xxhash.xxh3_64_intdigest(f"control {user}".encode()) % 2 == 0


class _Client:
    """Client with one keep-alive connection, which retries until the service answers.

    Parameters
    ----------
    address : (str, int)
    ending : Flag
        When it is set, waiting requests are given up.
    """

    def __init__(self, address: tuple[str, int], ending: Flag) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=TIMEOUT)
        self._ending = ending

    def wait_until_ready(self) -> None:
        """Return when the service is ready, or `ending` is set."""
        self._request("GET", "/readyz")

    def post(self, path: str, body: Any) -> Any:
        """Send a request and return the response; None once `ending` is set. Timeouts and temporary refusals are retried.

        Raises
        ------
        RuntimeError
            For a request that is refused permanently.
        """
        data = self._request("POST", path, msgspec.json.encode(body))
        return None if data is None else msgspec.json.decode(data)

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes | None:
        while not self._ending.is_set():
            pause = PAUSE
            try:
                self._connection.request(method, path, body, {"Content-Type": "application/json"})
                answer = self._connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException):  # a timeout, or the connection was closed
                self._connection.close()
            else:
                if answer.status in (200, 202):
                    return data
                retry_after = answer.getheader("Retry-After")
                if answer.status != 503 or retry_after is None:
                    raise RuntimeError(f"{path} was answered {answer.status}: {data.decode(errors='replace'):.500}")
                pause = max(PAUSE, float(retry_after))
            self._ending.wait(pause)
        return None
