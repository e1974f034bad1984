"""Rows per second that a learner alone scores and learns: features are ready in memory, nothing is decoded or evaluated.

Peers in the same interleaved rounds are river (one dict per row) and Vowpal Wabbit (its own program, which reads text or its
binary cache; the cache is closest to ready features).
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import measure, stream, vw
from benchmarks.measure import Cost
from learners.base import Ranker
from learners.features import hash_ids
from learners.rankers.bias import Bias
from learners.rankers.fm import FactorizationMachine
from streams.batch import Feedback

__all__ = ["batches", "main"]

FIELDS = ("user", "item", "useg", "icat", "ctx")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="rows of the stream (default: %(default)s)")
    parser.add_argument("--single-rows", type=int, default=30_000, help="rows for batches of one (default: %(default)s)")
    parser.add_argument("--river-rows", type=int, default=20_000, help="rows for river (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256, 1024], help="rows of a micro-batch")
    parser.add_argument("--factors", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--npz", type=Path, help="read the stream from this file instead of making it")
    options = parser.parse_args(arguments)
    measure.pin(options)
    before = measure.machine()
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as folder:
        clicks = stream.take(options.npz, options.rows)
        contenders = _ours(clicks, options) | _river(clicks, options) | _vw(clicks, Path(folder), options)
        costs = measure.interleave(contenders, options.rounds)
    rates = {name: measure.best(spent) for name, spent in costs.items()}
    measure.table(
        f"Learning alone: {clicks.rows:,} rows, {len(FIELDS)} columns, best of {options.rounds} rounds",
        ["learner", "rows per CPU second", "rows per second"],
        [[name, rate["rows_per_cpu_second"], rate["rows_per_second"]] for name, rate in rates.items()],
    )
    ours = f"fm {max(options.factors)}, batches of {max(options.batches)}, score + learn"
    ratios = {f"{ours} / {peer}": measure.ratio(costs, ours, peer) for peer in costs if peer.startswith(("river", "vw"))}
    if ratios:
        measure.table(
            "Ratio of rows per CPU second",
            ["pair", "best", "low", "median", "high"],
            [[pair, *found.values()] for pair, found in ratios.items()],
        )
    measure.finish("learn_throughput", options, before, {"rates": rates, "ratios": ratios})


def _ours(clicks: stream.Clicks, options: Namespace) -> dict[str, Callable[[], Cost]]:
    contenders: dict[str, Callable[[], Cost]] = {}
    for rows in options.batches:
        cut = batches(clicks, rows, options.single_rows if rows == 1 else clicks.rows)
        for factors in options.factors:
            name = f"fm {factors}, batches of {rows}"
            make = partial(FactorizationMachine, factors=factors)
            contenders[f"{name}, score + learn"] = _timed(make, cut, True)
            contenders[f"{name}, learn"] = _timed(make, cut, False)
        contenders[f"bias, batches of {rows}, score + learn"] = _timed(Bias, cut, True)
    return contenders


def _timed(make: Callable[[], Ranker], cut: list[Feedback], score: bool) -> Callable[[], Cost]:
    def run() -> Cost:
        learner = make()
        for batch in cut[:2]:  # compiles on first use
            learner.score(batch)
            learner.learn(batch)
        with measure.stopwatch(sum(batch.rows for batch in cut)) as watch:
            if score:
                for batch in cut:
                    learner.score(batch)
                    learner.learn(batch)
            else:
                for batch in cut:
                    learner.learn(batch)
        return watch.cost

    return run


def batches(clicks: stream.Clicks, rows: int, max_rows: int) -> list[Feedback]:
    """Cut the first `max_rows` rows into micro-batches with features."""
    keys = np.stack([_keys(name, getattr(clicks, name)) for name in FIELDS], axis=1)
    ones = np.ones(keys.shape, np.float32)
    made = []
    for start in range(0, min(clicks.rows, max_rows), rows):
        part = slice(start, start + rows)
        size = clicks.label[part].size
        made.append(
            Feedback(
                user=keys[part, 0].copy(),
                timestamp=clicks.timestamp[part],
                history=np.zeros((size, 0), np.int64),
                context=keys[part, 4:],
                context_values=ones[part, 4:],
                item=keys[part, 1].copy(),
                request=np.arange(size),
                features=keys[part],
                values=ones[part],
                reward=clicks.label[part],
                propensity=np.full(size, np.nan, np.float32),
                weight=ones[part, 0].copy(),
                kind=np.ones(size, np.int32),
                outcome_time=np.zeros(size),
                correction=np.zeros(size, np.bool_),
            )
        )
    return made


def _keys(name: str, codes: stream.Codes) -> stream.Codes:
    return hash_ids([f"{name}={code}" for code in range(int(codes.max()) + 1)])[codes]


def _river(clicks: stream.Clicks, options: Namespace) -> dict[str, Callable[[], Cost]]:
    if not measure.installed("river", options):
        return {}
    from river.facto import FMClassifier
    from river.linear_model import LogisticRegression
    from river.optim import SGD

    rows = min(options.river_rows, clicks.rows)
    columns = [[f"{name}={code}" for code in getattr(clicks, name)[:rows].tolist()] for name in FIELDS]
    seen = [dict.fromkeys(names, 1.0) for names in zip(*columns, strict=True)]
    labels = (clicks.label[:rows] > 0).tolist()

    def timed(make: Callable[[], LogisticRegression | FMClassifier]) -> Callable[[], Cost]:
        def run() -> Cost:
            model = make()
            with measure.stopwatch(rows) as watch:
                for x, y in zip(seen, labels, strict=True):
                    model.predict_proba_one(x)  # type: ignore[no-untyped-call]
                    model.learn_one(x, y)
            return watch.cost

        return run

    return {
        "river LogisticRegression": timed(lambda: LogisticRegression(SGD(0.02))),
        "river FMClassifier 10": timed(lambda: FMClassifier(n_factors=10, seed=1)),
    }


def _vw(clicks: stream.Clicks, folder: Path, options: Namespace) -> dict[str, Callable[[], Cost]]:
    if not measure.installed("vowpalwabbit", options):
        return {}
    text = folder / "clicks.vw"
    stream.write_vw(clicks, text)
    sources = {"cache": vw.cached(text), "text": ["-d", str(text)]}
    idle = vw.start_up()
    return {
        f"{model}, {kind}": partial(vw.train, model, source, clicks.rows, idle)
        for model in vw.MODELS
        for kind, source in sources.items()
    }


if __name__ == "__main__":
    main()
