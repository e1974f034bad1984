"""Rows per second that one trainer learns, and that several processes learn together; and how well each predicts.

The stream of clicks is appended to an embedded log of several partitions: interactions with a context, and attributes of users
and items. Contenders read it in turns: the ordinary trainer, and `torchrun`'s processes, one and several. Cores are shared by
all processes of a contender, so several need as many free cores. Beside wall time stands the CPU time of the busiest process:
without free cores, its ratio is what several machines would gain.

Quality is the AUC of each row's score before it is learned, over seeds of the stream. Learners that every process lets learn
all rows have exactly the state of one; the digests tell.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, stream
from service.config import Config, load
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.logs import open_log
from service.process.runtime import build_pipeline, joiners
from service.sharding.opening import open_sharded
from service.sharding.trainer import ShardedTrainer
from streams.batch import Feedback
from streams.codec import encode
from streams.dead_letters import DeadLetters
from streams.events import Event, Interaction, ItemUpdate, Scalar, UserUpdate
from streams.lmdb_log import LmdbLog

__all__ = ["main"]

WORKER = "--worker"
WARM = 0.1
"""Share of the records that are learned before the measurement begins: functions are compiled or loaded."""

CONFIG = """
[stream]
url = "lmdb://{folder}"
window = 60.0
batch_rows = 256
[stream.options]
partitions = {partitions}
[reward]
click = 1.0
view = 0.0
[features.user]
id = "category"
useg = "category"
[features.item]
id = "category"
icat = "category"
[features.context]
ctx = "category"
[policy.greedy]
[checkpoint]
folder = "{folder}/{name}"
every = 3600.0
{learners}
"""

LEARNERS = {
    "fm": "[retrievers]\n[ranker.fm]",
    "deep": "[retrievers]\n[ranker.deep]",
    "fm, popularity, item_knn": "[retrievers.popularity]\n[retrievers.item_knn]\n[ranker.fm]",
}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and a line of JSON."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == [WORKER]:
        _work(Path(given[1]), Path(given[2]), given[3])
        return
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="rows for the rates (default: %(default)s)")
    parser.add_argument("--auc-rows", type=int, default=100_000, help="rows for the AUC; 0 skips it (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="streams for the AUC (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of processes (default: %(default)s)")
    parser.add_argument("--learners", nargs="+", choices=list(LEARNERS), default=list(LEARNERS))
    options = parser.parse_args(given)
    before = measure.machine()
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as folder:
        rates = {name: _rates(name, options, Path(folder)) for name in options.learners}
        quality = {name: _quality(name, options, Path(folder)) for name in options.learners if options.auc_rows}
    for name, found in rates.items():
        columns = ["contender", "rows per second", "of one", "CPU us a row, busiest process", "of one"]
        measure.table(f"{name}: {options.rows:,} rows, best of {options.rounds} rounds", columns, list(_rows(found)))
    for name, of_ranks in quality.items():
        measure.table(
            f"{name}: AUC over {options.seeds} streams of {options.auc_rows:,} rows",
            ["processes", "mean", "standard deviation", "mean difference to 1", "its standard deviation", "state as of 1"],
            [[ranks, *one.values()] for ranks, one in of_ranks.items()],
        )
    measure.finish("sharded_training", options, before, {"rates": rates, "quality": quality})


def _rows(found: Mapping[str, list[dict[str, Any]]]) -> Iterator[list[object]]:
    one = found["1 process"]
    for name, rounds in found.items():
        wall = max(each["rows"] / each["wall"] for each in rounds)
        cpu = min(each["cpu"] / each["rows"] for each in rounds)
        faster = [(a["rows"] / a["wall"]) / (b["rows"] / b["wall"]) for a, b in zip(rounds, one, strict=True)]
        cheaper = [(b["cpu"] / b["rows"]) / (a["cpu"] / a["rows"]) for a, b in zip(rounds, one, strict=True)]
        yield [name, wall, _spread(faster), 1e6 * cpu, _spread(cheaper)]


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _rates(name: str, options: Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Costs of all contenders in interleaved rounds."""
    config = _fill(folder / "rates", name, stream.make(options.rows), options.partitions)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("trainer", *map(_processes, options.ranks))}
    for turn in range(options.rounds):
        with measure.err.status(f"{name}: round {turn + 1} of {options.rounds}"):
            found["trainer"].append(_run(config, folder, 0)[0])
            for ranks in options.ranks:
                of_all = _run(config, folder, ranks)
                rows, wall = sum(one["rows"] for one in of_all), max(one["wall"] for one in of_all)
                found[_processes(ranks)].append({"rows": rows, "wall": wall, "cpu": max(one["cpu"] for one in of_all)})
    return found


def _processes(ranks: int) -> str:
    return f"{ranks} process{'es' * (ranks > 1)}"


def _quality(name: str, options: Namespace, folder: Path) -> dict[int, dict[str, Any]]:
    """AUC by number of processes, and whether all their states are that of one process."""
    aucs: dict[int, list[float]] = {ranks: [] for ranks in options.ranks}
    digests: dict[int, list[str]] = {ranks: [] for ranks in options.ranks}
    for seed in range(options.seeds):
        config = _fill(folder / f"seed-{seed}", name, stream.make(options.auc_rows, seed=seed), options.partitions)
        for ranks in options.ranks:
            with measure.err.status(f"{name}: stream {seed + 1} of {options.seeds}, {ranks} processes"):
                of_all = _run(config, folder, ranks)
            scores, labels = (np.concatenate([np.load(one["scores"])[key] for one in of_all]) for key in ("score", "label"))
            aucs[ranks].append(_auc(scores, labels))
            digests[ranks].append(of_all[0]["digest"])
    one = options.ranks[0]
    found = {}
    for ranks in options.ranks:
        differences = [a - b for a, b in zip(aucs[ranks], aucs[one], strict=True)]
        found[ranks] = {
            "auc": statistics.mean(aucs[ranks]),
            "auc_deviation": statistics.stdev(aucs[ranks]) if options.seeds > 1 else 0.0,
            "difference": statistics.mean(differences),
            "difference_deviation": statistics.stdev(differences) if options.seeds > 1 else 0.0,
            "equal_states": digests[ranks] == digests[one],
        }
    return found


def _auc(score: np.ndarray[Any, Any], label: np.ndarray[Any, Any]) -> float:
    """Probability that a click has a higher score than another row; ties count half."""
    _, at, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[at]
    clicks = label > 0
    positive = float(clicks.sum())
    return float((rank[clicks].sum() - positive * (positive + 1) / 2) / (positive * (label.size - positive)))


def _fill(folder: Path, name: str, clicks: stream.Clicks, partitions: int) -> Path:
    """Write the log, if it is not there, and the config."""
    if not folder.exists():
        log = LmdbLog(folder / "events", partitions=partitions)
        events = list(_events(clicks))
        for start in range(0, len(events), 10_000):
            log.append([(key, encode(event)) for key, event in events[start : start + 10_000]])
        log.close()
    config = folder / "config.toml"
    config.write_text(CONFIG.format(folder=folder, partitions=partitions, learners=LEARNERS[name], name="state"))
    return config


def _events(clicks: stream.Clicks) -> Iterator[tuple[bytes, Event]]:
    known: set[str] = set()
    for n, at in enumerate(clicks.timestamp.tolist()):
        user, item = f"u{clicks.user[n]}", f"i{clicks.item[n]}"
        if user not in known:
            yield user.encode(), UserUpdate(user=user, attributes={"useg": str(clicks.useg[n])}, timestamp=at)
        if item not in known:
            yield item.encode(), ItemUpdate(item=item, attributes={"icat": str(clicks.icat[n])}, timestamp=at)
        known |= {user, item}
        kind = "click" if clicks.label[n] else "view"
        context: dict[str, Scalar] = {"ctx": str(clicks.ctx[n])}
        event = Interaction(id=f"e{n}", user=user, item=item, kind=kind, value=1.0, context=context, timestamp=at)
        yield user.encode(), event


def _run(config: Path, folder: Path, ranks: int) -> list[dict[str, Any]]:
    """Run a contender, and return what each of its processes says: 0 processes are the ordinary trainer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(max(ranks, 1)):
        out = folder / f"out-{rank}.json"
        together = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", "benchmarks.sharded_training", WORKER, str(config), str(out), str(ranks)]
        running.append((subprocess.Popen(command, env=os.environ | together), out))
    for process, _ in running:
        if process.wait():
            sys.exit(f"a process ended with {process.returncode}")
    return [json.loads(out.read_text()) for _, out in running]


class _Scores:
    """Keeps the score of each row before it was learned; see `service.monitoring.monitor.Monitor.learned`."""

    def __init__(self) -> None:
        self.score: list[Any] = []
        self.label: list[Any] = []

    def learned(self, feedback: Feedback, sources: Iterable[str], appended: Iterable[float]) -> None:
        self.score.append(feedback.base)
        self.label.append(feedback.reward)


def _work(path: Path, out: Path, ranks: str) -> None:
    """Learn the log in this process, and write what it took."""
    config, scores = load(path), _Scores()
    trainer, close = _ordinary(config) if ranks == "0" else _together(config, scores)
    trainer.restore()
    warm = WARM * sum(trainer.log.end().values())
    while sum(trainer.next.values()) < warm:
        trainer.turn()
    gc.freeze()  # as the engine of the service does
    before, wall, cpu = dict(trainer.next), time.perf_counter(), time.process_time()
    trainer.drain()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    owned = [p for p in before if ranks == "0" or p % int(ranks) == int(os.environ["RANK"])]
    said = {"rows": sum(trainer.next[p] - before[p] for p in owned), "wall": wall, "cpu": cpu, "digest": trainer.digest()}
    if scores.score:
        np.savez(file := out.with_suffix(".npz"), score=np.concatenate(scores.score), label=np.concatenate(scores.label))
        said["scores"] = str(file)
    out.write_text(json.dumps(said))
    close()


def _together(config: Config, scores: _Scores) -> tuple[ShardedTrainer, Any]:
    runtime = open_sharded(config)
    trainer = runtime.updater
    assert isinstance(trainer, ShardedTrainer)
    trainer.monitor = scores  # type: ignore[assignment]
    return trainer, trainer.close


def _ordinary(config: Config) -> tuple[Trainer, Any]:
    log, pipeline = open_log(config), build_pipeline(config)
    trainer = Trainer(
        pipeline,
        FeedbackBuilder(pipeline, config.reward),
        joiners(config, len(log.end())),
        log,
        DeadLetters(),
        EventValidator(config.reward, config.stream.max_skew),
    )
    return trainer, trainer.close


if __name__ == "__main__":
    main()
