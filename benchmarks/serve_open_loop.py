"""Latency of rankings, open loop: without learning, and while thousands of events a second are learned, in turns.

``freshet serve`` runs as a process of its own; this process is its clients. Beside the rankings, a few requests of an endpoint
that does nothing tell what the machine, the network stack and the web server alone cost in the same seconds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, stream
from benchmarks.client import FINE, Plan, arrivals, call, drive, http

__all__ = ["main"]

MODES = ("not learning", "learning")
FLOOR = "GET", "/healthz"
FRESH = re.compile(r'freshet_freshness_seconds_bucket\{le="([^"]+)"\} (\S+)')
LEARNED = re.compile(r"^freshet_learned_rows_total (\S+)", re.MULTILINE)

CONFIG = """
[stream]
url = "lmdb://{folder}/data"
batch_rows = {batch_rows}
remembered = {remembered}
[features]
user = {{ id = "category", useg = "category" }}
item = {{ id = "category", icat = "category" }}
context = {{ ctx = "category" }}
[reward]
click = 1.0
[checkpoint]
every = {checkpoint_every}
[retrievers]
[ranker.fm]
factors = {factors}
"""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each mode in each round (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=100.0, help="rankings a second (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=100, help="of each ranking (default: %(default)s)")
    parser.add_argument("--shown", type=int, help="places filled; without it, all candidates")
    parser.add_argument("--no-log", action="store_true", help="do not log impressions")
    parser.add_argument("--events", type=float, default=5000.0, help="events learned a second (default: %(default)s)")
    parser.add_argument("--post", type=int, default=50, help="events in one request (default: %(default)s)")
    parser.add_argument("--floor-rate", type=float, default=50.0, help="requests of /healthz a second (default: %(default)s)")
    parser.add_argument("--arrivals", choices=("poisson", "uniform"), default="poisson")
    parser.add_argument("--batch-rows", type=int, default=64, help="rows of a micro-batch (default: %(default)s)")
    parser.add_argument(
        "--remembered", type=int, default=1_000_000, help="ids that the joiner remembers (default: %(default)s)"
    )
    parser.add_argument("--checkpoint-every", type=float, default=30.0, help="seconds (default: %(default)s)")
    parser.add_argument("--factors", type=int, default=32)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1000)
    options = parser.parse_args(arguments)
    before = measure.machine()
    rng = np.random.default_rng(1)
    clicks = stream.make(50_000, users=options.users, items=options.items)
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as folder, _service(Path(folder), options) as (address, pid):
        rankings = _rankings(address, clicks, options, rng)
        _prepare(address, clicks, [*_posts(address, clicks, options.post, 20, "warm"), *rankings[:20]])
        rounds = []
        for turn in range(options.rounds):
            for mode in MODES:
                measure.err.print(f"round {turn + 1} of {options.rounds}: {mode}")
                posts = []
                if mode == "learning":
                    count = round(options.events / options.post * options.seconds)
                    posts = _posts(address, clicks, options.post, count, str(turn))
                rounds.append({"mode": mode, **_run(address, pid, rankings, posts, options, rng)})
    figures = _summary(rounds)
    _show(figures, options)
    measure.finish("serve_open_loop", options, before, figures)
    if problems := figures["problems"]:
        sys.exit("; ".join(problems))


@contextmanager
def _service(folder: Path, options: Namespace) -> Iterator[tuple[str, int]]:
    """The service on a free port, with its address and process id."""
    config = folder / "serve.toml"
    config.write_text(CONFIG.format(folder=folder, **vars(options)))
    command = [sys.executable, "-c", "from service.cli import main; main()", "serve", "--config", str(config), "--port", "0"]
    said = folder / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[1])
    try:
        if options.pin is not None:
            os.sched_setaffinity(process.pid, {options.pin})
        until = time.monotonic() + 120
        while (found := re.search(r"serving on (http://[\w.:\[\]]+)", said.read_text())) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the service did not start: {said.read_text()}")
            time.sleep(0.1)
        yield found[1], process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _rankings(address: str, clicks: stream.Clicks, options: Namespace, rng: np.random.Generator) -> list[bytes]:
    requests = []
    for _ in range(500):
        document = {
            "user": f"u{rng.choice(clicks.user)}",
            "items": [f"i{item}" for item in rng.choice(options.items, options.candidates, replace=False)],
            "context": {"ctx": f"c{rng.integers(stream.CONTEXT)}"},
            "log": not options.no_log,
        }
        document |= {"n": options.shown} if options.shown else {}
        requests.append(http("POST", address, "/v1/rank", json.dumps(document).encode()))
    return requests


def _posts(address: str, clicks: stream.Clicks, size: int, count: int, tag: str) -> list[bytes]:
    """Requests with `size` interactions each, whose ids begin with `tag`; rows of the stream in turn."""
    columns = [getattr(clicks, name)[: size * count].tolist() for name in ("user", "item", "ctx", "label")]
    rows = islice(cycle(zip(*columns, strict=True)), size * count)
    events = [
        {"type": "interaction", "id": f"{tag}-{n}", "user": f"u{u}", "item": f"i{i}", "value": y, "context": {"ctx": f"c{x}"}}
        for n, (u, i, x, y) in enumerate(rows)
    ]
    return [_events(address, events[at : at + size]) for at in range(0, len(events), size)]


def _events(address: str, events: list[dict[str, Any]]) -> bytes:
    return http("POST", address, "/v1/events", json.dumps(events).encode())


def _prepare(address: str, clicks: stream.Clicks, warming: list[bytes]) -> None:
    """Load users and items, and let everything run once: what is compiled on first use is not what is measured."""
    sides = {f"u{u}": s for u, s in zip(clicks.user.tolist(), clicks.useg.tolist(), strict=True)}
    kinds = {f"i{i}": k for i, k in zip(clicks.item.tolist(), clicks.icat.tolist(), strict=True)}
    updates: list[dict[str, Any]] = [
        *({"type": "user", "user": user, "attributes": {"useg": f"s{side}"}} for user, side in sides.items()),
        *({"type": "item", "item": item, "attributes": {"icat": f"k{kind}"}} for item, kind in kinds.items()),
    ]
    _wait(address, "/readyz", lambda body: True)
    for at in range(0, len(updates), 500):
        _fine(call(address, _events(address, updates[at : at + 500])))
    for request in warming:
        _fine(call(address, request))
    _settle(address)


def _fine(answer: tuple[int, bytes]) -> bytes:
    status, body = answer
    if status not in FINE:
        raise RuntimeError(f"status {status}: {body.decode(errors='replace')[:500]}")
    return body


def _wait(address: str, path: str, good: Any) -> bytes:
    until = time.monotonic() + 120
    while True:
        try:
            status, body = call(address, http("GET", address, path))
            if status == 200 and good(body):
                return body
        except OSError:
            pass
        if time.monotonic() > until:
            raise RuntimeError(f"{path}: not what was waited for within 120 s")
        time.sleep(0.05)


def _settle(address: str) -> float:
    """Wait until everything in the log is learned; seconds that it took."""
    start = time.monotonic()
    _wait(address, "/v1/status", lambda body: json.loads(body)["lag"] == 0)
    waited = time.monotonic() - start
    time.sleep(0.2)  # the open batch is closed by a tick, and that is learned
    _wait(address, "/v1/status", lambda body: json.loads(body)["lag"] == 0)
    return waited


def _run(
    address: str, pid: int, rankings: list[bytes], posts: list[bytes], options: Namespace, rng: np.random.Generator
) -> dict[str, Any]:
    """Some seconds of rankings, and of all `posts`, if there are any."""

    def times(rate: float) -> Any:
        return arrivals(rate, options.seconds, options.arrivals, rng)

    plans = [
        Plan("rank", times(options.rate), rankings),
        Plan("floor", times(options.floor_rate), [http(FLOOR[0], address, FLOOR[1])]),
    ]
    if posts:
        plans.append(Plan("events", times(len(posts) / options.seconds), posts))
    at_start, cpu = _metrics(address), _cpu_seconds(pid)
    began = time.monotonic()
    outcomes = drive(address, plans)
    lasted, cpu = time.monotonic() - began, _cpu_seconds(pid) - cpu
    behind = _settle(address)
    at_end = _metrics(address)
    posted = len(outcomes["events"].latency) * options.post if posts else 0
    assert len(json.loads(outcomes["rank"].bodies[0])["items"]) == (options.shown or options.candidates)
    return {
        "latency": {name: outcome.latency for name, outcome in outcomes.items()},
        "late": [late for outcome in outcomes.values() for late in outcome.late],
        "failures": {name: outcome.failures for name, outcome in outcomes.items()},
        "posted": posted,
        "learned": at_end[0] - at_start[0],
        "seconds_behind_at_the_end": behind,
        "fresh": [(bound, after - earlier) for (bound, after), (_, earlier) in zip(at_end[1], at_start[1], strict=True)],
        "cpu_share": cpu / lasted,
    }


def _metrics(address: str) -> tuple[float, list[tuple[float, float]]]:
    """Rows learned so far, and the cumulative histogram of freshness."""
    text = _fine(call(address, http("GET", address, "/metrics"))).decode()
    learned = LEARNED.search(text)
    return float(learned[1]) if learned else 0.0, [(float(bound), float(count)) for bound, count in FRESH.findall(text)]


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process so far; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    modes = {}
    problems = []
    for mode in MODES:
        mine = [one for one in rounds if one["mode"] == mode]
        names = list(mine[0]["latency"])
        modes[mode] = {
            **{name: _quantiles([x for one in mine for x in one["latency"][name]]) for name in names},
            "client_late": _quantiles([x for one in mine for x in one["late"]]),
            "failures": {name: _added([one["failures"][name] for one in mine]) for name in names},
            "server_cpu_share": sum(one["cpu_share"] for one in mine) / len(mine),
        }
        failed = {name: found for name, found in modes[mode]["failures"].items() if found}
        problems += [f"{mode}: {name} failed: {found}" for name, found in failed.items()]
    learning = [one for one in rounds if one["mode"] == "learning"]
    posted, learned = sum(one["posted"] for one in learning), sum(one["learned"] for one in learning)
    if posted != learned:
        problems.append(f"{posted} events were accepted and {learned:.0f} learned")
    ratios = [_ratio(a, b) for a, b in zip(rounds[::2], rounds[1::2], strict=True)]
    quiet, busy = modes["not learning"], modes["learning"]
    return {
        **modes,
        "events": {
            "posted": posted,
            "learned": learned,
            "seconds_behind_at_the_end": max(one["seconds_behind_at_the_end"] for one in learning),
        },
        "freshness_ms": _freshness([one["fresh"] for one in learning]),
        "ratios": {
            "p99 learning / not learning": busy["rank"]["p99_ms"] / quiet["rank"]["p99_ms"],
            "p99 learning / not learning, by round": ratios,
            "p99 rank / floor, not learning": quiet["rank"]["p99_ms"] / quiet["floor"]["p99_ms"],
            "p99 rank / floor, learning": busy["rank"]["p99_ms"] / busy["floor"]["p99_ms"],
        },
        "problems": problems,
    }


def _ratio(quiet: dict[str, Any], busy: dict[str, Any]) -> float:
    return float(np.quantile(busy["latency"]["rank"], 0.99) / np.quantile(quiet["latency"]["rank"], 0.99))


def _quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"count": 0}
    names = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms")
    found = 1000 * np.quantile(seconds, [0.5, 0.9, 0.99, 0.999, 1.0])
    return {"count": len(seconds), **dict(zip(names, found.tolist(), strict=True))}


def _added(counts: list[dict[str, int]]) -> dict[str, int]:
    return {why: sum(count.get(why, 0) for count in counts) for why in {why for count in counts for why in count}}


def _freshness(histograms: list[list[tuple[float, float]]]) -> dict[str, float]:
    """Quantiles in milliseconds of a cumulative histogram, linear inside a bucket."""
    bounds = [bound for bound, _ in histograms[0]]
    counts = np.sum([[count for _, count in histogram] for histogram in histograms], axis=0)
    found = {}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        at = int(np.searchsorted(counts, share * counts[-1]))
        low, below = (bounds[at - 1], counts[at - 1]) if at else (0.0, 0.0)
        high = bounds[at] if np.isfinite(bounds[at]) else 2 * low
        found[name] = 1000 * float(low + (high - low) * (share * counts[-1] - below) / max(counts[at] - below, 1.0))
    within = dict(zip(bounds, counts.tolist(), strict=True))
    return {**found, "share_within_100_ms": within.get(0.1, 0.0) / max(counts[-1], 1.0)}


def _show(figures: dict[str, Any], options: Namespace) -> None:
    rows = []
    for mode in MODES:
        for name in ("rank", "floor", "events", "client_late"):
            if name in figures[mode]:
                found = figures[mode][name]
                failures = sum(figures[mode]["failures"].get(name, {}).values())
                rows.append([f"{mode}: {name}", *found.values(), failures])
    measure.table(
        f"Latency in ms from the planned arrival: {options.rate:g} rankings/s of {options.candidates}, {options.arrivals}; "
        f"learning {options.events:g} events/s",
        ["", "requests", "p50", "p90", "p99", "p99.9", "max", "failures"],
        rows,
    )
    events, fresh, ratios = figures["events"], figures["freshness_ms"], figures["ratios"]
    measure.table(
        "While learning",
        ["", "value"],
        [
            ["events accepted", events["posted"]],
            ["rows learned", int(events["learned"])],
            ["seconds behind at the end", events["seconds_behind_at_the_end"]],
            ["event to score, p50 ms", fresh["p50"]],
            ["event to score, p99 ms", fresh["p99"]],
            *([f"server's CPU share, {mode}", figures[mode]["server_cpu_share"]] for mode in MODES),
            *([name, value] for name, value in ratios.items() if not isinstance(value, list)),
        ],
    )


if __name__ == "__main__":
    main()
