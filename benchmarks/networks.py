"""What rankers cost: milliseconds of a request, rows learned per second, and bytes. Networks, and simpler rankers beside them.

Every ranker first learns part of a stream of clicks. Each figure is the fastest of the rounds, in CPU time of this process,
except on a GPU, where it is wall time.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import measure, stream
from benchmarks.learn_throughput import batches
from learners.base import Ranker
from learners.lookups import Catalogues, UserHistory
from learners.registry import build
from learners.schema import FeatureColumn, Schema
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from streams.batch import Feedback

__all__ = ["SCHEMA", "bound", "main"]

SCHEMA = Schema(
    features=(
        FeatureColumn("user.id", "user", "category"),
        FeatureColumn("item.id", "item", "category"),
        FeatureColumn("user.useg", "user", "category"),
        FeatureColumn("item.icat", "item", "category"),
        FeatureColumn("context.ctx", "context", "category"),
    ),
    users=(),
    items=(),
    context=(),
    history=0,
)
"""Columns of `benchmarks.learn_throughput.batches`."""

REPEATS = 20
"""Calls of which a round takes the fastest."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rankers", nargs="+", default=["bias", "fm", "fm_mixture", "deep", "dsl"])
    parser.add_argument("--rows", type=int, default=20_000, help="rows learned before (default: %(default)s)")
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 1000], help="rows of a request")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256], help="rows of a micro-batch")
    parser.add_argument("--npz", type=Path, help="read the stream from this file instead of making it")
    options = parser.parse_args(arguments)
    measure.pin(options)
    before = measure.machine()
    clicks = stream.take(options.npz, options.rows + max(*options.candidates, *options.batches))
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rankers = {
        f"{name}, {device}": _taught(name, device, clicks, options)
        for device in devices
        for name in options.rankers
        if device == "cpu" or name in ("deep", "dsl")
    }
    metrics: dict[str, dict[str, float]] = {name: {"bytes": float(ranker.nbytes)} for name, ranker in rankers.items()}
    for _ in range(options.rounds):
        for name, ranker in rankers.items():
            _measure(ranker, clicks, name.endswith("cuda"), metrics[name], options)
    measure.table(
        f"Rankers after {options.rows:,} rows, fastest of {options.rounds} rounds",
        ["ranker", *next(iter(metrics.values()))],
        [[name, *found.values()] for name, found in metrics.items()],
    )
    measure.finish("networks", options, before, metrics)


def bound(name: str, **keywords: object) -> Ranker:
    """Build a ranker and bind it to the columns of the stream."""
    ranker = build(Ranker, name, keywords)
    ranker.bind(SCHEMA, Catalogues(Catalog(1, 0), Catalog(1, 0)), UserHistory(History(1, 1)))
    return ranker


def _taught(name: str, device: str, clicks: stream.Clicks, options: Namespace) -> Ranker:
    ranker = bound(name, **({"device": device} if device != "cpu" else {}))
    for batch in batches(clicks, 64, options.rows):
        ranker.score(batch)
        ranker.learn(batch)
    return ranker


def _measure(ranker: Ranker, clicks: stream.Clicks, on_gpu: bool, found: dict[str, float], options: Namespace) -> None:
    """Keep the smallest time and the largest rate."""
    for candidates in options.candidates:
        key = f"{candidates} candidates, ms"
        spent = 1000 * _fastest(partial(ranker.score, _rows(clicks, options.rows, candidates)), on_gpu)
        found[key] = min(spent, found.get(key, np.inf))
    for size in options.batches:
        key = f"rows/s at {size}"
        rate = size / _fastest(partial(ranker.learn, _rows(clicks, options.rows, size)), on_gpu)
        found[key] = max(rate, found.get(key, 0.0))


def _rows(clicks: stream.Clicks, first: int, rows: int) -> Feedback:
    """The rows after the first ones, as one batch."""
    names = ("user", "item", "ctx", "useg", "icat", "label", "timestamp")
    after = stream.Clicks(**{name: getattr(clicks, name)[first:] for name in names})
    return batches(after, rows, rows)[0]


def _fastest(call: Callable[[], None], on_gpu: bool) -> float:
    """Seconds of the fastest call."""
    clock, spent = time.perf_counter if on_gpu else time.process_time, []
    for _ in range(REPEATS):
        start = clock()
        call()
        spent.append(clock() - start)
    return min(spent)


if __name__ == "__main__":
    main()
