"""Worst cost of one event for the serving thread: all stores are full at default capacities, and all learners are configured.

Events are appended to the log, and a trainer folds them in turns, as in the engine. The result is the longest turn: requests
are served between turns, so this is the time that an event can add to the latency of a ranking. The CPU time of the thread
leaves out interruptions by other processes; wall time is shown beside it.
"""

from __future__ import annotations

import gc
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure
from learners.features import hash_ids
from service.config import parse
from service.learning.steps import Steps
from service.process.runtime import Runtime, open_runtime
from streams.codec import encode, partition_key
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, Tick, UserUpdate

__all__ = ["main"]

CONFIG: dict[str, Any] = {
    "stream": {"url": "memory://"},
    "features": {
        "user": {"id": "category", "country": "category"},
        "item": {"id": "category", "brand": "category", "tags": "tags"},
        "context": {"device": "category"},
        "crosses": ["user.country * item.brand"],
    },
    "retrievers": {"popularity": {}, "item_knn": {}, "two_tower": {}, "diag_linucb": {}},
    "ranker": {"fm": {}},
    "rerankers": {"reloop2": {}},
}

SHOWN = 10
"""Items of an impression."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    _sizes(parser)
    options = parser.parse_args(arguments)
    measure.pin(options)
    before = measure.machine()
    sections = {name: {"capacity": getattr(options, name)} for name in ("users", "items")}
    sections |= {"history": {"capacity": options.users}}
    stream = CONFIG["stream"] | {"max_impressions": options.waiting}
    with open_runtime(parse(CONFIG | sections | {"stream": stream}, "event_cost")) as runtime:
        runtime.engine.stop()
        shop = _Shop(runtime, options)
        metrics = _measured(shop, options)
        size = sum(array.nbytes for array in runtime.pipeline.state_dict().values())
    rows = [[name, *found.values()] for name, found in metrics.items()]
    measure.table(
        f"{options.users:,} users, {options.items:,} items, {options.waiting:,} impressions waiting, state of {size:,} bytes",
        ["event", "longest turn, CPU ms", "wall ms", "total CPU ms"],
        rows,
    )
    measure.finish("event_cost", options, before, {"state_bytes": size, "events": metrics})


def _sizes(parser: ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=100_000, help="users in catalogue and history (default: %(default)s)")
    parser.add_argument("--items", type=int, default=100_000, help="items in the catalogue (default: %(default)s)")
    parser.add_argument("--waiting", type=int, default=100_000, help="impressions waiting (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=300_000, help="rows learned before measuring (default: %(default)s)")


class Spent(NamedTuple):
    """Seconds: thread CPU time and wall time of the longest turn, and thread CPU time of all turns."""

    longest: float
    wall: float
    total: float


class _Shop:
    """A trainer with full stores, and the events to measure."""

    def __init__(self, runtime: Runtime, options: Namespace) -> None:
        self.runtime, self._options = runtime, options
        self._rng = np.random.default_rng(0)
        self._now, self._number = 1_700_000_000.0, 0
        pipeline = runtime.pipeline
        self.fold(ItemUpdate(item=f"i{n}", attributes=_of_item(n)) for n in range(options.items))
        self.fold(UserUpdate(user=f"u{n}", attributes={"country": f"c{n % 50}"}) for n in range(options.users))
        self.fold(self.interactions(options.rows))
        users, items = (hash_ids([f"{side}{n}" for n in range(size)]) for side, size in self._ids())
        rows = users.size * pipeline.history.length
        pipeline.history.append(
            np.repeat(users, pipeline.history.length),
            self._rng.choice(items, rows),
            np.full(rows, self._now),
            np.ones(rows, np.int32),
            np.ones(rows, np.bool_),
        )
        self.fill()
        gc.collect()
        gc.freeze()

    def _ids(self) -> Sequence[tuple[str, int]]:
        return (("u", self._options.users), ("i", self._options.items))

    def fill(self) -> None:
        """Fill the joiner with waiting impressions, half of them of one user."""
        self.fold(self.impression("crowd" if n % 2 else f"u{n % self._options.users}") for n in range(self._options.waiting))

    def impression(self, user: str, shown: int = SHOWN) -> Impression:
        """Make an impression of `shown` items."""
        self._number += 1
        first = self._number * shown
        items = tuple(f"i{n % self._options.items}" for n in range(first, first + shown))
        return Impression(request_id=f"r{self._number}", user=user, items=items, timestamp=self._now)

    def interactions(self, count: int) -> Iterable[Interaction]:
        """Make interactions with value 0 or 1 of random users with random items."""
        users = self._rng.integers(self._options.users, size=count).tolist()
        items = self._rng.integers(self._options.items, size=count).tolist()
        values = self._rng.integers(2, size=count).tolist()
        for user, item, value in zip(users, items, values, strict=True):
            yield Interaction(user=f"u{user}", item=f"i{item}", value=float(value), timestamp=self._now)

    def later(self, seconds: float) -> Event:
        """Make a tick this many seconds later."""
        self._now += seconds
        return Tick(timestamp=self._now)

    def fold(self, events: Iterable[Event]) -> Spent:
        """Append and fold events; return the cost."""
        trainer = self.runtime.updater
        self.runtime.log.append([(partition_key(event), encode(event)) for event in events])
        return _timed(lambda: not trainer.turn())


def _timed(turn: Callable[[], bool]) -> Spent:
    """Time turns until one returns True."""
    cpu, wall = [], []
    over = False
    while not over:
        start = time.thread_time(), time.perf_counter()
        over = turn()
        cpu.append(time.thread_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return Spent(max(cpu), max(wall), sum(cpu))


def _of_item(n: int) -> dict[str, Any]:
    return {"brand": f"b{n % 1000}", "tags": [f"t{n % 7}", f"t{n % 11}"]}


def _measured(shop: _Shop, options: Namespace) -> dict[str, dict[str, float]]:
    pipeline = shop.runtime.pipeline
    copies = [_timed(Steps(pipeline.copy_in_steps()).turn) for _ in range(options.rounds)]
    metrics = {
        "copy of the state (checkpoint, digest)": _worst(copies),
        "changes for replicas, everything changed": _worst([_timed(lambda: pipeline.take_changes() is not None)]),
    }
    for name, make in _EVENTS.items():
        shop.fold(make(shop, 2 * options.rounds))  # do not measure compilation on first use
        metrics[name] = _worst([shop.fold(make(shop, n)) for n in range(options.rounds)])
    # The waiting impressions are filled up only twice: that takes longer than everything else.
    metrics["user with half of the waiting impressions forgotten"] = _worst([shop.fold([Forget(user="crowd")])])
    shop.fill()
    window = shop.runtime.config.stream.window
    metrics["all windows end at once"] = _worst([shop.fold([shop.later(window + 1)])])
    metrics["all remembered ids expire at once"] = _worst([shop.fold([shop.later(10 * window)])])
    return metrics


_EVENTS: dict[str, Callable[[_Shop, int], list[Event]]] = {
    "64 interactions": lambda shop, n: list(shop.interactions(64)),
    "impression of 10 items": lambda shop, n: [shop.impression(f"u{n}")],
    "impression of 1,000 items": lambda shop, n: [shop.impression(f"u{n}", 1000)],
    "item changed": lambda shop, n: [ItemUpdate(item=f"i{n}", attributes=_of_item(n + 1))],
    "item added": lambda shop, n: [ItemUpdate(item=f"new{n}", attributes=_of_item(n))],
    "512 items added": lambda shop, n: [ItemUpdate(item=f"n{n}-{k}", attributes=_of_item(k)) for k in range(512)],
    "item deleted": lambda shop, n: [ItemUpdate(item=f"i{n}", deleted=True)],
    "user changed": lambda shop, n: [UserUpdate(user=f"u{n}", attributes={"country": "c1"})],
    "user deleted": lambda shop, n: [UserUpdate(user=f"u{n}", deleted=True)],
    "user forgotten": lambda shop, n: [Forget(user=f"u{n}")],
}
"""Makes the n-th events of each kind."""


def _worst(found: Sequence[Spent]) -> dict[str, float]:
    longest, wall, total = (1000 * max(spent) for spent in zip(*found, strict=True))
    return {"longest_cpu_ms": longest, "longest_ms": wall, "all_cpu_ms": total}


if __name__ == "__main__":
    main()
