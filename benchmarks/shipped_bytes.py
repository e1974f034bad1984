"""What a trainer sends its replicas for a thousand learned rows: bytes of the weights log, by store.

A trainer publishes what has changed since the change before, so more rows in a change mean fewer bytes for each of them: a row
of weights that was learned twice goes once. The default is what ``benchmarks.replica_freshness`` has: 1,000 events a second, a
change every 100 ms.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import measure, stream
from service.config import Config, parse
from service.evaluation.recordings import open_stream
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.process.runtime import build_pipeline
from service.replication.weights import Change, pack
from streams.block import Block

__all__ = ["main"]

SETUPS: dict[str, dict[str, Any]] = {
    "fm": {"retrievers": {}, "ranker": {"fm": {}}},
    "deep": {"retrievers": {}, "ranker": {"deep": {}}},
    "popularity, fm": {"retrievers": {"popularity": {}}, "ranker": {"fm": {}}},
    "two_tower, fm": {"retrievers": {"two_tower": {}}, "ranker": {"fm": {}}},
    "diag_linucb, fm": {"retrievers": {"diag_linucb": {}}, "ranker": {"fm": {}}},
    "popularity, bias": {"retrievers": {"popularity": {}}, "ranker": {"bias": {}}},
}

TOTAL = "in records of the log"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the stream (default: %(default)s)")
    parser.add_argument("--change-rows", type=int, default=100, help="rows learned between changes (default: %(default)s)")
    parser.add_argument("--npz", type=Path, help="read the stream from this file instead of making it")
    options = parser.parse_args(arguments)
    before = measure.machine()
    metrics: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as folder:
        path = Path(folder) / "clicks.parquet"
        stream.write_table(stream.take(options.npz, options.rows), path)
        for name, learners in SETUPS.items():
            metrics[name] = found = _shipped(_config(path, learners, options), options)
            measure.table(
                f"{name}: bytes for 1,000 learned rows, a change every {options.change_rows} rows",
                ["store", "bytes"],
                [[part, size] for part, size in sorted(found.items(), key=lambda pair: -pair[1])],
            )
    measure.finish("shipped_bytes", options, before, metrics)


def _config(path: Path, learners: dict[str, Any], options: Namespace) -> Config:
    columns = {"value": "label", "context": ["ctx"], "user_attributes": ["useg"], "item_attributes": ["icat"]}
    rows = {"sorted": True, "batch_rows": options.change_rows, "kind": "click", "columns": columns}
    return parse(
        {
            "stream": {"url": f"file:{path}", **rows},
            "features": {
                "user": {"id": "category", "useg": "category"},
                "item": {"id": "category", "icat": "category"},
                "context": {"ctx": "category"},
            },
            "reward": {"click": 1.0},
            **learners,
        }
    )


def _shipped(config: Config, options: Namespace) -> dict[str, float]:
    """Bytes for 1,000 rows: of each array, and of the records that hold them all."""
    pipeline = build_pipeline(config)
    fold = Fold(pipeline, FeedbackBuilder(pipeline, config.reward))
    sizes: Counter[str] = Counter()
    learned = 0
    for event in open_stream(config).events():
        if not isinstance(event, Block):
            pipeline.apply(event)
            continue
        for start in range(0, event.rows, options.change_rows):
            learned += fold.block(event.slice(start, min(start + options.change_rows, event.rows))).rows
            change = pipeline.take_changes()
            sizes.update({name.rpartition(".")[0]: 0 for name in change})
            for name, array in change.items():
                sizes[name.rpartition(".")[0]] += array.nbytes
            sizes[TOTAL] += sum(map(len, pack(Change(1, learned, 1, {0: learned}, 0.0, change))))
    return {name: 1000 * size / learned for name, size in sizes.items()}


if __name__ == "__main__":
    main()
