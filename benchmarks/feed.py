"""Rewards of a feed over HTTP whose users get tired: the list with and without a look ahead, and single retrievers.

Each arm has a service of its own in the same world (`service.demo.feed.Feed`), and learns only from what it showed. Users ask
for one item at a time; some are there at once and take turns. One that leaves is replaced by the one who has been away longest.
"""

from __future__ import annotations

import re
import tempfile
import time
from argparse import Namespace
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, service
from benchmarks.click_through import Visitors
from service.demo.feed import Feed

__all__ = ["main"]

EXAMPLE = Path(__file__).parents[1] / "examples" / "losse_ftl.toml"
SECTION = re.compile(r"^\[rerankers\.losse_ftl\].*\n((?!\[).*\n)*", re.MULTILINE)
BASELINES = {
    "popularity": "",
    "item_knn": "\n[retrievers.item_knn]\n",
    "diag_linucb": "\n[retrievers.diag_linucb]\nclusters = 16\nepoch = 1000\nhalf_life = 60.0\nalpha = 0.4\nitems = 5_000\n",
}
ARMS = ("base", "H=1", "H=2", "H=3", *BASELINES)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--steps", type=int, default=3000, help="items shown in each round (default: %(default)s)")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--present", type=int, default=16, help="users who are there at once (default: %(default)s)")
    parser.add_argument("--no-quit", action="store_true", help="sessions end after 30 items, and not before")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round's world (default: %(default)s)")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--set", nargs="*", default=[], help="keys of [rerankers.losse_ftl] to change, as beta=0.5")
    options = parser.parse_args(arguments)
    before = measure.machine()
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in options.arms}
    for turn in range(options.rounds):
        for arm in options.arms:
            with measure.err.status(f"round {turn + 1} of {options.rounds}: {arm}"):
                found[arm].append(_run(options, arm, options.seed + turn))
                measure.err.print(
                    f"{arm}, world {options.seed + turn}: {found[arm][-1][0]:.3f} a step, {found[arm][-1][1]:.2f} a session"
                )
    metrics = {
        arm: {name: [one[k] for one in each] for k, name in enumerate(("per_step", "per_session"))}
        for arm, each in found.items()
    }
    measure.table(
        f"Rewards in the last third of {options.steps} items, {options.rounds} worlds",
        ["", "a step", "each", "a session", "each"],
        [
            [arm, *(cell for each in one.values() for cell in (f"{np.mean(each):.3f}", " ".join(f"{x:.3f}" for x in each)))]
            for arm, one in metrics.items()
        ],
    )
    measure.finish("feed", options, before, metrics)


def _run(options: Namespace, arm: str, seed: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as name:
        folder, config = Path(name), Path(name) / "service.toml"
        config.write_text(_settings(options, arm, folder))
        with service.running(folder, config, "serve") as (address, _):
            service.until(address, "/readyz", lambda body: True)
            with closing(Visitors(address)) as visitors:
                return _visits(visitors, options, arm, seed)


def _settings(options: Namespace, arm: str, folder: Path) -> str:
    settings = re.sub(r'^url = "[^"]*"', f'url = "lmdb://{folder / "log"}"', EXAMPLE.read_text(), flags=re.MULTILINE)
    if not arm.startswith("H="):
        return SECTION.sub("", settings) + BASELINES.get(arm, "")
    (section,) = (match[0] for match in SECTION.finditer(settings))
    changed = dict(pair.split("=", 1) for pair in (f"horizon={arm[2:]}", *options.set))
    kept = [line for line in section.splitlines() if line.partition(" =")[0] not in changed]
    return settings.replace(section, "\n".join([*kept, *(f"{key} = {value}" for key, value in changed.items()), "", ""]))


def _visits(visitors: Visitors, options: Namespace, arm: str, seed: int) -> tuple[float, float]:
    """Rewards a step, and a session that ended, in the last third of the steps."""
    feed = Feed(users=options.users, seed=seed, quits=not options.no_quit)
    visitors.post("/v1/events", [*feed.catalogue(), *feed.profiles()])
    rng = np.random.default_rng(seed)
    away = deque(rng.permutation(feed.users).tolist())
    present = deque(away.popleft() for _ in range(options.present))
    earned, rewards, sessions = dict.fromkeys(feed.users, 0), np.zeros(options.steps), []
    for n in range(options.steps):
        user = present.popleft()
        request: dict[str, Any] = {"user": user, "n": 1, "candidates": 240, "repeat": True}
        if arm in BASELINES:
            request["by"] = arm
        ranking = visitors.post("/v1/recommend", request)
        # A retriever that does not know the user yet returns nothing: then any item is shown.
        item = ranking["items"][0]["item"] if ranking["items"] else feed.items[int(rng.integers(len(feed.items)))]
        watched, goes_on = feed.show(user, item)
        visitors.post("/v1/events", [_watch(ranking["request_id"] if ranking["items"] else None, n, user, item, watched)])
        rewards[n] = watched
        earned[user] += watched
        if goes_on:
            present.append(user)
            continue
        if n >= options.steps * 2 // 3:
            sessions.append(earned[user])
        earned[user] = 0
        away.append(user)
        present.append(away.popleft())
    return float(rewards[options.steps * 2 // 3 :].mean()), float(np.mean(sessions)) if sessions else 0.0


def _watch(request: str | None, n: int, user: str, item: str, watched: bool) -> dict[str, Any]:
    event = {"type": "interaction", "id": f"w{n}", "user": user, "item": item, "kind": "watch", "value": float(watched)}
    return event | {"timestamp": time.time()} | ({} if request is None else {"request_id": request})


if __name__ == "__main__":
    main()
