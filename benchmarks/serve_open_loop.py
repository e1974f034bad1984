"""Latency of rankings, open loop: without learning and while thousands of events a second are learned, in turns.

``freshet serve`` runs as a separate process; this process is its client. A few requests to an endpoint that does nothing
measure the machine, the network stack and the web server alone in the same seconds.

With ``--reloop2`` a second service has ReLoop2 over its ranker; the two services take turns.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, service, stream
from benchmarks.client import Plan, arrivals, call, drive, http

__all__ = ["main"]

MODES = ("not learning", "learning")
RELOOP2 = ", reloop2"
FLOOR = "GET", "/healthz"
FRESH = re.compile(r'freshet_freshness_seconds_bucket\{le="([^"]+)"\} (\S+)')
LEARNED = re.compile(r"^freshet_learned_rows_total (\S+)", re.MULTILINE)

CONFIG = """
[stream]
url = "lmdb://{data}"
batch_rows = {batch_rows}
max_interaction_ids = {remembered}
[features]
user = {{ id = "category", useg = "category" }}
item = {{ id = "category", icat = "category" }}
context = {{ ctx = "category" }}
[reward]
click = 1.0
[checkpoint]
every = {checkpoint_every}
[retrievers]
[ranker.{ranker}]
factors = {factors}
"""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of each mode in each round (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=100.0, help="rankings a second (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=100, help="candidates of each ranking (default: %(default)s)")
    parser.add_argument("--shown", type=int, help="positions to fill (default: all candidates)")
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
    parser.add_argument("--ranker", default="fm", help="fm, fm_mixture, deep or dsl (default: %(default)s)")
    parser.add_argument("--factors", type=int, default=32)
    parser.add_argument("--reloop2", nargs="?", const="", help="also run ReLoop2 over the ranker, with these lines of config")
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1000)
    options = parser.parse_args(arguments)
    before = measure.machine()
    rng = np.random.default_rng(1)
    clicks = stream.make(50_000, users=options.users, items=options.items)
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as folder, ExitStack() as running:
        services = {}
        for name in ("", RELOOP2) if options.reloop2 is not None else ("",):
            config = Path(folder) / f"serve{name.strip(', ')}.toml"
            rerankers = f"[rerankers.reloop2]\n{options.reloop2}\n" if name else ""
            config.write_text(CONFIG.format(data=Path(folder) / f"data{name.strip(', ')}", **vars(options)) + rerankers)
            services[name] = running.enter_context(service.running(Path(folder), config, "serve", core=options.pin))
        rounds = _rounds(services, clicks, options, rng)
    metrics = _summary(rounds)
    _show(metrics, options)
    measure.finish("serve_open_loop", options, before, metrics)
    if problems := metrics["problems"]:
        sys.exit("; ".join(problems))


def _rounds(
    services: dict[str, tuple[str, int]], clicks: stream.Clicks, options: Namespace, rng: np.random.Generator
) -> list[dict[str, Any]]:
    asked = {}
    for name, (address, _) in services.items():
        rankings = service.rankings(address, clicks, options, rng, log=not options.no_log, shown=options.shown)
        warming = service.events(address, service.interactions(clicks, 20 * options.post, "warm"), options.post)
        service.prepare(address, clicks, [*warming, *rankings[:20]])
        service.settle(address)
        asked[name] = rankings
    rounds = []
    for turn in range(options.rounds):
        for mode in MODES:
            for name, (address, pid) in services.items():
                measure.err.print(f"round {turn + 1} of {options.rounds}: {mode}{name}")
                posts = []
                if mode == "learning":
                    count = round(options.events / options.post * options.seconds) * options.post
                    posts = service.events(address, service.interactions(clicks, count, str(turn)), options.post)
                rounds.append({"mode": mode + name, **_run(address, pid, asked[name], posts, options, rng)})
    return rounds


def _run(
    address: str, pid: int, rankings: list[bytes], posts: list[bytes], options: Namespace, rng: np.random.Generator
) -> dict[str, Any]:
    """Send rankings for `--seconds`, and all `posts` if there are any."""

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
    modes: dict[str, dict[str, Any]] = {}
    problems = []
    by_mode: dict[str, list[dict[str, Any]]] = {}
    for one in rounds:
        by_mode.setdefault(one["mode"], []).append(one)
    for mode, mine in by_mode.items():
        names = list(mine[0]["latency"])
        modes[mode] = {
            **{name: service.quantiles([x for one in mine for x in one["latency"][name]]) for name in names},
            "client_late": service.quantiles([x for one in mine for x in one["late"]]),
            "failures": {name: _added([one["failures"][name] for one in mine]) for name in names},
            "server_cpu_share": sum(one["cpu_share"] for one in mine) / len(mine),
        }
        failed = {name: found for name, found in modes[mode]["failures"].items() if found}
        problems += [f"{mode}: {name} failed: {found}" for name, found in failed.items()]
        posted, learned = sum(one["posted"] for one in mine), sum(one["learned"] for one in mine)
        if posted:
            modes[mode]["learned"] = {
                "rows": posted,
                "seconds_behind_at_the_end": max(one["seconds_behind_at_the_end"] for one in mine),
                "freshness_ms": _freshness([one["fresh"] for one in mine]),
            }
        if posted != learned:
            problems.append(f"{mode}: {posted} events were accepted and {learned:.0f} learned")
    quiet, busy = MODES
    pairs = [(busy, quiet)] + [(mode + RELOOP2, mode) for mode in MODES if mode + RELOOP2 in modes]
    ratios: dict[str, Any] = {}
    for mode, base in pairs:
        ratios[f"p99 {mode} / {base}"] = modes[mode]["rank"]["p99_ms"] / modes[base]["rank"]["p99_ms"]
        ratios[f"p99 {mode} / {base}, by round"] = [
            float(np.quantile(a["latency"]["rank"], 0.99) / np.quantile(b["latency"]["rank"], 0.99))
            for a, b in zip(by_mode[mode], by_mode[base], strict=True)
        ]
    for mode in modes:
        ratios[f"p99 rank / floor, {mode}"] = modes[mode]["rank"]["p99_ms"] / modes[mode]["floor"]["p99_ms"]
    return {"modes": modes, "ratios": ratios, "problems": problems}


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


def _show(metrics: dict[str, Any], options: Namespace) -> None:
    rows = [
        [f"{mode}: {name}", *found[name].values(), sum(found["failures"].get(name, {}).values())]
        for mode, found in metrics["modes"].items()
        for name in ("rank", "floor", "events", "client_late")
        if name in found
    ]
    measure.table(
        f"Latency in ms from the planned arrival: {options.rate:g} rankings/s of {options.candidates}, {options.arrivals}; "
        f"learning {options.events:g} events/s",
        ["", "requests", "p50", "p90", "p99", "p99.9", "max", "failures"],
        rows,
    )
    rows = []
    for mode, found in metrics["modes"].items():
        rows.append([f"{mode}: server's CPU share", found["server_cpu_share"]])
        if "learned" in found:
            fresh = found["learned"]["freshness_ms"]
            rows.append([f"{mode}: rows learned", found["learned"]["rows"]])
            rows.append([f"{mode}: seconds behind at the end", found["learned"]["seconds_behind_at_the_end"]])
            rows.append([f"{mode}: event to score, p50 ms", fresh["p50"]])
            rows.append([f"{mode}: event to score, p99 ms", fresh["p99"]])
    rows += [[name, value] for name, value in metrics["ratios"].items() if not isinstance(value, list)]
    measure.table("Other metrics", ["", "value"], rows)


if __name__ == "__main__":
    main()
