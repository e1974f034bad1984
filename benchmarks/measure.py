"""Shared code of the benchmarks: costs in interleaved rounds, facts about the machine, tables, and one line of JSON.

On a shared machine, rates change by a factor of two within minutes. So every contender runs once per round, the best round is
reported, ratios are taken within a round, and CPU time is shown beside wall time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

__all__ = [
    "Cost",
    "Costs",
    "best",
    "finish",
    "installed",
    "interleave",
    "machine",
    "parser",
    "pin",
    "ratio",
    "stopwatch",
    "table",
]

PACKAGES = ("numpy", "numba", "pyarrow", "river", "vowpalwabbit", "uvicorn", "uvloop", "msgspec", "kafka-python", "crc32c")

err = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of some rows in seconds of wall and of CPU time (all threads, user and system)."""

    rows: int
    wall: float
    cpu: float

    def without(self, other: Cost) -> Cost:
        """Subtract another cost, such as that of starting up."""
        return Cost(self.rows, max(self.wall - other.wall, 1e-9), max(self.cpu - other.cpu, 1e-9))


Costs = Mapping[str, Sequence[Cost]]


class _Watch:
    cost: Cost


@contextmanager
def stopwatch(rows: int) -> Iterator[_Watch]:
    """Measure a block of this process; ``cost`` is set when the block ends."""
    watch = _Watch()
    wall, cpu = time.perf_counter(), time.process_time()
    yield watch
    watch.cost = Cost(rows, time.perf_counter() - wall, time.process_time() - cpu)


def interleave(contenders: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, list[Cost]]:
    """Run every contender once in each round; return the costs by contender and round."""
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, run in contenders.items():
            with err.status(f"round {turn + 1} of {rounds}: {name}"):
                costs[name].append(run())
    return costs


def best(costs: Sequence[Cost]) -> dict[str, float]:
    """Return the best rates: rows per second of CPU and of wall time."""
    return {
        "rows_per_cpu_second": max(cost.rows / cost.cpu for cost in costs),
        "rows_per_second": max(cost.rows / cost.wall for cost in costs),
    }


def ratio(costs: Costs, one: str, other: str) -> dict[str, float]:
    """Rows per CPU second of `one` divided by those of `other`: of the best rounds, and low, median and high within rounds."""
    each = [(a.rows / a.cpu) / (b.rows / b.cpu) for a, b in zip(costs[one], costs[other], strict=True)]
    of_best = best(costs[one])["rows_per_cpu_second"] / best(costs[other])["rows_per_cpu_second"]
    return {"best": of_best, "low": min(each), "median": statistics.median(each), "high": max(each)}


def parser(description: str | None) -> ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    made = ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--rounds", type=int, default=3, help="interleaved rounds; the best one counts (default: %(default)s)")
    made.add_argument(
        "--pin", type=int, metavar="CORE", help="run on this core, with child processes (serving: only the service)"
    )
    made.add_argument("--no-peers", action="store_true", help="skip river and vowpalwabbit")
    return made


def pin(options: Namespace) -> None:
    """Pin this process to the core of ``--pin``, if given."""
    if options.pin is not None:
        os.sched_setaffinity(0, {options.pin})


def installed(module: str, options: Namespace) -> bool:
    """Whether a peer is installed and ``--no-peers`` is not given."""
    return not options.no_peers and importlib.util.find_spec(module) is not None


def machine() -> dict[str, Any]:
    """Describe this machine, its load and its current speed."""
    start = time.process_time()
    x = 0
    for i in range(1_000_000):
        x += i
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": [round(load, 2) for load in os.getloadavg()],
        "million_additions_ms": round(1000 * (time.process_time() - start), 1),
    }


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table whose first column is text and whose other columns are numbers."""
    shown = Table(title=title, title_justify="left")
    for n, column in enumerate(columns):
        shown.add_column(column, justify="right" if n else "left")
    for row in rows:
        shown.add_row(*(_text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 132).print(shown)


def finish(name: str, options: Namespace, before: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Print everything as one line of JSON."""
    document = {
        "benchmark": name,
        "machine": {**before, "load_after": machine()["load"]},
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in PACKAGES if _is_there(package)},
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "metrics": metrics,
    }
    print(json.dumps(document, default=_plain, allow_nan=False), flush=True)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is not JSON")


def _text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"


def _is_there(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
