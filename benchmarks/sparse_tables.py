"""What a user table of blocks is worth beside dense tables, in a simulated shop whose users come, and change their minds.

Users and items arrive over time, items age, users differ in how often they come, and in the middle of the stream 60 % of the
users get a new taste. A matrix factorization learns from pairs of a chosen and an unchosen item (BPR, AdaGrad). Each choice is
first ranked among 100 items of the moment, then learned. All tables are pools of blocks, so that only their layout differs; the
dense ones have all blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import measure
from memory.arrays import Floats, Ids
from memory.jit import njit
from memory.sparse.block_pool import BlockPool
from memory.sparse.prune_and_grow import update_ratio

__all__ = ["ARMS", "Arm", "World", "main", "replay"]

OTHERS, TAUGHT = 100, 4
"""Items among which a choice is ranked, and how many of them are learned as not chosen."""

TABLES: Mapping[str, Any] = {"block": 4, "learning_rate": 0.1, "accumulator": 0.01, "init": 0.1, "l2": 0.002}


@dataclass(frozen=True)
class World:
    """Choices (n,) of users and items in order, and the number of items that have arrived by then, (n,)."""

    user: Ids
    item: Ids
    arrived: Ids
    users: int
    items: int

    @classmethod
    def simulate(cls, events: int, users: int, items: int, seed: int) -> World:
        """Draw a world. Tastes have 64 dimensions of falling importance."""
        rng = np.random.default_rng(seed)
        spread = (1.0 + np.arange(64)) ** -0.35
        taste = 2.6 * rng.normal(size=(2, users, 64)) * spread / np.sqrt((spread**2).sum())
        loyal = rng.random(users) < 0.4
        taste[1, loyal] = taste[0, loyal]
        features, appeal = rng.normal(size=(items, 64)), rng.normal(0.0, 0.5, items)
        at = np.arange(events) / events
        activity = np.cumsum(rng.pareto(1.2, users) + 0.2)
        known = np.minimum((users * (0.2 + at)).astype(np.int64) + 1, users)
        user = np.searchsorted(activity, rng.random(events) * activity[known - 1])
        arrived = np.minimum((items * (0.2 + 0.8 * at)).astype(np.int64) + 1, items)
        chosen = np.empty(events, np.int64)
        seed = int(rng.integers(1, 2**31))
        _choose(user, arrived, taste.astype(np.float32), features.astype(np.float32), appeal, seed, chosen)
        return cls(user, chosen, arrived, users, items)


@njit(cache=True, nogil=True)
def _choose(user, arrived, taste, features, appeal, seed, chosen):  # type: ignore[no-untyped-def]
    """Each user sees 100 items and takes the best, by taste, appeal, age and chance (Gumbel)."""
    np.random.seed(seed)
    for n in range(user.size):
        now, best = taste[2 * n // user.size, user[n]], -np.inf
        for _ in range(100):
            item = np.random.randint(arrived[n])
            value = appeal[item] - 1.5 * (arrived[n] - item) / features.shape[0] - np.log(-np.log(np.random.random()))
            for k in range(now.size):
                value += now[k] * features[item, k]
            if value > best:
                best, chosen[n] = value, item


@dataclass(frozen=True)
class Arm:
    """Width of the tables, share of the user table's blocks, and how they are exchanged."""

    dim: int = 64
    share: float = 1.0
    floor: float | None = None
    """Ratio of the exchange after a quarter of the stream; it falls from .5. None: the blocks stay where they are."""
    until: float = 1.0
    """Share of the stream after which nothing is exchanged."""
    options: Mapping[str, Any] = field(default_factory=dict)


ARMS = {
    **{f"dense {dim}": Arm(dim) for dim in (64, 32, 24, 16, 8)},
    **{f"first {share:.3g} of each row": Arm(share=share, options={"prefix": int(16 * share)}) for share in (0.125, 0.25, 0.5)},
    **{f"DSL {share:.3g}, floor .05": Arm(share=share, floor=0.05) for share in (0.125, 0.25, 0.5)},
    "DSL 0.25, frozen after a quarter": Arm(share=0.25, floor=0.05, until=0.25, options={"prefix": 4}),
    "DSL 0.25, then growth without pruning": Arm(share=0.25, floor=0.0),
}


def replay(world: World, arm: Arm, *, batch: int = 128, every: int = 40, seed: int = 0) -> tuple[Floats, Floats, BlockPool]:
    """Rank each choice among others, then learn it, in batches; exchange blocks after each `every` batches.

    Returns
    -------
    hits, ndcg : (n,) float
        Of the first 10.
    users : BlockPool
        The user table afterwards.
    """
    users = BlockPool(world.users, arm.dim, arm.share, seed=seed, **(dict(TABLES) | dict(arm.options)))
    items = BlockPool(world.items, arm.dim, 1.0, seed=seed + 1, **TABLES)
    rng, batches = np.random.default_rng(seed), -(-world.user.size // batch)
    hits, gains = np.empty(world.user.size, np.float32), np.empty(world.user.size, np.float32)
    for n in range(batches):
        part = slice(n * batch, (n + 1) * batch)
        user, item = world.user[part], world.item[part]
        others = rng.integers(0, world.arrived[part][:, None], (user.size, OTHERS))
        u, v, w = users.gather(user), items.gather(item), items.gather(others.ravel()).reshape(user.size, OTHERS, arm.dim)
        own, rest = np.einsum("nk,nk->n", u, v)[:, None], np.einsum("nk,nmk->nm", u, w)
        rank = (rest > own).sum(1) + 0.5 * (rest == own).sum(1)
        hits[part], gains[part] = rank < 10, np.where(rank < 10, 1 / np.log2(rank + 2), 0)
        miss = -1 / (1 + np.exp(own - rest[:, :TAUGHT]))
        users.learn(user, np.einsum("nm,nmk->nk", miss, v[:, None] - w[:, :TAUGHT]))
        items.learn(item, miss.sum(1, keepdims=True) * u)
        items.learn(others[:, :TAUGHT].ravel(), (-miss[:, :, None] * u[:, None]).reshape(-1, arm.dim))
        if arm.floor is not None and (n + 1) % every == 0 and n < arm.until * batches:
            users.prune_and_grow(update_ratio(n, 0.5, arm.floor, batches // 4))
    return hits, gains, users


def main(arguments: list[str] | None = None) -> None:
    """Replay all arms, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--events", type=int, default=240_000)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--items", type=int, default=3_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args(arguments)
    measure.pin(options)
    before = measure.machine()
    metrics: dict[str, dict[str, float]] = {name: {} for name in options.arms}
    for seed in options.seeds:
        world = World.simulate(options.events, options.users, options.items, seed)
        for name in options.arms:
            with measure.err.status(f"seed {seed}: {name}"):
                found = _metrics(*replay(world, ARMS[name], seed=seed), ARMS[name])
            for key, value in found.items():
                metrics[name][key] = metrics[name].get(key, 0.0) + value / len(options.seeds)
    measure.table(
        f"{options.events:,} choices, mean of {len(options.seeds)} worlds",
        ["user table", *next(iter(metrics.values()))],
        [[name, *found.values()] for name, found in metrics.items()],
    )
    measure.finish("sparse_tables", options, before, metrics)


def _metrics(hits: Floats, ndcg: Floats, users: BlockPool, arm: Arm) -> dict[str, float]:
    """Quality without the first 5 %, and memory. A dense table is counted as its numbers only."""
    end = hits.size
    row = users.serving_nbytes / users.rows if arm.share < 1 else 4 * arm.dim
    return {
        "bytes a user": float(row),
        "values a user": users.used * users.dim / users.blocks / max(len(users), 1),
        "hit rate@10": float(hits[end // 20 :].mean()),
        "NDCG@10": float(ndcg[end // 20 :].mean()),
        "before the change": float(ndcg[end // 20 : end // 2].mean()),
        "after the change": float(ndcg[end // 2 :].mean()),
        "last 15 %": float(ndcg[int(0.85 * end) :].mean()),
    }


if __name__ == "__main__":
    main()
