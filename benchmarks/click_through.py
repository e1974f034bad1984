"""Click-through of a served list and of single retrievers over HTTP, while tastes shift and items are replaced.

Each round starts a ``freshet serve`` process; this process simulates its visitors. Each visit gets one of the arms at random:
``served`` is the list as the config serves it, any other name that retriever's own order (``by``). So all arms serve the same
users at the same time and learn from all impressions: what one arm explores, the others know, too. With ``--apart`` each arm
has a service of its own in the same world, and learns only from what it showed itself. Tastes shift at half-time. At three
quarters a tenth of the catalogue is replaced by new items.
"""

from __future__ import annotations

import http.client
import json
import re
import tempfile
import time
import tomllib
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from benchmarks import measure, service
from streams.simulator import Population

__all__ = ["Visitors", "main"]

POSITIONS = 10
LEVEL = 0.95
BUSY = 503

SERVED = "served"
ARMS = ("diag_linucb", "popularity", "item_knn")
EXAMPLE = Path(__file__).parents[1] / "examples" / "diag_linucb.toml"
BASELINES = {"popularity": "[retrievers.popularity]\nhalf_life = 60.0\n", "item_knn": "[retrievers.item_knn]\n"}
"""Sections that are added where an arm needs them and the config does not have them."""

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=5)
    parser.add_argument("--visits", type=int, default=4800, help="visits per round, all arms (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=80.0, help="visits a second (default: %(default)s)")
    parser.add_argument(
        "--early", type=int, default=300, help="visits that count as right after the shift (default: %(default)s)"
    )
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round's world (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=EXAMPLE, help="default: examples/diag_linucb.toml")
    parser.add_argument(
        "--half-life", type=float, help="half-life of popularity in seconds (default: the config's; 60 where it has none)"
    )
    parser.add_argument(
        "--arms", nargs="+", default=ARMS, help=f"{SERVED!r} or retrievers; the others are compared with the first"
    )
    parser.add_argument("--apart", action="store_true", help="each arm has a service of its own, and all visits")
    parser.add_argument("--no-repeat", action="store_true", help="lists without what the user has touched")
    options = parser.parse_args(arguments)
    before = measure.machine()
    rounds = []
    for turn in range(options.rounds):
        with measure.err.status(f"round {turn + 1} of {options.rounds}"):
            rounds.append(_round(options, options.seed + turn))
    metrics = _summary(np.array(rounds), options)
    _show(metrics, options)
    measure.finish("click_through", options, before, metrics)


class Visitors:
    """A kept-alive connection that all visitors use, one after the other."""

    def __init__(self, address: str) -> None:
        where = urlsplit(address)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=service.PATIENCE)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def post(self, path: str, body: Any) -> Any:
        """Send a request and return the answer's document; a busy service is asked again."""
        limit = time.monotonic() + service.PATIENCE
        while True:
            self._connection.request("POST", path, msgspec.json.encode(body), {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            status, data = answer.status, answer.read()
            # Compiling on first use can take longer than the service lets a request wait.
            if status != BUSY or time.monotonic() > limit:
                return json.loads(service.fine((status, data)))


def _round(options: Namespace, seed: int) -> Values:
    """Run all visits of one world. Return arm and clicks per position, (visits, 2); each visit once per arm if `apart`."""
    arms = np.random.default_rng(seed).integers(0, len(options.arms), options.visits)
    if not options.apart:
        return np.column_stack([arms, _clicks(options, seed, arms)])
    each = [np.full(options.visits, arm) for arm in range(len(options.arms))]
    return np.stack([np.column_stack([arms, _clicks(options, seed, arms)]) for arms in each], axis=1).reshape(-1, 2)


def _clicks(options: Namespace, seed: int, arms: Ids) -> Values:
    """Clicks per position of each visit at a new service, (visits,)."""
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as name:
        folder, config = Path(name), Path(name) / "service.toml"
        config.write_text(_settings(options, folder))
        with service.running(folder, config, "serve") as (address, _):
            service.until(address, "/readyz", lambda body: True)
            with closing(Visitors(address)) as visitors:
                return _visits(visitors, options, seed, arms)


def _settings(options: Namespace, folder: Path) -> str:
    """The config with a log in `folder`, the retrievers that are arms, and popularity's half-life."""
    url = f'url = "lmdb://{folder / "log"}"'
    settings, found = re.subn(r'^url = "[^"]*"', url, options.config.read_text(), flags=re.MULTILINE)
    if found != 1:
        raise ValueError(f"{options.config} has {found} lines with a url; it needs exactly one, for the stream")
    for name in sorted(BASELINES.keys() & set(options.arms) - tomllib.loads(settings)["retrievers"].keys()):
        settings += f"\n{BASELINES[name]}"
    if options.half_life is None:
        return settings
    section = re.search(r"^\[retrievers\.popularity\].*\n((?!\[).*\n)*", settings, re.MULTILINE)
    if section is None:
        raise ValueError("--half-life: popularity is neither an arm nor a retriever of the config; leave it out")
    head, *rest = [line for line in section[0].splitlines() if not line.startswith("half_life")]
    changed = "\n".join([head, f"half_life = {options.half_life}", *rest])
    return f"{settings[: section.start()]}{changed}\n{settings[section.end() :]}"


def _visits(visitors: Visitors, options: Namespace, seed: int, arms: Ids) -> Values:
    people = Population(options.users, options.items, seed=seed, positions=POSITIONS)
    visitors.post("/v1/events", [*people.catalogue(), *people.profiles()])
    clicks = np.zeros(options.visits)
    due = time.monotonic()
    for n in range(options.visits):
        if n == options.visits // 2:
            people.shift()
        if n == options.visits * 3 // 4:
            visitors.post("/v1/events", people.replace(0.1))
        user, context = people.visit()
        request = {"user": user, "context": context, "n": POSITIONS, "repeat": not options.no_repeat}
        if options.arms[arms[n]] != SERVED:
            request["by"] = options.arms[arms[n]]
        ranking = visitors.post("/v1/recommend", request)
        shown = [ranked["item"] for ranked in ranking["items"]]
        clicked = people.react(user, ranking["request_id"], shown, time.time())
        if clicked:
            visitors.post("/v1/events", clicked)
        clicks[n] = len(clicked) / POSITIONS
        # A late visit is not caught up: half-lives count seconds, not visits.
        due = max(due + 1.0 / options.rate, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0.0))
    return clicks


def _summary(rounds: Values, options: Namespace) -> dict[str, Any]:
    """Rates of each phase, and of each `early` visits after the shift; the shift phase ends with the replacement.

    rounds: (rounds, visits, 2), or as many times the visits as there are arms.
    """
    each = len(options.arms) if options.apart else 1

    def rates(start: int, stop: int) -> dict[str, Any]:
        return _rates(rounds[:, start * each : stop * each], options.arms)

    half, late, end = options.visits // 2, options.visits * 3 // 4, options.visits
    first, second = (min(half + n * options.early, late) for n in (1, 2))
    phases = {
        "before": (half // 2, half),
        f"{options.early} after the shift": (half, first),
        f"the next {options.early}": (first, second),
        "until the replacement": (second, late),
        "all after the shift": (half, late),
        "all after the replacement": (late, end),
    }
    edges = [*range(half, end, options.early), end]
    return {
        "phases": {name: rates(*span) for name, span in phases.items() if span[0] < span[1]},
        "curve": [
            {"from": start - half, **{arm: one["mean"] for arm, one in rates(start, stop)["clicks"].items()}}
            for start, stop in pairwise(edges)
        ],
    }


def _rates(visits: Values, arms: Sequence[str]) -> dict[str, Any]:
    """Clicks per position of each arm, the lead of the first over the others, and its ratio to them; visits: (rounds, n, 2).

    The ratio is that of the means over all rounds.
    """
    each = np.array([[_mean(one[one[:, 0] == arm, 1]) for arm in range(len(arms))] for one in visits])
    means = each.mean(axis=0)
    return {
        "clicks": {arm: _interval(each[:, n]) for n, arm in enumerate(arms)},
        "ahead": {arm: _interval(each[:, 0] - each[:, n]) for n, arm in enumerate(arms) if n},
        "ratio": {arm: float(means[0] / means[n]) for n, arm in enumerate(arms) if n and means[n]},
    }


def _mean(clicks: Values) -> float:
    return float(clicks.mean()) if clicks.size else 0.0


def _interval(each: Values) -> dict[str, float]:
    """Mean over rounds, and half the width of its Student interval; each round is a different world."""
    if each.size < 2:
        return {"mean": float(each.mean())}
    error = float(each.std(ddof=1)) / each.size**0.5
    return {"mean": float(each.mean()), "within": float(student.ppf((1 + LEVEL) / 2, each.size - 1)) * error}


def _show(metrics: dict[str, Any], options: Namespace) -> None:
    arms = options.arms

    def cell(one: dict[str, float]) -> str:
        return f"{one['mean']:.3f}" + (f" ± {one['within']:.3f}" if "within" in one else "")

    measure.table(
        f"Clicks per position, {LEVEL:.0%} intervals, {options.rounds} worlds of {options.visits} visits, {options.rate:g}/s",
        ["", *arms, *(f"ahead of {arm}" for arm in arms[1:]), *(f"/ {arm}" for arm in arms[1:])],
        [
            [
                name,
                *(cell(one) for one in phase["clicks"].values()),
                *(cell(one) for one in phase["ahead"].values()),
                *(f"{ratio:.2f}" for ratio in phase["ratio"].values()),
            ]
            for name, phase in metrics["phases"].items()
        ],
    )
    measure.table(
        "Curve: visits since the shift",
        ["from", *arms],
        [[str(part["from"]), *(f"{part[arm]:.3f}" for arm in arms)] for part in metrics["curve"]],
    )


if __name__ == "__main__":
    main()
