"""Rows per second of the whole replay loop: decode, featurize, predict, evaluate, learn.

Vowpal Wabbit's program gets the same rows in its own text format, in the same interleaved rounds. VW reads, predicts, computes
its progressive loss and learns; with ``-p`` it also writes its predictions, which the replay keeps for its AUC.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import measure, stream, vw
from benchmarks.measure import Cost
from service.config import Config, parse
from service.evaluation.progressive import Evaluation
from service.evaluation.replay import Replay, replay
from service.learning.feedback import FeedbackBuilder
from service.monitoring.quality import auc, log_loss
from service.ranking.pipeline import Pipeline

__all__ = ["main"]

STAGES = {
    "catalogue updates": (Pipeline, "apply"),
    "assemble features": (FeedbackBuilder, "from_block"),
    "assemble features, row by row": (FeedbackBuilder, "from_rows"),
    "predict": (Pipeline, "predict"),
    "evaluate": (Evaluation, "add"),
    "learn": (Pipeline, "learn"),
}
"""Stages of the loop; the rest is reading and decoding."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the stream (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024], help="rows of a micro-batch")
    parser.add_argument("--factors", type=int, default=32)
    parser.add_argument("--npz", type=Path, help="read the stream from this file instead of making it")
    options = parser.parse_args(arguments)
    measure.pin(options)
    before = measure.machine()
    clicks = stream.take(options.npz, options.rows)
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as folder:
        files = {kind: Path(folder) / f"clicks.{kind}" for kind in ("parquet", "csv", "vw")}
        stream.write_table(clicks, files["parquet"])
        stream.write_table(clicks, files["csv"])
        stream.write_vw(clicks, files["vw"])
        ours = {
            f"freshet {kind}, batches of {rows}": _config(files[kind], rows, options)
            for kind in ("parquet", "csv")
            for rows in options.batches
        }
        done: dict[str, Replay] = {}
        whole: dict[str, list[Cost]] = {name: [] for name in ours}
        contenders = {name: _replayed(name, config, done, whole[name]) for name, config in ours.items()}
        with_vw = measure.installed("vowpalwabbit", options)
        costs = measure.interleave(contenders | (_vw(files["vw"], clicks.rows) if with_vw else {}), options.rounds)
        predictions = {model: vw.predictions(model, files["vw"]) for model in vw.MODELS} if with_vw else {}
        stages = {name: _stages(config, clicks.rows) for name, config in ours.items()}
    quality = {name: {"auc": one.quality["fm"].auc, "logloss": one.quality["fm"].log_loss} for name, one in done.items()}
    for model, score in predictions.items():
        quality[model] = {"auc": auc(score, clicks.label > 0), "logloss": float(log_loss(score, clicks.label).mean())}
        quality[f"{model} -p"] = quality[model]
    rates = {name: measure.best(spent) for name, spent in costs.items()}
    for name, spent in whole.items():
        rates[name]["rows_per_cpu_second_whole_call"] = measure.best(spent)["rows_per_cpu_second"]
    ratios = {f"{one} / {peer}": measure.ratio(costs, one, peer) for one in ours for peer in costs if peer not in ours}
    _show(clicks.rows, options, rates, quality, ratios, stages)
    metrics = {"rates": rates, "quality": quality, "ratios": ratios, "stages_ns_per_row": stages}
    measure.finish("replay_speed", options, before, metrics)


def _config(path: Path, batch_rows: int, options: Namespace) -> Config:
    columns = {"value": "label", "context": ["ctx"], "user_attributes": ["useg"], "item_attributes": ["icat"]}
    return parse(
        {
            "stream": {"url": f"file:{path}", "sorted": True, "batch_rows": batch_rows, "kind": "click", "columns": columns},
            "features": {
                "user": {"id": "category", "useg": "category"},
                "item": {"id": "category", "icat": "category"},
                "context": {"ctx": "category"},
            },
            "reward": {"click": 1.0},
            "retrievers": {},
            "ranker": {"fm": {"factors": options.factors}},
        }
    )


def _replayed(name: str, config: Config, done: dict[str, Replay], whole: list[Cost]) -> Callable[[], Cost]:
    """Run a replay and return the cost of its loop; append the cost of the whole call, with curves and digest, to `whole`."""

    def run() -> Cost:
        start, cpu = time.perf_counter(), time.process_time()
        done[name] = one = replay(config, k=0)
        whole.append(Cost(one.rows, time.perf_counter() - start, time.process_time() - cpu))
        return Cost(one.rows, one.seconds, one.cpu_seconds)

    return run


def _vw(text: Path, rows: int) -> dict[str, Callable[[], Cost]]:
    idle = vw.start_up()
    source = ["-d", str(text)]
    writing = [*source, "-p", str(text.with_suffix(".predictions"))]
    return {
        f"{model}{suffix}": partial(vw.train, model, command, rows, idle)
        for suffix, command in (("", source), (" -p", writing))
        for model in vw.MODELS
    }


def _stages(config: Config, rows: int) -> dict[str, float]:
    """Nanoseconds per row of each stage (wall time), from one run with a clock around each stage."""
    with _clocked() as spent:
        seconds = replay(config, k=0).seconds
    parts = {name: 1e9 * used / rows for name, used in spent.items()}
    return {"read and decode": 1e9 * seconds / rows - sum(parts.values()), **parts}


@contextmanager
def _clocked() -> Iterator[dict[str, float]]:
    spent = dict.fromkeys(STAGES, 0.0)
    plain = {name: getattr(owner, method) for name, (owner, method) in STAGES.items()}

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    for name, (owner, method) in STAGES.items():
        setattr(owner, method, clocked(name, plain[name]))
    try:
        yield spent
    finally:
        for name, (owner, method) in STAGES.items():
            setattr(owner, method, plain[name])


def _show(
    rows: int,
    options: Namespace,
    rates: dict[str, dict[str, float]],
    quality: dict[str, dict[str, float]],
    ratios: dict[str, dict[str, float]],
    stages: dict[str, dict[str, float]],
) -> None:
    columns = ["rows_per_cpu_second", "rows_per_second", "rows_per_cpu_second_whole_call"]
    measure.table(
        f"Replay: {rows:,} rows, fm with {options.factors} factors, best of {options.rounds} rounds",
        ["", "rows per CPU second", "rows per second", "with report, per CPU second", "AUC", "log loss"],
        [
            [name, *(rate.get(column, "") for column in columns), *(f"{x:.4f}" for x in quality[name].values())]
            for name, rate in rates.items()
        ],
    )
    largest = f"batches of {max(options.batches)}"
    if shown := [[pair, *found.values()] for pair, found in ratios.items() if largest in pair]:
        measure.table("Ratio of rows per CPU second", ["pair", "best", "low", "median", "high"], shown)
    names = list(next(iter(stages.values())))
    measure.table("Nanoseconds per row", ["", *names], [[name, *(parts[x] for x in names)] for name, parts in stages.items()])


if __name__ == "__main__":
    main()
