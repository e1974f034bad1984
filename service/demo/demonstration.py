"""Run the demonstration: a service on localhost, visitors whose tastes shift, and a summary of their clicks."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from service.config import Config, ConfigError, parse
from service.demo.clicks import control_lift
from service.demo.visitors import CONTROL, Plan, Visitors
from service.http.app import create_app
from service.http.server import Server, bind
from service.process.runtime import open_runtime
from service.process.warmup import warm_up

__all__ = ["Summary", "demo_config", "run_demo"]

SHIFT_EVERY = 60.0
"""Default seconds between two shifts of tastes."""


def demo_config(folder: Path) -> Config:
    """Config of the demonstration; ``examples/demo.toml`` is the same with comments."""
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
            "retrievers": {
                CONTROL: {"capacity": 5_000, "half_life": 60.0},
                "trending": {"capacity": 5_000},
                "click_rate": {"capacity": 5_000},
            },
            "ranker": {"fm": {"factors": 8, "bits": 16}},
            "rerankers": {"mixture": {}},
            "policy": {"epsilon_greedy": {"epsilon": 0.04}},
        },
        "demo",
    )


@dataclass(frozen=True)
class Summary:
    """Results of a demonstration.

    Attributes
    ----------
    seconds : float
        Seconds of visits.
    visits, clicks, shifts : int
    learned : int
        Rows learned.
    click_through : dict of phase to source to float
        Share of shown items that were clicked: before the last shift, right after it, and at the end.
    recoveries : list of float or None
        Seconds until click-through was near its value before each shift; None: not before the next shift or the end.
    freshness, latency : dict
        ``p50`` and ``p99`` of the event-to-score delay and of the request time in the last seconds, in seconds.
    """

    seconds: float
    visits: int
    clicks: int
    shifts: int
    learned: int
    click_through: dict[str, dict[str, float]]
    recoveries: list[float | None]
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
    config: Config | None = None,
) -> Summary:
    """Run the service in this process and the visitors in another one, until the time is up, Ctrl-C or SIGTERM.

    The visitors start when the service is ready. The first start compiles its functions, for up to a minute.

    Parameters
    ----------
    seconds : float or None
        Seconds of visits; None: until Ctrl-C.
    port : int
        Port on localhost; 0: any free port.
    rate : float
        Visits per second, if the machine is fast enough.
    shift_every : float or None
        Seconds between two shifts of tastes; None: a minute, or once in a shorter demonstration.
    users, items : int
        Number of users and of items.
    seed : int
        Seed of the population.
    console : Console or None
        Console for the output; None: standard output.
    config : Config or None
        Config of the service, with a log in a temporary folder instead of its own; None: `demo_config`.

    Raises
    ------
    ConfigError
        When the config has no retriever for the control group.
    OSError
        When the port is taken.
    RuntimeError
        When the visitors' process or the engine failed.
    """
    console = console or Console()
    if config is not None and CONTROL not in config.retrievers:
        raise ConfigError("retrievers", f"no {CONTROL}, whose rankings the control group gets; add [retrievers.{CONTROL}]")
    if shift_every is None:
        shift_every = SHIFT_EVERY if seconds is None else min(SHIFT_EVERY, 0.6 * seconds)
    ending, last_snapshot, server = threading.Event(), dict[str, Any](), None

    def stop(*_: object) -> None:
        ending.set()
        if server is not None:
            server.should_exit = True

    with (
        _signals(stop),
        bind("127.0.0.1", port) as listening,
        tempfile.TemporaryDirectory(prefix="freshet-demo-") as folder,
    ):
        if config is None:
            config = demo_config(Path(folder))
        else:
            config = config.model_copy(update={"stream": config.stream.model_copy(update={"url": f"lmdb://{folder}"})})
        runtime = open_runtime(config)
        address: tuple[str, int] = listening.getsockname()
        plan = Plan(address, Path(folder), rate, shift_every, users, items, seed)
        visitors = Visitors(plan, runtime.pipeline.ranker_name, lambda: runtime.monitor.mark("tastes shifted"))
        runtime.monitor.watch(visitors.gauges)
        runtime.engine.prepare, runtime.engine.on_failure = partial(warm_up, config), stop

        def visitors_arrived() -> None:
            if seconds is not None:
                end = threading.Timer(seconds, stop)
                end.daemon = True
                end.start()

        def started() -> None:
            console.print(f"Watch it learn: [bold]http://{address[0]}:{address[1]}/[/]  (Ctrl-C ends)")
            visitors.start(on_arrival=visitors_arrived, on_failure=stop)

        def stopping() -> None:
            last_snapshot.update(runtime.monitor.snapshot())
            visitors.stop()

        server = Server(create_app(runtime), listening, started, stopping)
        try:
            # A signal may have come while the models were built.
            server.should_exit = ending.is_set()
            server.run()
        finally:
            visitors.stop()
            runtime.stop()
    if visitors.failure is not None:
        raise RuntimeError(f"the visitors' process failed: {visitors.failure}")
    if runtime.engine.failure is not None:
        raise RuntimeError("the engine has stopped") from runtime.engine.failure
    summary = _summary(visitors, last_snapshot)
    console.print(_table(summary))
    return summary


@contextmanager
def _signals(stop: Callable[..., None]) -> Iterator[None]:
    """Handle SIGTERM and Ctrl-C with `stop`, also while the demonstration starts or ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(visitors: Visitors, last_snapshot: dict[str, Any]) -> Summary:
    shifts = visitors.shifts
    phases = {"before the last shift": shifts[-1], "right after it": shifts[-1] + visitors.phase} if shifts else {}
    return Summary(
        seconds=visitors.ended - visitors.began,
        visits=visitors.visits,
        clicks=visitors.clicks,
        shifts=len(shifts),
        learned=last_snapshot.get("events", 0),
        click_through={phase: visitors.click_through(at) for phase, at in (phases | {"at the end": visitors.ended}).items()},
        recoveries=visitors.recoveries(),
        freshness=last_snapshot.get("freshness", {}),
        latency=last_snapshot.get("latency", {}),
    )


def _table(summary: Summary) -> Table:
    table = Table(title=f"{summary.visits} visits in {summary.seconds:.0f} s, tastes shifted {summary.shifts} times")
    sources = list(summary.click_through["at the end"])
    table.add_column("click-through")
    for source in sources:
        table.add_column(source, justify="right")
    table.add_column(f"clicks vs. {CONTROL}", justify="right")
    for phase, rates in summary.click_through.items():
        lift = control_lift(rates, CONTROL)
        shares = (f"{100 * rates[source]:.1f} %" if source in rates else "" for source in sources)
        table.add_row(phase, *shares, "-" if lift is None else f"{100 * lift:+.0f} %")
    table.add_section()

    def times(quantiles: dict[str, float | None]) -> str:
        return " / ".join("-" if (value := quantiles.get(name)) is None else f"{1000 * value:.1f}" for name in ("p50", "p99"))

    for name, text in (
        ("rows learned", f"{summary.learned}"),
        (
            "recovered after",
            ", ".join("not yet" if time is None else f"{time:.0f} s" for time in summary.recoveries) or "-",
        ),
        ("event to score, p50 / p99 ms", times(summary.freshness)),
        ("request, p50 / p99 ms", times(summary.latency)),
    ):
        table.add_row(name, text)
    return table
