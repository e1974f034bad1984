"""Milliseconds of a read from an error memory: exact, with inverted lists, from a sketch, and on a GPU if there is one.

Keys are the hidden vectors of a factorization machine while it learns a stream of clicks. Queries are its hidden vectors of
candidates after that: a hundred items for each of the next users. Each result is the fastest round of one call.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import measure, stream
from benchmarks.learn_throughput import batches
from learners.rankers.fm import FactorizationMachine
from memory.error_memory import ErrorMemory, ErrorSketch
from streams.batch import Floats, Ids

__all__ = ["main"]

WRITE = 256
"""Rows of one write: a micro-batch."""

CANDIDATES = 100
"""Candidates of a request."""

ESTIMATED = "cuda, one estimate a query"
"""Searched and estimated on the GPU, as ReLoop2 does it."""

COMPARED = 1000
"""Maximum number of queries for recall."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--entries", type=int, nargs="+", default=[5_000, 50_000, 1_000_000], help="rows in the memory")
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 100, 1000], help="queries of one read")
    parser.add_argument("--neighbours", type=int, default=70)
    parser.add_argument("--factors", type=int, default=32, help="width of the keys")
    parser.add_argument("--memories", nargs="+", help="names in the table that begin so (default: all)")
    parser.add_argument("--probes", type=int, nargs="+", default=[48, 80], help="lists searched")
    parser.add_argument("--npz", type=Path, help="read the stream from this file instead of making it")
    options = parser.parse_args(arguments)
    measure.pin(options)
    before = measure.machine()
    metrics = {f"{entries:,} entries": _measured(*_keys(entries, options), options) for entries in options.entries}
    rows = [
        [f"{memory}, {entries}", *found["read_ms"].values(), found["recall"] or "", found["writes_per_second"]]
        for entries, kinds in metrics.items()
        for memory, found in kinds.items()
    ]
    columns = [f"{queries:,} queries, ms" for queries in options.queries]
    measure.table(
        f"Reads of {options.neighbours} neighbours, keys of {options.factors} numbers, fastest of {options.rounds} rounds",
        ["memory", *columns, "recall", "writes/s"],
        rows,
    )
    measure.finish("memory_read", options, before, metrics)


def _keys(entries: int, options: Namespace) -> tuple[Floats, Floats]:
    """Hidden vectors of the ranker: of `entries` rows, each before it was learned, then of candidates."""
    asked = max(*options.queries, COMPARED)
    clicks = stream.take(options.npz, entries + asked)
    rows = np.arange(entries + asked)
    rows[entries:] -= (rows[entries:] - entries) % CANDIDATES  # one user and context for the items of the next rows
    for name in ("user", "useg", "ctx"):
        setattr(clicks, name, getattr(clicks, name)[rows])
    ranker, found = FactorizationMachine(factors=options.factors), []
    for feedback in batches(clicks, WRITE, entries + asked):
        ranker.score(feedback)
        assert feedback.hidden is not None
        found.append(feedback.hidden)
        if sum(map(len, found)) <= entries:
            ranker.learn(feedback)
    keys = np.concatenate(found)
    return keys[:entries], keys[entries : entries + asked]


def _measured(stored: Floats, queries: Floats, options: Namespace) -> dict[str, dict[str, Any]]:
    entries, width, k = len(stored), options.factors, options.neighbours
    memories: dict[str, tuple[ErrorMemory | ErrorSketch, int]] = {
        "flat": (ErrorMemory(entries, width), 0),
        "sketch": (ErrorSketch(width), 0),
    }
    if torch.cuda.is_available():
        memories["cuda"] = memories[ESTIMATED] = ErrorMemory(entries, width, device="cuda"), 0
    lists = ErrorMemory(entries, width, kind="ivf")
    memories |= {f"ivf, {probes} probes": (lists, probes) for probes in options.probes}
    if options.memories:
        memories = {name: made for name, made in memories.items() if name.startswith(tuple(options.memories))}
    writes: dict[int, float] = {}
    true: Ids | None = None
    found: dict[str, dict[str, Any]] = {}
    for name, (memory, probes) in memories.items():
        with measure.err.status(f"{name}, {entries:,} entries"):
            rate = writes[id(memory)] = writes.get(id(memory)) or _fill(memory, stored, k)
            if isinstance(memory, ErrorMemory) and probes:
                memory.index.probes = probes

            def read(some: Floats, memory: ErrorMemory | ErrorSketch = memory) -> Ids:
                return (memory.read(some) if isinstance(memory, ErrorSketch) else memory.read(some, k)).slots

            timed = partial(_estimate, memory, k) if name == ESTIMATED and isinstance(memory, ErrorMemory) else read
            milliseconds = {f"{n}": _fastest(timed, queries[:n], options.rounds) for n in options.queries}
            recall = None
            if isinstance(memory, ErrorMemory) and name != ESTIMATED:
                some = (queries[n : n + CANDIDATES] for n in range(0, COMPARED, CANDIDATES))
                slots = np.concatenate([read(one) for one in some])
                true = slots if true is None else true
                recall = float(np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(slots, true, strict=True)]))
            found[name] = {"read_ms": milliseconds, "recall": recall, "writes_per_second": rate, "bytes": memory.nbytes}
    return found


def _estimate(memory: ErrorMemory, k: int, queries: Floats) -> Floats:
    """Sums of the error estimates of ReLoop2 with its default settings."""
    from learners.networks.error_attention import GpuEvidence

    nearest = memory.nearest(queries, k)
    assert nearest is not None
    evidence = GpuEvidence.of_rows(nearest, int(memory.clock["place"][0]), memory.capacity)
    horizons = [memory.capacity >> age for age in range(1, 4)]
    return evidence.correction(np.zeros(len(queries)), 1.0, 0.1, horizons, np.full(4, 0.1))


def _fill(memory: ErrorMemory | ErrorSketch, keys: Floats, k: int) -> float:
    """Write all keys and finish training the lists; return rows written per second."""
    label, none = np.zeros(len(keys), np.float32), np.zeros(len(keys), np.int64)
    start = time.perf_counter()
    for first in range(0, len(keys), WRITE):
        rows = slice(first, first + WRITE)
        if isinstance(memory, ErrorSketch):
            memory.write(keys[rows], label[rows], label[rows])
        else:
            when = none[rows].astype(np.float64)
            memory.write(keys[rows], label[rows], label[rows], timestamp=when, user=none[rows], item=none[rows], k=k)
    rate = len(keys) / (time.perf_counter() - start)
    if isinstance(memory, ErrorMemory):
        while memory.index.training:
            memory.index.maintain(k, WRITE)
    return rate


def _fastest(read: Callable[[Floats], Any], queries: Floats, rounds: int) -> float:
    seconds = []
    for _ in range(max(rounds, 1) + 1):  # one more round to warm up
        start = time.perf_counter()
        read(queries)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds)


if __name__ == "__main__":
    main()
