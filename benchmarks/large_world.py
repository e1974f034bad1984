"""Worlds of up to millions of users and items: a config whose stores hold them all, and a state that has learned of each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import measure
from learners.features import hash_ids
from memory.arrays import Ids
from service.config import load
from service.learning.trainer import Trainer
from service.process.runtime import Runtime, open_runtime
from streams.block import Block, Column
from streams.codec import encode, partition_key
from streams.events import Interaction

__all__ = ["CONFIG", "MICRO_BATCH", "RETRIEVERS", "WEIGHTS", "blocks", "liked", "make", "write_config"]

CONFIG = """
[stream]
url = "lmdb://{folder}/log"
window = 10.0
batch_rows = 256
max_impressions = 20_000
[stream.options]
max_bytes = 8_000_000_000
[checkpoint]
folder = "{folder}/state"
every = {every}
keep = 2
[users]
capacity = {size}
bytes = {texts}
[items]
capacity = {size}
bytes = {texts}
[history]
capacity = {size}
length = 10
[seen]
users = {size}
items = {seen}
[features.user]
id = "category"
segment = "category"
[features.item]
id = "category"
brand = "category"
[ranker.fm]
factors = 16
bits = {bits}
"""
"""What grows with the number of users and items has room for all of them; everything else has its default or is smaller."""

WEIGHTS = """
[weights]
url = "lmdb://{folder}/weights"
[weights.options]
max_bytes = 4_000_000_000
"""

RETRIEVERS = {
    "item_knn": "capacity = {size}\nusers = {size}\nneighbours = 64\n",
    "popularity": "capacity = {size}\n",
    "two_tower": "items = {size}\nbits = {bits}\n",
    "diag_linucb": "items = {size}\nbits = {bits}\n",
    "next_item": "items = {size}\nusers = {size}\nlength = 24\nevery = 8192\n",
}

SEGMENTS = 200
"""Groups of users, who mostly like the items of their group."""

DAY = 86_400.0
AT_ONCE = 16_384
MICRO_BATCH = 256
BY_MICRO_BATCH = ("two_tower", "diag_linucb")
"""Learners whose work grows with the square of a micro-batch. They learn some of the likes, and are told of all items."""


def write_config(folder: Path, size: int, retrievers: Sequence[str], every: float, *, replicas: bool = False) -> Path:
    """Write the config of a world of `size` users and items, with a checkpoint every so many seconds."""
    numbers = {"size": size, "texts": 600 * size + (64 << 20), "seen": max(8 * size, 1000), "folder": folder, "every": every}
    numbers["bits"] = min(max((size - 1).bit_length(), 15), 20)
    text = CONFIG.format(**numbers) + (WEIGHTS.format(**numbers) if replicas else "")
    for name in retrievers:
        text += f"[retrievers.{name}]\n" + RETRIEVERS[name].format(**numbers)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.toml"
    config.write_text(text)
    return config


def make(folder: Path, size: int, retrievers: Sequence[str], likes: int, taught: int) -> None:
    """Make a world of `size` users and items with so many likes a user on average, and save a checkpoint.

    The stores are filled directly: it would take hours to write and read millions of events. `taught` likes are learned by the
    learners that `BY_MICRO_BATCH` names, all likes by the others.
    """
    with open_runtime(load(write_config(folder, size, retrievers, 1e6))) as runtime:
        runtime.engine.stop()
        assert isinstance(runtime.updater, Trainer)
        items, users = [f"i{n}" for n in range(size)], [f"u{n}" for n in range(size)]
        with measure.err.status(f"{size:,} users and items: catalogues"):
            _fill(runtime, items, users)
        rng = np.random.default_rng(size)
        user = np.concatenate([rng.permutation(size), rng.integers(size, size=(likes - 1) * size)])
        item = np.concatenate([rng.permutation(size), liked(size, user[size:], rng)])
        now = time.time() - DAY
        when = now + DAY * np.arange(user.size) / user.size
        block = Block(Column(user, users), Column(item, items), "click", np.ones(user.size), when)
        with measure.err.status(f"{size:,} users and items: likes"):
            _learn(runtime, runtime.updater, block, taught)
        last = [Interaction(user=f"u{n}", item=f"i{n}", timestamp=time.time()) for n in range(MICRO_BATCH)]
        runtime.log.append([(partition_key(event), encode(event)) for event in last])
        runtime.updater.drain()
        runtime.updater.save()


def liked(size: int, users: Ids, rng: np.random.Generator) -> Ids:
    """Draw an item for each of some users (n,): mostly of their segment, and popular ones more often."""
    place = (max(size // SEGMENTS, 1) * rng.random(users.size) ** 2).astype(np.int64)
    segment = np.where(rng.random(users.size) < 0.8, users % SEGMENTS, rng.integers(SEGMENTS, size=users.size))
    return (place * SEGMENTS + segment) % size


def blocks(user: Ids, item: Ids, size: int, rows: int) -> Iterator[Block]:
    """Yield likes (n,) of users and items of a world of this size, so many rows at a time."""
    users, items = [f"u{n}" for n in range(size)], [f"i{n}" for n in range(size)]
    likes = Block(Column(user, users), Column(item, items), "click", np.ones(user.size), np.full(user.size, time.time()))
    for start in range(0, user.size, rows):
        yield likes.slice(start, start + rows)


def _fill(runtime: Runtime, items: Sequence[str], users: Sequence[str]) -> None:
    """Put all items and users into the catalogues."""
    pipeline = runtime.pipeline
    featurizer = pipeline.featurizer
    for n, (item, key) in enumerate(zip(items, hash_ids(items).tolist(), strict=True)):
        brand = {"brand": f"b{n % SEGMENTS}"}
        pipeline.items.put(key, item, brand, *featurizer.encode_item(brand))
    for n, (user, key) in enumerate(zip(users, hash_ids(users).tolist(), strict=True)):
        segment = {"segment": f"s{n % SEGMENTS}"}
        pipeline.users.put(key, user, segment, *featurizer.encode_user(segment))


def _learn(runtime: Runtime, trainer: Trainer, block: Block, taught: int) -> None:
    """Let the stores and the learners learn all likes, `BY_MICRO_BATCH` the first `taught` of them."""
    pipeline = runtime.pipeline
    for start in range(0, block.rows, AT_ONCE):
        feedback = trainer.builder.from_block(block.slice(start, start + AT_ONCE))
        pipeline.prepare(feedback)
        for name, learner in pipeline.learners():
            if name not in BY_MICRO_BATCH:
                learner.learn(feedback)
        seen = feedback.user, feedback.item
        pipeline.history.append(*seen, feedback.outcome_time, feedback.kind, feedback.reward > 0)
        pipeline.seen.add(*seen)
    for start in range(0, min(taught, block.rows), MICRO_BATCH):
        feedback = trainer.builder.from_block(block.slice(start, start + MICRO_BATCH))
        for name in BY_MICRO_BATCH:
            if name in pipeline.retrievers.named:
                pipeline.retrievers.named[name].learn(feedback)
    items = pipeline.items.items()
    for start in range(0, items.size, AT_ONCE):
        for retriever in pipeline.retrievers.named.values():
            retriever.add(items[start : start + AT_ONCE])
