"""Time from an event posted at one replica to its effect on the scores of another, open loop, and ranking latency meanwhile.

A broker, ``freshet train`` and two ``freshet serve --replica`` run as separate processes; this process is their client. Events
go to the first replica at a steady rate. Some of them are first clicks on new items (probes). The second replica is polled for
the popularity scores of the probes: the first score above that of an unclicked item shows that the event has passed log, join,
learner, weights log and replica.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure, service, stream
from benchmarks.client import Answer, Plan, arrivals, call, drive, http
from benchmarks.kafka_ingest import broker

__all__ = ["main"]

HORIZON = 5.0
"""Seconds after its post during which a probe is polled."""

LEARNED = re.compile(r"^freshet_learned_rows_total (\S+)", re.MULTILINE)
NEVER = "never clicked"

CONFIG = """
[stream]
url = "kafka://{servers}/{events}"
options = {{ fetch_max_wait_ms = {fetch_wait} }}
[weights]
url = "kafka://{servers}/{weights}"
every = {every}
options = {{ fetch_max_wait_ms = {fetch_wait} }}
[features]
user = {{ id = "category", useg = "category" }}
item = {{ id = "category", icat = "category" }}
context = {{ ctx = "category" }}
[reward]
click = 1.0
[checkpoint]
folder = "{folder}/state"
[retrievers.popularity]
[ranker.{ranker}]
factors = {factors}
"""


class Running(NamedTuple):
    """Addresses and process ids."""

    trainer: tuple[str, int]
    posted_to: tuple[str, int]
    watched: tuple[str, int]


class Probe(NamedTuple):
    """An event whose effect is measured: its item, the number of its request, and its planned time in seconds of the run."""

    item: str
    number: int
    at: float


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds per round (default: %(default)s)")
    parser.add_argument("--events", type=float, default=1000.0, help="events posted a second (default: %(default)s)")
    parser.add_argument("--post", type=int, default=10, help="events in one request (default: %(default)s)")
    parser.add_argument("--probes", type=float, default=10.0, help="probes a second among the events (default: %(default)s)")
    parser.add_argument("--polls", type=float, default=100.0, help="polls a second (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="rankings a second (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=100, help="candidates of each ranking (default: %(default)s)")
    parser.add_argument("--floor-rate", type=float, default=50.0, help="requests of /healthz a second (default: %(default)s)")
    parser.add_argument("--arrivals", choices=("poisson", "uniform"), default="poisson")
    parser.add_argument("--partitions", type=int, default=4, help="partitions of the events topic (default: %(default)s)")
    parser.add_argument("--every", type=float, default=0.1, help="seconds between changes of weights (default: %(default)s)")
    parser.add_argument("--fetch-wait", type=int, default=10, help="fetch_max_wait_ms of the consumers (default: %(default)s)")
    parser.add_argument("--ranker", default="fm", help="fm, fm_mixture, deep or dsl (default: %(default)s)")
    parser.add_argument("--factors", type=int, default=32)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1000)
    options = parser.parse_args(arguments)
    before = measure.machine()
    rng = np.random.default_rng(1)
    clicks = stream.make(50_000, users=options.users, items=options.items)
    rounds = []
    for turn in range(options.rounds):
        measure.err.print(f"round {turn + 1} of {options.rounds}")
        # New processes each round: the broker of the tests gets slower as a topic grows.
        with _services(options) as there:
            _prepare(there, clicks, options, rng)
            rounds.append(_round(there, clicks, options, rng, turn))
    metrics = _summary(rounds)
    _show(metrics, options)
    measure.finish("replica_freshness", options, before, metrics)
    if problems := metrics["problems"]:
        sys.exit("; ".join(problems))


@contextmanager
def _services(options: Namespace) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as name, broker() as kafka, ExitStack() as started:
        folder, config = Path(name), Path(name) / "service.toml"
        names = {
            "servers": kafka.servers,
            "events": kafka.topic(options.partitions),
            "weights": kafka.topic(1),
            "folder": folder,
        }
        config.write_text(CONFIG.format(**vars(options) | names))
        commands = (("train",), ("serve", "--replica"), ("serve", "--replica"))
        yield Running(*(started.enter_context(service.running(folder, config, *command)) for command in commands))


def _prepare(there: Running, clicks: stream.Clicks, options: Namespace, rng: np.random.Generator) -> None:
    """Load users and items, and run everything once, so that compilation on first use is not measured."""
    first, second = there.posted_to[0], there.watched[0]
    service.prepare(first, clicks, service.events(first, service.interactions(clicks, 1000, "warm"), options.post))
    service.until(second, "/readyz", lambda body: True)
    for request in service.rankings(second, clicks, options, rng, log=False)[:20]:
        service.fine(call(second, request))
    _settle(there)


def _settle(there: Running) -> None:
    """Wait until everything is learned and has reached the watched replica."""
    service.settle(there.trainer[0])
    status = json.loads(service.fine(call(there.trainer[0], http("GET", there.trainer[0], "/v1/status"))))
    service.until(there.watched[0], "/v1/status", lambda body: bool(json.loads(body)["version"] >= status["version"]))


def _round(there: Running, clicks: stream.Clicks, options: Namespace, rng: np.random.Generator, turn: int) -> dict[str, Any]:
    first, second = there.posted_to[0], there.watched[0]
    count = round(options.events * options.seconds / options.post)
    at = arrivals(count / options.seconds, options.seconds, options.arrivals, rng)
    posted = service.interactions(clicks, at.size * options.post, str(turn))
    probes = _probes(posted, at, options, turn)
    looks = np.arange(0.0, options.seconds + HORIZON, 1.0 / options.polls)
    plans = [
        Plan("events", at, service.events(first, posted, options.post), first, keep=True),
        Plan("look", looks, [_look(second, probes, when) for when in looks.tolist()], second, keep=True),
        Plan(
            "rank",
            arrivals(options.rate, options.seconds, options.arrivals, rng),
            service.rankings(second, clicks, options, rng),
            second,
        ),
        Plan(
            "floor",
            arrivals(options.floor_rate, options.seconds, options.arrivals, rng),
            [http("GET", second, "/healthz")],
            second,
        ),
    ]
    learned = _learned(there)
    spent = [service.cpu_seconds(pid) for _, pid in there]
    began = time.monotonic()
    outcomes = drive(first, plans)
    lasted = time.monotonic() - began
    spent = [service.cpu_seconds(pid) - earlier for (_, pid), earlier in zip(there, spent, strict=True)]
    _settle(there)
    return {
        **_seen(probes, outcomes["events"].answers, outcomes["look"].answers),
        "latency": {name: outcome.latency for name, outcome in outcomes.items()},
        "late": [late for outcome in outcomes.values() for late in outcome.late],
        "failures": {name: outcome.failures for name, outcome in outcomes.items()},
        "posted": len(outcomes["events"].latency) * options.post,
        "learned": _learned(there) - learned,
        "cpu_share": dict(zip(Running._fields, (cpu / lasted for cpu in spent), strict=True)),
    }


def _probes(posted: list[dict[str, Any]], at: Any, options: Namespace, turn: int) -> list[Probe]:
    """Turn some of the events into probes, at most one per request."""
    every = max(round(at.size / (options.probes * options.seconds)), 1)
    probes = [Probe(f"probe-{turn}-{number}", number, float(at[number])) for number in range(0, at.size, every)]
    for probe in probes:
        posted[probe.number * options.post] |= {"item": probe.item, "value": 1.0}
    return probes


def _look(address: str, probes: list[Probe], when: float) -> bytes:
    """Request for the scores of recent probes."""
    items = [probe.item for probe in probes if when - HORIZON < probe.at <= when]
    document = {"user": "watcher", "items": [*items, NEVER], "by": "popularity", "log": False}
    return http("POST", address, "/v1/rank", json.dumps(document).encode())


def _learned(there: Running) -> float:
    found = LEARNED.search(service.fine(call(there.trainer[0], http("GET", there.trainer[0], "/metrics"))).decode())
    return float(found[1]) if found else 0.0


def _seen(probes: list[Probe], posts: list[Answer], looks: list[Answer]) -> dict[str, Any]:
    """Find when each probe was first seen, and check the `version` and `lag` of each answer.

    An answer with a lag of L seconds claims to know all events that were appended at least L seconds before. A post is appended
    when it has been answered.
    """
    post = {answer.number: answer for answer in posts}
    shown: dict[str, float] = {}
    missing, gone_back, claims, lags = [], 0, [], []
    newest = (0.0, 0)
    known = {probe.item: post[probe.number] for probe in probes if probe.number in post}
    answers = [(look, json.loads(look.body)) for look in sorted(looks, key=lambda look: look.done)]
    for look, body in answers:
        lags.append(body["lag"])
        scores = {ranked["item"]: ranked["score"] for ranked in body["items"]}
        for item in scores.keys() & known.keys():
            if scores[item] > scores[NEVER]:
                shown.setdefault(item, look.done)
            else:
                gone_back += item in shown and shown[item] <= look.sent
                claims.append(look.sent - body["lag"] - known[item].done)
        gone_back += newest[0] <= look.sent and body["version"] < newest[1]
        newest = max(newest, (look.done, body["version"]), key=lambda one: one[1])
    missing = [item for item in known if item not in shown]
    broken = [claim for claim in claims if claim > 0]
    return {
        "event_to_score": [shown[item] - known[item].planned for item in shown],
        "missing": len(missing),
        "gone_back": int(gone_back),
        "lag": lags,
        "claims_broken": len(broken),
        "broken_by": max(broken, default=0.0),
    }


# ---- tables


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    def pooled(key: str) -> dict[str, float]:
        return service.quantiles([x for one in rounds for x in one[key]])

    names = list(rounds[0]["latency"])
    failures = {name: dict(sum((Counter(one["failures"][name]) for one in rounds), Counter[str]())) for name in names}
    posted, learned = sum(one["posted"] for one in rounds), sum(one["learned"] for one in rounds)
    counts = {key: sum(one[key] for one in rounds) for key in ("missing", "gone_back", "claims_broken")}
    broken_by = max(one["broken_by"] for one in rounds)
    problems = [f"{name} failed: {found}" for name, found in failures.items() if found]
    if posted != learned:
        problems.append(f"{posted} events were accepted and {learned:.0f} learned")
    if counts["missing"]:
        problems.append(f"{counts['missing']} probes had no effect within {HORIZON:g} s")
    if counts["gone_back"]:
        problems.append(f"{counts['gone_back']} answers had an older version than an earlier one")
    if counts["claims_broken"]:
        problems.append(f"{counts['claims_broken']} answers lacked an event older than their lag, by up to {broken_by:.3f} s")
    return {
        "event_to_score": pooled("event_to_score"),
        "event_to_score_p99_ms_by_round": [service.quantiles(one["event_to_score"]).get("p99_ms", 0.0) for one in rounds],
        "lag": pooled("lag"),
        "latency": {name: service.quantiles([x for one in rounds for x in one["latency"][name]]) for name in names},
        "client_late": pooled("late"),
        "failures": failures,
        "events": {"posted": posted, "learned": learned},
        **counts,
        "claims_broken_by_s": broken_by,
        "cpu_share": {role: sum(one["cpu_share"][role] for one in rounds) / len(rounds) for role in Running._fields},
        "problems": problems,
    }


def _show(metrics: dict[str, Any], options: Namespace) -> None:
    latency = metrics["latency"]
    rows = {
        "event to score, from the planned post": metrics["event_to_score"],
        "lag of the answers": metrics["lag"],
        "post of events": latency["events"],
        "ranking": latency["rank"],
        "/healthz": latency["floor"],
        "client late": metrics["client_late"],
    }
    measure.table(
        f"ms; {options.events:g} events/s through {options.partitions} partitions, changes every {options.every:g} s, "
        f"{options.rate:g} rankings/s of {options.candidates} at the watched replica",
        ["", "count", "p50", "p90", "p99", "p99.9", "max"],
        [[name, *found.values()] for name, found in rows.items()],
    )
    share = metrics["cpu_share"]
    measure.table(
        "Other metrics",
        ["", "value"],
        [
            ["events accepted", metrics["events"]["posted"]],
            ["rows learned", int(metrics["events"]["learned"])],
            *([f"CPU share, {role.replace('_', ' ')}", share[role]] for role in Running._fields),
        ],
    )


if __name__ == "__main__":
    main()
