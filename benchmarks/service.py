"""Starts services and builds their requests, for the benchmarks over HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import stream
from benchmarks.client import FINE, call, http

__all__ = [
    "cpu_seconds",
    "events",
    "fine",
    "interactions",
    "prepare",
    "quantiles",
    "rankings",
    "running",
    "settle",
    "until",
]

PATIENCE = 120.0
"""Seconds after which a service without the expected answer counts as stuck."""


@contextmanager
def running(folder: Path, config: Path, *command: str, core: int | None = None) -> Iterator[tuple[str, int]]:
    """Run a serving ``freshet`` command on a free port; yield its address and process id.

    Parameters
    ----------
    folder : Path
        Folder for its output.
    config : Path
    *command : str
        ``serve``, ``serve --replica``, ``train``.
    core : int or None
        Core to pin the process to.
    """
    line = [sys.executable, "-c", "from service.cli import main; main()", *command, "--config", str(config), "--port", "0"]
    output = folder / f"output-{time.monotonic_ns()}"
    with output.open("wb") as file:
        process = subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[1])
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        limit = time.monotonic() + PATIENCE
        while (found := re.search(r"(?:serving|training) on (http://[\w.:\[\]]+)", output.read_text())) is None:
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"the service did not start: {output.read_text()}")
            time.sleep(0.1)
        yield found[1], process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def rankings(
    address: str,
    clicks: stream.Clicks,
    options: Namespace,
    rng: np.random.Generator,
    *,
    log: bool = True,
    shown: int | None = None,
) -> list[bytes]:
    """Build requests to rank `options.candidates` of `options.items` items."""
    requests = []
    for _ in range(500):
        document = {
            "user": f"u{rng.choice(clicks.user)}",
            "items": [f"i{item}" for item in rng.choice(options.items, options.candidates, replace=False)],
            "context": {"ctx": f"c{rng.integers(stream.CONTEXT)}"},
            "log": log,
        }
        document |= {"n": shown} if shown else {}
        requests.append(http("POST", address, "/v1/rank", json.dumps(document).encode()))
    return requests


def interactions(clicks: stream.Clicks, count: int, tag: str) -> list[dict[str, Any]]:
    """Make interactions from the rows of the stream, with ids that begin with `tag`."""
    columns = [getattr(clicks, name)[:count].tolist() for name in ("user", "item", "ctx", "label")]
    rows = islice(cycle(zip(*columns, strict=True)), count)
    return [
        {"type": "interaction", "id": f"{tag}-{n}", "user": f"u{u}", "item": f"i{i}", "value": y, "context": {"ctx": f"c{x}"}}
        for n, (u, i, x, y) in enumerate(rows)
    ]


def events(address: str, posted: list[dict[str, Any]], size: int) -> list[bytes]:
    """Build requests that post `size` events each."""
    bodies = (json.dumps(posted[at : at + size]).encode() for at in range(0, len(posted), size))
    return [http("POST", address, "/v1/events", body) for body in bodies]


def prepare(address: str, clicks: stream.Clicks, warming: list[bytes]) -> None:
    """Load users and items, and run everything once, so that compilation on first use is not measured."""
    sides = {f"u{u}": s for u, s in zip(clicks.user.tolist(), clicks.useg.tolist(), strict=True)}
    kinds = {f"i{i}": k for i, k in zip(clicks.item.tolist(), clicks.icat.tolist(), strict=True)}
    updates: list[dict[str, Any]] = [
        *({"type": "user", "user": user, "attributes": {"useg": f"s{side}"}} for user, side in sides.items()),
        *({"type": "item", "item": item, "attributes": {"icat": f"k{kind}"}} for item, kind in kinds.items()),
    ]
    until(address, "/readyz", lambda body: True)
    for request in [*events(address, updates, 500), *warming]:
        fine(call(address, request))


def fine(answer: tuple[int, bytes]) -> bytes:
    """Return the body of a successful answer; raise RuntimeError for any other."""
    status, body = answer
    if status not in FINE:
        raise RuntimeError(f"status {status}: {body.decode(errors='replace')[:500]}")
    return body


def until(address: str, path: str, good: Callable[[bytes], bool]) -> bytes:
    """Repeat the request until `good` accepts the body; return the body."""
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            status, body = call(address, http("GET", address, path))
            if status == 200 and good(body):
                return body
        except OSError:
            pass
        if time.monotonic() > limit:
            raise RuntimeError(f"{path}: no expected answer within {PATIENCE:.0f} s")
        time.sleep(0.05)


def settle(address: str) -> float:
    """Wait until everything in the log is learned; return the seconds waited."""
    start = time.monotonic()
    until(address, "/v1/status", _caught_up)
    waited = time.monotonic() - start
    time.sleep(0.2)  # a tick closes the open batch, which is then learned
    until(address, "/v1/status", _caught_up)
    return waited


def _caught_up(body: bytes) -> bool:
    return bool(json.loads(body)["lag"] == 0)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far; 0 on systems without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return the count, and quantiles in milliseconds."""
    if not seconds:
        return {"count": 0}
    names = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms")
    found = 1000 * np.quantile(seconds, [0.5, 0.9, 0.99, 0.999, 1.0])
    return {"count": len(seconds), **dict(zip(names, found.tolist(), strict=True))}
