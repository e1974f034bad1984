"""What a state of fixed size is worth to a sequence model: StreamAdapter beside a window, the whole history, other memories.

The world has items, users with favourites, and a successor of each item. The next event of a user is one of the favourites, or
the successor of the last event, or any item, in proportion to its popularity. Each step learns from new users, and all models
learn from the same ones. The figures are those of other users' last chunks. They are of models that learned

- in a world where favourites stay (``steady``), from users of that world, and from users whose favourites change (``turned``);
- in a world where all favourites change at half of the sequence (``changing``), from users of that world.
"""

from __future__ import annotations

import time
from argparse import Namespace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import measure
from benchmarks.context_models import MODELS, Model, Size

__all__ = ["World", "learned", "main", "quality"]

Events = npt.NDArray[np.int64]

HELD_OUT = 1_000_003
"""Begins the seed of the users on which models are judged."""


class World(NamedTuple):
    """Law of the events.

    Attributes
    ----------
    items, favourites, length : int
        Items, favourites of a user, and events of a sequence before the last target.
    favourite, successor : float
        Probability that the next event is one of the favourites, and that it is the successor of the last event.
    changes : bool
        Whether each user gets other favourites at half of the sequence.
    """

    items: int = 120
    favourites: int = 10
    length: int = 128
    favourite: float = 0.45
    successor: float = 0.35
    changes: bool = False

    def draw(self, users: int, seed: int, part: int) -> Events:
        """Draw sequences of items, (users, length + 1). The seed alone decides the successors and the popularity."""
        fixed = np.random.default_rng([seed, 0])
        successors = np.roll(cycle := fixed.permutation(self.items), -1)[cycle.argsort()]
        popularity = fixed.permutation(1 / np.arange(1, self.items + 1))
        rng = np.random.default_rng([seed, 1, part])
        tastes = rng.permuted(np.tile(np.arange(self.items), (users, 1)), axis=1)
        events = np.empty((users, self.length + 1), np.int64)
        kind = rng.random(events.shape)
        favourite = rng.integers(self.favourites, size=events.shape)
        if self.changes:
            favourite[:, self.length // 2 :] += self.favourites
        liked = np.take_along_axis(tastes, favourite, 1)
        other = rng.choice(self.items, events.shape, p=popularity / popularity.sum())
        for n in range(self.length + 1):
            follows = successors[events[:, n - 1]] if n else other[:, 0]
            chosen = np.where(kind[:, n] < self.favourite + self.successor, follows, other[:, n])
            events[:, n] = np.where(kind[:, n] < self.favourite, liked[:, n], chosen)
        return events


def learned(name: str, world: World, size: Size, steps: int, seed: int, pace: float = 1.0) -> Model:
    """Return a model of `MODELS` that has learned from 16 new users in each step, at `pace` times the usual rates."""
    model = MODELS[name](size, seed)
    for step in range(steps):
        warm = min(1.0, (step + 1) / 50)
        model.step(world.draw(16, seed, step), pace * warm * (1 + np.cos(np.pi * step / steps)) / 2)
    return model


def quality(model: Model, events: Events) -> dict[str, float]:
    """Return cross-entropy in nats, NDCG@10 and HR@10 of the next events in the last chunks."""
    found: dict[str, list[npt.NDArray[np.float64]]] = {"CE": [], "NDCG@10": [], "HR@10": []}
    for start in range(0, len(events), 100):
        logits, target = model.logits(events[start : start + 100])
        own = logits.gather(1, target[:, None])
        rank = (logits > own).sum(1).numpy()
        found["CE"].append((logits.logsumexp(1) - own[:, 0]).double().numpy())
        found["NDCG@10"].append(np.where(rank < 10, 1 / np.log2(rank + 2), 0.0))
        found["HR@10"].append((rank < 10).astype(np.float64))
    return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--worlds", nargs="+", default=["steady", "changing"], choices=["steady", "changing"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=2500, help="steps of learning (default: %(default)s)")
    parser.add_argument("--full-steps", type=int, default=5000, help="those of the whole history (default: %(default)s)")
    parser.add_argument("--users", type=int, default=1000, help="users to judge by (default: %(default)s)")
    options = parser.parse_args(arguments)
    measure.pin(options)
    before = measure.machine()
    metrics: dict[str, dict[str, float]] = {}
    for seed in options.seeds:
        for name in options.models:
            for world in options.worlds:
                for test, found in _measured(name, world, seed, options).items():
                    row = f"{name}, {test}, seed {seed}"
                    metrics[row] = found
                    measure.err.print(row, {key: round(value, 4) for key, value in found.items()})
    rows: list[list[object]] = []
    for test in ("steady", "turned", "changing"):
        for name in options.models:
            each = [list(found.values()) for row, found in metrics.items() if row.startswith(f"{name}, {test}, ")]
            if each:
                rows.append([f"{name}, {test}", *np.mean(each, 0).tolist()])
    columns = ["model, users", *next(iter(metrics.values()))]
    measure.table(f"Next events of {options.users:,} users, mean of {len(options.seeds)} seeds", columns, rows)
    measure.finish("context_world", options, before, metrics)


def _measured(name: str, learns: str, seed: int, options: Namespace) -> dict[str, dict[str, float]]:
    steady, changing = World(), World(changes=True)
    worlds = {"steady": steady, "turned": changing} if learns == "steady" else {"changing": changing}
    start = time.process_time()
    steps = options.full_steps if name == "whole history" else options.steps
    model = learned(name, worlds[learns], Size(), steps, seed)
    spent = time.process_time() - start
    return {
        test: quality(model, world.draw(options.users, seed, HELD_OUT)) | {"CPU s": spent} for test, world in worlds.items()
    }


if __name__ == "__main__":
    main()
