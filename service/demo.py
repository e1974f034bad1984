"""The demonstration: a service on localhost, visitors with tastes that shift, and what became of their clicks."""

from __future__ import annotations

import http.client
import multiprocessing
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any

import msgspec
import xxhash
from rich.console import Console
from rich.table import Table

from service.app import create_app
from service.config import Config, parse
from service.runtime import Runtime, open_runtime
from service.server import Server, bind
from streams.simulator import Population

__all__ = ["Summary", "demo_config", "run_demo"]

PLACES = 8
SHIFT_EVERY = 60.0
PATIENCE = 5.0
"""Seconds that the visitors' process has to end."""
LONGEST_PHASE = 10.0
"""Seconds that click-through is summed over: before a shift, right after it, at the end."""


def demo_config(folder: Path) -> Config:
    """Settings of the demonstration; ``examples/demo.toml`` says the same, with comments."""
    return parse(
        {
            "stream": {"url": f"lmdb://{folder}", "window": 3.0, "lateness": 30.0},
            "features": {
                "user": {"id": "category", "segment": "category", "age": "category"},
                "item": {"id": "category", "category": "category", "tags": "tags"},
                "context": {"device": "category"},
                "crosses": ["user.segment * item.category", "user.segment * item.id", "user.id * item.category"],
            },
            "users": {"capacity": 5_000},
            "items": {"capacity": 5_000},
            "history": {"capacity": 5_000},
            "retrievers": {"popularity": {"capacity": 5_000, "half_life": 60.0}},
            "ranker": {"fm": {"factors": 8, "bits": 16}},
            "policy": {"epsilon_greedy": {"epsilon": 0.04}},
        },
        "demo",
    )


@dataclass(frozen=True)
class Summary:
    """What a demonstration came to.

    Attributes
    ----------
    seconds : float
        How long visitors came.
    visits, clicks, shifts : int
    learned : int
        Rows learned.
    click_through : dict of phase to source to float
        Share of shown places that were clicked, in the seconds before the last shift, right after it, and at the end.
    auc : dict of learner to float or None
    freshness, latency : dict
        ``p50`` and ``p99`` of event-to-score and of requests over the last seconds, in seconds.
    """

    seconds: float
    visits: int
    clicks: int
    shifts: int
    learned: int
    click_through: dict[str, dict[str, float]]
    auc: dict[str, float | None]
    freshness: dict[str, float | None]
    latency: dict[str, float | None]


def run_demo(
    seconds: float | None = None,
    port: int = 8000,
    *,
    rate: float = 80.0,
    shift_every: float | None = None,
    users: int = 200,
    items: int = 150,
    seed: int = 0,
    console: Console | None = None,
) -> Summary:
    """Run the demonstration in this process, and its visitors in another, until the time is up or Ctrl-C.

    Parameters
    ----------
    seconds : float or None
        How long visitors come; None: until Ctrl-C.
    port : int
        On localhost; 0: any free one.
    rate : float
        Visits a second.
    shift_every : float or None
        Seconds between two shifts of taste; None: a minute, or half of a shorter demonstration.
    users, items : int
        Size of the population and of its catalogue.
    seed : int
        Of the population.
    console : Console or None
        Where to talk.

    Raises
    ------
    OSError
        When the port is taken.
    """
    console = console or Console()
    if shift_every is None:
        shift_every = SHIFT_EVERY if seconds is None else min(SHIFT_EVERY, seconds / 2)
    with bind("127.0.0.1", port) as listening, tempfile.TemporaryDirectory(prefix="freshet-demo-") as folder:
        runtime = open_runtime(demo_config(Path(folder)))
        address: tuple[str, int] = listening.getsockname()
        visitors = _Visitors(runtime, _Plan(address, rate, shift_every, users, items, seed))

        def stop() -> None:
            server.should_exit = True

        def arrived() -> None:
            if seconds is not None:
                end = threading.Timer(seconds, stop)
                end.daemon = True
                end.start()

        def started() -> None:
            console.print(f"Watch it learn: [bold]http://{address[0]}:{address[1]}/[/]  (Ctrl-C ends)")
            visitors.start(on_arrival=arrived, on_failure=stop)

        server = Server(create_app(runtime), listening, started, stopping=visitors.stop)
        server.run()
    if visitors.failure is not None:
        raise RuntimeError(f"the visitors' process failed: {visitors.failure}")
    summary = visitors.summary()
    console.print(_table(summary))
    return summary


@dataclass(frozen=True)
class _Plan:
    """What the visitors' process is told."""

    address: tuple[str, int]
    rate: float
    shift_every: float
    users: int
    items: int
    seed: int


@dataclass(frozen=True)
class _Second:
    """What visitors did in the second up to `time`: places shown and clicked by source."""

    time: float
    visits: int
    shown: dict[str, int]
    clicked: dict[str, int]


@dataclass(frozen=True)
class _Shift:
    """Tastes shifted."""

    time: float


@dataclass(frozen=True)
class _Failure:
    """The visitors' process came to grief."""

    problem: str


class _Visitors:
    """The visitors' process, seen from the service's."""

    def __init__(self, runtime: Runtime, plan: _Plan) -> None:
        self._monitor, self._plan = runtime.monitor, plan
        context = multiprocessing.get_context("spawn")
        self._ending: Flag = context.Event()
        self._reports, self._child = context.Pipe(duplex=False)
        self._process = context.Process(target=_visit, args=(plan, self._child, self._ending), daemon=True)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._seconds: deque[_Second] = deque(maxlen=24 * 3600)
        self._shifts: list[float] = []
        self._last: dict[str, Any] = {}
        self._on_arrival: Callable[[], None] = lambda: None
        self._on_failure: Callable[[], None] = lambda: None
        self.failure: str | None = None

    def start(self, on_arrival: Callable[[], None], on_failure: Callable[[], None]) -> None:
        self._on_arrival, self._on_failure = on_arrival, on_failure
        self._process.start()
        self._child.close()
        self._listener.start()

    def stop(self) -> None:
        """Send the visitors home; the last numbers are those of this moment."""
        self._ending.set()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
        self._listener.join(PATIENCE)

    def summary(self) -> Summary:
        seconds, shifts, last = list(self._seconds), self._shifts, self._last
        end = seconds[-1].time if seconds else 0.0
        span = min(LONGEST_PHASE, self._plan.shift_every / 2)
        phases = {"before the last shift": shifts[-1], "right after it": shifts[-1] + span} if shifts else {}
        return Summary(
            seconds=end - seconds[0].time if seconds else 0.0,
            visits=sum(second.visits for second in seconds),
            clicks=sum(sum(second.clicked.values()) for second in seconds),
            shifts=len(shifts),
            learned=last.get("events", 0),
            click_through={
                phase: _click_through([second for second in seconds if until - span < second.time <= until])
                for phase, until in (phases | {"at the end": end}).items()
            },
            auc={name: quality["auc"] for name, quality in last.get("learners", {}).items()},
            freshness=last.get("freshness", {}),
            latency=last.get("latency", {}),
        )

    def _listen(self) -> None:
        while True:
            try:
                told = self._reports.recv()
            except EOFError:
                break
            if isinstance(told, _Second):
                if not self._seconds:
                    self._on_arrival()
                self._seconds.append(told)
                self._last = self._monitor.snapshot()
            elif isinstance(told, _Shift):
                self._shifts.append(told.time)
                self._monitor.mark("tastes shifted")
            else:
                self.failure = told.problem
        if not self._ending.is_set():
            self.failure = self.failure or "it ended without a word"
            self._on_failure()


def _click_through(seconds: Sequence[_Second]) -> dict[str, float]:
    sources = sorted({source for second in seconds for source in second.shown})
    shown = {source: sum(second.shown.get(source, 0) for second in seconds) for source in sources}
    return {source: sum(second.clicked.get(source, 0) for second in seconds) / max(shown[source], 1) for source in sources}


def _visit(plan: _Plan, reports: Connection, ending: Flag) -> None:
    """Be the visitors until the flag is set; the main function of their process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _come_and_go(plan, reports, ending)
    except Exception as error:
        reports.send(_Failure(f"{type(error).__name__}: {error}"))
    finally:
        reports.close()


def _come_and_go(plan: _Plan, reports: Connection, ending: Flag) -> None:
    people = Population(users=plan.users, items=plan.items, seed=plan.seed, places=PLACES)
    service = _Client(plan.address)
    service.post("/v1/events", [*people.catalogue(), *people.profiles()])
    due = time.monotonic()
    second_ends, next_shift = due + 1.0, due + plan.shift_every
    visits, shown, clicked = 0, Counter[str](), Counter[str]()
    while not ending.is_set():
        user, context = people.visit()
        request = {"user": user, "context": context, "n": PLACES, "candidates": plan.items, "repeat": True}
        if _in_control_group(user):
            request["by"] = "popularity"
        ranking = service.post("/v1/recommend", request)
        places = [place["item"] for place in ranking["items"]]
        clicks = people.react(user, ranking["request_id"], places, time.time())
        if clicks:
            service.post("/v1/events", clicks)
        source = ranking["source"]
        visits += 1
        shown[source] += len(places)
        clicked[source] += len(clicks)
        now = time.monotonic()
        if now >= second_ends:
            reports.send(_Second(time.time(), visits, shown, clicked))
            visits, shown, clicked = 0, Counter(), Counter()
            second_ends = now + 1.0
        if now >= next_shift:
            people.shift()
            reports.send(_Shift(time.time()))
            next_shift = now + plan.shift_every
        # Whoever was late does not make up for it: this is a crowd, not a benchmark.
        due = max(due + 1.0 / plan.rate, now)
        ending.wait(due - now)


def _in_control_group(user: str) -> bool:
    return xxhash.xxh3_64_intdigest(f"control {user}".encode()) % 2 == 0


class _Client:
    """One kept-alive connection to the service."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=30.0)

    def post(self, path: str, body: Any) -> Any:
        self._connection.request("POST", path, msgspec.json.encode(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status not in (200, 202):
            raise RuntimeError(f"{path} was answered {answer.status}: {data.decode(errors='replace'):.500}")
        return msgspec.json.decode(data)


def _table(summary: Summary) -> Table:
    table = Table(title=f"{summary.visits} visits in {summary.seconds:.0f} s, tastes shifted {summary.shifts} times")
    sources = list(next(iter(summary.click_through.values()), {}))
    table.add_column("click-through")
    for source in sources:
        table.add_column(source, justify="right")
    for phase, rates in summary.click_through.items():
        table.add_row(phase, *(f"{100 * rates[source]:.1f} %" if source in rates else "" for source in sources))
    table.add_section()

    def times(quantiles: dict[str, float | None]) -> str:
        return " / ".join("-" if (value := quantiles.get(name)) is None else f"{1000 * value:.1f}" for name in ("p50", "p99"))

    for name, text in (
        ("rows learned", f"{summary.learned}"),
        ("AUC of " + ", ".join(summary.auc), ", ".join("-" if auc is None else f"{auc:.3f}" for auc in summary.auc.values())),
        ("event to score, p50 / p99 ms", times(summary.freshness)),
        ("request, p50 / p99 ms", times(summary.latency)),
    ):
        table.add_row(name, text)
    return table
