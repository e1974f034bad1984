"""Worlds of up to millions of users and items: a config whose stores hold them all, and a trainer that has learned of each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure
from service.config import load
from service.process.runtime import Runtime, open_runtime
from streams.codec import encode, partition_key
from streams.events import Event, Interaction, ItemUpdate, UserUpdate

__all__ = ["CONFIG", "RETRIEVERS", "World", "made", "write_config"]

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
    "next_item": "items = {size}\nusers = {size}\nlength = 24\nevery = 1024\n",
}

SEGMENTS = 200
"""Groups of users, who mostly like the items of their group."""

DAY = 86_400.0
EVENTS_AT_ONCE = 20_000


class World(NamedTuple):
    """A made world.

    Attributes
    ----------
    config : Path
    folder : Path
        Log, checkpoints and weights log.
    size : int
        Number of users, and of items.
    seconds : float
        Time that it took to learn all events.
    events : int
    """

    config: Path
    folder: Path
    size: int
    seconds: float
    events: int


def write_config(folder: Path, size: int, retrievers: Sequence[str], every: float = 1e6) -> Path:
    """Write the config of a world."""
    numbers = {"size": size, "texts": 600 * size + (64 << 20), "seen": max(8 * size, 1000), "folder": folder, "every": every}
    numbers["bits"] = min(max((size - 1).bit_length(), 15), 20)
    text = CONFIG.format(**numbers)
    for name in retrievers:
        text += f"[retrievers.{name}]\n" + RETRIEVERS[name].format(**numbers)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.toml"
    config.write_text(text)
    return config


def made(folder: Path, size: int, retrievers: Sequence[str], likes: int) -> World:
    """Make a world of `size` users and items with so many likes a user, learn it, and save a checkpoint."""
    config = write_config(folder, size, retrievers)
    with open_runtime(load(config)) as runtime:
        runtime.engine.stop()
        start, count = time.perf_counter(), 0
        for events in _in_parts(_events(size, likes)):
            count += len(events)
            with measure.err.status(f"{size:,} users and items: {count:,} events learned"):
                _fold(runtime, events)
        seconds = time.perf_counter() - start
        runtime.updater.save()
    return World(config, folder, size, seconds, count)


def liked(size: int, users: np.ndarray[Any, np.dtype[np.int64]], rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Draw an item for each of some users (n,): mostly of their segment, and popular ones more often."""
    of_segment = max(size // SEGMENTS, 1)
    place = (of_segment * rng.random(users.size) ** 2).astype(np.int64)
    segment = np.where(rng.random(users.size) < 0.8, users % SEGMENTS, rng.integers(SEGMENTS, size=users.size))
    return (place * SEGMENTS + segment) % size


def _events(size: int, likes: int) -> Iterator[Event]:
    """Updates of all items and users, a like of each item, then `likes` likes of each user on average."""
    now = time.time() - DAY
    for n in range(size):
        yield ItemUpdate(item=f"i{n}", attributes={"brand": f"b{n % SEGMENTS}"}, timestamp=now)
    for n in range(size):
        yield UserUpdate(user=f"u{n}", attributes={"segment": f"s{n % SEGMENTS}"}, timestamp=now)
    rng = np.random.default_rng(size)
    users = np.concatenate([rng.permutation(size), rng.integers(size, size=(likes - 1) * size)])
    items = np.concatenate([rng.permutation(size), liked(size, users[size:], rng)])
    for n, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        yield Interaction(user=f"u{user}", item=f"i{item}", timestamp=now + DAY * n / users.size)


def _in_parts(events: Iterable[Event]) -> Iterator[list[Event]]:
    part: list[Event] = []
    for event in events:
        part.append(event)
        if len(part) == EVENTS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def _fold(runtime: Runtime, events: Sequence[Event]) -> None:
    runtime.log.append([(partition_key(event), encode(event)) for event in events])
    while runtime.updater.turn():
        pass
