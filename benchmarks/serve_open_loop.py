"""Latency of rankings, open loop: without learning, and while thousands of events a second are learned, in turns.

``freshet serve`` runs as a process of its own; this process is its clients. Beside the rankings, a few requests of an endpoint
that does nothing tell what the machine, the network stack and the web server alone cost in the same seconds.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, service, stream
from benchmarks.client import Plan, arrivals, call, drive, http

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
    parser.add_argument(
        "--reloop2", nargs="?", const="", help="with the error memory over the ranker, and these lines of its table"
    )
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1000)
    options = parser.parse_args(arguments)
    before = measure.machine()
    rng = np.random.default_rng(1)
    clicks = stream.make(50_000, users=options.users, items=options.items)
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as folder:
        config = Path(folder) / "serve.toml"
        rerankers = "" if options.reloop2 is None else f"[rerankers.reloop2]\n{options.reloop2}\n"
        config.write_text(CONFIG.format(folder=folder, **vars(options)) + rerankers)
        with service.running(Path(folder), config, "serve", core=options.pin) as (address, pid):
            rounds = _rounds(address, pid, clicks, options, rng)
    figures = _summary(rounds)
    _show(figures, options)
    measure.finish("serve_open_loop", options, before, figures)
    if problems := figures["problems"]:
        sys.exit("; ".join(problems))


def _rounds(
    address: str, pid: int, clicks: stream.Clicks, options: Namespace, rng: np.random.Generator
) -> list[dict[str, Any]]:
    rankings = service.rankings(address, clicks, options, rng, log=not options.no_log, shown=options.shown)
    warming = service.events(address, service.interactions(clicks, 20 * options.post, "warm"), options.post)
    service.prepare(address, clicks, [*warming, *rankings[:20]])
    service.settle(address)
    rounds = []
    for turn in range(options.rounds):
        for mode in MODES:
            measure.err.print(f"round {turn + 1} of {options.rounds}: {mode}")
            posts = []
            if mode == "learning":
                count = round(options.events / options.post * options.seconds) * options.post
                posts = service.events(address, service.interactions(clicks, count, str(turn)), options.post)
            rounds.append({"mode": mode, **_run(address, pid, rankings, posts, options, rng)})
    return rounds


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
    at_start, cpu = _metrics(address), service.cpu_seconds(pid)
    began = time.monotonic()
    outcomes = drive(address, plans)
    lasted, cpu = time.monotonic() - began, service.cpu_seconds(pid) - cpu
    behind = service.settle(address)
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
    text = service.fine(call(address, http("GET", address, "/metrics"))).decode()
    learned = LEARNED.search(text)
    return float(learned[1]) if learned else 0.0, [(float(bound), float(count)) for bound, count in FRESH.findall(text)]


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    modes = {}
    problems = []
    for mode in MODES:
        mine = [one for one in rounds if one["mode"] == mode]
        names = list(mine[0]["latency"])
        modes[mode] = {
            **{name: service.quantiles([x for one in mine for x in one["latency"][name]]) for name in names},
            "client_late": service.quantiles([x for one in mine for x in one["late"]]),
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
