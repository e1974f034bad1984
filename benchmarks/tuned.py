"""`freshet tune` beside Optuna around Vowpal Wabbit's program, with as many CPU seconds for its trials.

Both search on the first 60 % of the rows and are compared on the rest: log loss of each row before it is learned. For VW,
Optuna chooses the kind of learning rate and its size, L2, the pairs of columns that are crossed, and the factors of users and
items (``--lrq``). VW reads its binary cache and learns row by row.
"""

from __future__ import annotations

import resource
import tempfile
import time
from argparse import Namespace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks import measure, stream, vw
from service.config import parse
from service.evaluation.tuning.replays import Stream
from service.evaluation.tuning.tune import Plan, Tuned, tune
from service.monitoring.quality import log_loss

__all__ = ["main"]

NAMESPACES = "uiscx"
"""User, item, segment, category and context; see `stream.write_vw`."""
RATES = {"sgd": ["--sgd"], "adaptive": [], "ftrl": ["--ftrl"], "coin": ["--coin"]}
SHARE = 0.6


def main(arguments: list[str] | None = None) -> None:
    """Search twice, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the stream (default: %(default)s)")
    parser.add_argument("--npz", type=Path, help="read the stream from this file instead of making it")
    parser.add_argument("--trials", type=int, default=40, help="trials of freshet tune (default: %(default)s)")
    parser.add_argument("--batch-rows", type=int, default=64, help="rows of a micro-batch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of both searches (default: %(default)s)")
    parser.add_argument(
        "--rankers", nargs="+", default=["fm", "fm_mixture"], help="the first is the base (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    before = measure.machine()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as name:
        folder = Path(name)
        clicks = stream.take(options.npz, options.rows)
        cpu, wall = _cpu(), time.perf_counter()
        ours = _ours(clicks, folder, options)
        cpu, wall = _cpu() - cpu, time.perf_counter() - wall
        found = {"freshet": _summary(ours) | {"cpu_seconds": cpu, "wall_seconds": wall}}
        if measure.installed("vowpalwabbit", options):
            found["vw + optuna"] = _vw(clicks, folder, cpu, options.seed)
    rest = clicks.label[round(SHARE * clicks.rows) :]
    guess = float(log_loss(np.full(rest.size, clicks.label.mean(), np.float32), rest).mean())
    columns = ("trials", "log loss, first 60 %", "log loss, rest", "CPU s")
    text = [
        (name, str(one["trials"]), f"{one['first']:.4f}", f"{one['rest']:.4f}", f"{one['cpu_seconds']:.0f}")
        for name, one in found.items()
    ]
    measure.table(f"{clicks.rows:,} rows; a constant guess has {guess:.4f} on the rest", ("", *columns), text)
    measure.finish("tuned", options, before, {"found": found, "guess": guess})


def _ours(clicks: stream.Clicks, folder: Path, options: Namespace) -> Tuned:
    stream.write_table(clicks, folder / "clicks.parquet")
    columns = {"value": "label", "context": ["ctx"], "user_attributes": ["useg"], "item_attributes": ["icat"]}
    document: dict[str, Any] = {
        "stream": {
            "url": f"file:{folder / 'clicks.parquet'}",
            "sorted": True,
            "batch_rows": options.batch_rows,
            "kind": "click",
            "columns": columns,
        },
        "features": {
            "user": {"id": "category", "useg": "category"},
            "item": {"id": "category", "icat": "category"},
            "context": {"ctx": "category"},
        },
        "reward": {"click": 1.0},
        "retrievers": {},
        "ranker": {options.rankers[0]: {}},
    }
    if len(options.rankers) > 1:
        document["tune"] = {"ranker": {"choices": options.rankers}} | {f"ranker.{name}": {} for name in options.rankers}
    plan = Plan(
        document=document, name="base", study=folder / "study.sqlite", trials=options.trials, share=SHARE, seed=options.seed
    )
    return tune(plan)


def _summary(tuned: Tuned) -> dict[str, Any]:
    confirmation = tuned.confirmation
    if confirmation is None:
        # The base is the best, and then nothing is confirmed.
        plan = tuned.plan
        sample = Stream(plan.objective, plan.k, plan.share).whole(parse(plan.document, plan.name))
        rest = sample.value(sample.at >= tuned.first)
    else:
        rest = confirmation.winner
    values = {path: str(value) for path, value in tuned.best_values.items()}
    return {"trials": len(tuned.tried), "first": tuned.best.value, "rest": rest, "values": values}


def _vw(clicks: stream.Clicks, folder: Path, budget: float, seed: int) -> dict[str, Any]:
    """Search until the budget of CPU seconds is spent, then predict the whole stream with the best options."""
    first = round(SHARE * clicks.rows)
    parts = {"whole": clicks, "first": stream.head(clicks, first)}
    sources = {}
    for name, part in parts.items():
        stream.write_vw(part, folder / f"{name}.vw")
        sources[name] = vw.cached(folder / f"{name}.vw")
    output = folder / "predictions"

    def loss(chosen: list[str], name: str, start: int) -> float:
        predicted = vw.predicted(chosen, sources[name], output)
        return float(log_loss(predicted[start:], parts[name].label[start:]).mean())

    def objective(trial: optuna.Trial) -> float:
        chosen = _options(trial)
        trial.set_user_attr("options", chosen)
        return loss(chosen, "first", 0)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    before, wall = _cpu(), time.perf_counter()
    while (spent := _cpu() - before) < budget:
        study.optimize(objective, n_trials=1)
    best = study.best_trial.user_attrs["options"]
    return {
        "trials": len(study.trials),
        "first": study.best_value,
        "rest": loss(best, "whole", first),
        "cpu_seconds": spent,
        "wall_seconds": time.perf_counter() - wall,
        "values": " ".join(best),
    }


def _options(trial: optuna.Trial) -> list[str]:
    kind = trial.suggest_categorical("kind", list(RATES))
    chosen = [*RATES[kind], "-l", str(trial.suggest_float("rate", 0.001, 10.0, log=True))]
    if kind in ("sgd", "adaptive"):
        chosen += ["--power_t", str(trial.suggest_float("power_t", 0.0, 0.5))]
    chosen += ["--l2", str(trial.suggest_float("l2", 1e-10, 1e-4, log=True))]
    for one, other in combinations(NAMESPACES, 2):
        if trial.suggest_categorical(one + other, [False, True]):
            chosen += ["-q", one + other]
    # VW has factors only with its plain learning rates.
    if kind in ("sgd", "adaptive") and (factors := trial.suggest_categorical("factors", [0, 4, 8, 16, 32])):
        chosen += ["--lrq", f"ui{factors}"]
    return chosen


def _cpu() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
