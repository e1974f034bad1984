"""What a service needs and how long it takes with ten thousand to a million users and items.

A world of each size is made once in its folder, with a checkpoint. `state`: one process loads it and measures memory,
retrieval, recall, requests, checkpoints and changes. `serve`: a service on one core is asked for recommendations, open loop,
from another core, while it learns and saves checkpoints. `replica`: a trainer and a replica start from it.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import large_world, measure, service
from benchmarks.client import Plan, arrivals, call, drive, http
from learners.base import Exclusion, Retriever
from learners.features import hash_ids
from learners.retrievers.next_item import NextItem
from learners.retrievers.two_tower import TwoTower
from service.config import load
from service.learning.steps import Steps
from service.learning.trainer import Trainer
from service.process.runtime import Runtime, open_runtime
from service.ranking.requests import RecommendRequest
from streams.batch import Floats, Ids, Requests

__all__ = ["main"]

PARTS = ("state", "serve", "replica")
NEAREST = 100
ASKED = 32
"""Requests that recall is measured with."""
LEARNED = 4096
"""Likes of which the time is taken."""
PATIENCE = 900.0
POSTED = 10
"""Events of a post."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="users, and items")
    parser.add_argument("--retrievers", nargs="+", default=list(large_world.RETRIEVERS)[:4], choices=large_world.RETRIEVERS)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--likes", type=int, default=2, help="likes a user (default: %(default)s)")
    parser.add_argument("--taught", type=int, default=100_000, help="likes that the towers learn (default: %(default)s)")
    parser.add_argument("--worlds", type=Path, help="folder in which the worlds are kept (default: a temporary one)")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of requests (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second (default: %(default)s)")
    parser.add_argument("--events", type=float, default=100.0, help="events posted a second (default: %(default)s)")
    parser.add_argument("--checkpoint-every", type=float, default=20.0, help="seconds (default: %(default)s)")
    options = parser.parse_args(arguments)
    before = measure.machine()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="freshet-scaling-") as temporary:
        for size in options.sizes:
            folder = (options.worlds or Path(temporary)) / f"{size}-{'-'.join(options.retrievers)}"
            if not list(folder.glob("state/*/checkpoint-*.safetensors")):
                shutil.rmtree(folder, ignore_errors=True)
                large_world.make(folder, size, options.retrievers, options.likes, options.taught)
                gc.collect()
            found[str(size)] = {part: _PARTS[part](folder, size, options) for part in options.parts}
    _show(found, options)
    measure.finish("scaling", options, before, found)


def _state(folder: Path, size: int, options: Namespace) -> dict[str, Any]:
    config = load(large_world.write_config(folder, size, options.retrievers, 1e6))
    with open_runtime(config) as runtime:
        runtime.engine.stop()
        start = time.perf_counter(), time.process_time()
        runtime.updater.restore()
        loaded = time.perf_counter() - start[0], time.process_time() - start[1]
        pipeline = runtime.pipeline
        assert isinstance(runtime.updater, Trainer)
        runtime.updater.drain()
        gc.collect()
        gc.freeze()
        files = [path.stat().st_size for path in folder.glob("state/*/checkpoint-*.safetensors")]
        found: dict[str, Any] = {
            "load_s": loaded[0],
            "load_cpu_s": loaded[1],
            "checkpoint_bytes": max(files),
            "resident_bytes": _anonymous(os.getpid()),
            "memory_bytes": {name: store.nbytes for name, store in pipeline.stores()},
        }
        found["copy"] = _stepped(Steps(pipeline.copy_in_steps()))
        pipeline.take_changes()
        found["no_changes_ms"] = _milliseconds(lambda n: pipeline.take_changes(), 20)
        found["retrieve_ms"] = {
            name: _milliseconds(lambda n, one=retriever: one.retrieve(_requests(runtime, [n * 37]), NEAREST, Exclusion.none(1)))  # type: ignore[misc]
            for name, retriever in pipeline.retrievers.named.items()
        }
        found["request_ms"] = _milliseconds(lambda n: pipeline.rank([RecommendRequest(user=f"u{n * 41 % size}")]))
        found["recall"] = _recalls(runtime, size)
        found["learn_1000_ms"] = _learned(runtime, size)
        _change(runtime, size, size // 5)
        found["recall_after_a_fifth_changed"] = _recalls(runtime, size)
        # The runtime is not saved: the folder stays as it was made.
        runtime.engine.failure = RuntimeError("measured")
    return found


def _stepped(steps: Steps[Any]) -> dict[str, float]:
    """Longest turn of a copy, as the engine makes it, and the time of all."""
    cpu, wall, over = [], [], False
    while not over:
        start = time.thread_time(), time.perf_counter()
        over = steps.turn()
        cpu.append(time.thread_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return {"longest_cpu_ms": 1000 * max(cpu), "longest_ms": 1000 * max(wall), "cpu_s": sum(cpu)}


def _milliseconds(work: Callable[[int], object], times: int = 100) -> dict[str, float]:
    """CPU time of the thread, which other processes hardly change, and wall time."""
    for n in range(5):
        work(n)
    cpu, wall = [], []
    for n in range(times):
        start = time.thread_time(), time.perf_counter()
        work(n + 5)
        cpu.append(time.thread_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    found = {"cpu_p50_ms": np.median(cpu), "cpu_p99_ms": np.quantile(cpu, 0.99), "p50_ms": np.median(wall)}
    return {name: 1000 * float(seconds) for name, seconds in found.items()}


def _requests(runtime: Runtime, users: Sequence[int]) -> Requests:
    pipeline = runtime.pipeline
    context = pipeline.featurizer.encode_context([{}] * len(users))
    return pipeline.requests(hash_ids([f"u{n}" for n in users]), np.full(len(users), time.time()), context)


def _recalls(runtime: Runtime, size: int) -> dict[str, float]:
    """Share of the truly best items, by current weights, that retrievers with lists return."""
    requests = _requests(runtime, np.random.default_rng(0).integers(size, size=ASKED).tolist())
    found = {}
    for name, retriever in runtime.pipeline.retrievers.named.items():
        if isinstance(retriever, TwoTower | NextItem):
            found[name] = _recall(retriever, requests)
    return found


def _recall(retriever: Retriever, requests: Requests) -> float:
    candidates, shared = retriever.retrieve(requests, NEAREST, Exclusion.none(ASKED)), 0
    keys, scores = _exact(retriever, requests)
    for b, score in enumerate(scores):
        best = keys[np.argpartition(-score, NEAREST - 1)[:NEAREST]]
        shared += np.isin(best, candidates.item[candidates.request == b]).sum()
    return float(shared / (ASKED * NEAREST))


def _exact(retriever: Retriever, requests: Requests) -> tuple[Ids, Floats]:
    """Ids (n,) of all items, and their scores (B, n) for requests."""
    if isinstance(retriever, NextItem):
        slots, logits = retriever.model.every_logit(requests)
        return retriever.model.items.keys[slots], logits
    assert isinstance(retriever, TwoTower)
    keys, users = retriever.items.keys[retriever.items.keys != 0], retriever.users(requests)
    parts = [users @ retriever.vectors(keys[start : start + 50_000]).T for start in range(0, keys.size, 50_000)]
    return keys, np.concatenate(parts, axis=1)


def _learned(runtime: Runtime, size: int) -> dict[str, float]:
    """CPU milliseconds in which each learner learns a thousand likes of random users and items, in ordinary micro-batches."""
    user, item = np.random.default_rng(3).integers(size, size=(2, LEARNED))
    assert isinstance(runtime.updater, Trainer)
    spent = {name: 0.0 for name, _ in runtime.pipeline.learners()}
    for block in large_world.blocks(user, item, size, large_world.MICRO_BATCH):
        feedback = runtime.updater.builder.from_block(block)
        runtime.pipeline.prepare(feedback)
        for name, learner in runtime.pipeline.learners():
            start = time.thread_time()
            learner.learn(feedback)
            spent[name] += time.thread_time() - start
    return {name: 1e6 * seconds / LEARNED for name, seconds in spent.items()}


def _change(runtime: Runtime, size: int, items: int) -> None:
    """Let the towers and the model of the next item learn a like of each of so many items."""
    rng = np.random.default_rng(1)
    chosen = rng.choice(size, items, replace=False)
    learners = [one for one in runtime.pipeline.retrievers.named.values() if isinstance(one, TwoTower | NextItem)]
    for block in large_world.blocks(chosen, chosen, size, large_world.MICRO_BATCH):
        assert isinstance(runtime.updater, Trainer)
        feedback = runtime.updater.builder.from_block(block)
        for learner in learners:
            learner.learn(feedback)


def _serve(folder: Path, size: int, options: Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="freshet-scaling-") as temporary:
        copy = _copied(folder, Path(temporary) / "world")
        config = large_world.write_config(copy, size, options.retrievers, options.checkpoint_every)
        start = time.monotonic()
        with service.running(Path(temporary), config, "serve", core=0) as (address, pid):
            _wait(address, "/readyz")
            ready, ready_cpu = time.monotonic() - start, service.cpu_seconds(pid)
            os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)) or {0})
            rng = np.random.default_rng(0)
            asked = [
                http("POST", address, "/v1/recommend", json.dumps({"user": f"u{n}", "n": 10}).encode())
                for n in rng.integers(size, size=2000)
            ]
            for request in asked[:50]:
                service.fine(call(address, request))
            posted = [
                {"type": "interaction", "id": f"e{n}", "user": f"u{user}", "item": f"i{item}"}
                for n, (user, item) in enumerate(rng.integers(size, size=(round(options.events * options.seconds) + POSTED, 2)))
            ]
            plans = [
                Plan("recommend", arrivals(options.rate, options.seconds, "poisson", rng), asked),
                Plan("floor", arrivals(20.0, options.seconds, "poisson", rng), [http("GET", address, "/healthz")]),
            ]
            if options.events:
                times = arrivals(options.events / POSTED, options.seconds, "poisson", rng)
                plans.append(Plan("events", times, service.events(address, posted, POSTED)))
            used = service.cpu_seconds(pid)
            outcomes = drive(address, plans)
            used = service.cpu_seconds(pid) - used
            os.sched_setaffinity(0, set(range(os.cpu_count() or 1)))
            status = json.loads(service.fine(call(address, http("GET", address, "/v1/status"))))
            return {
                "ready_s": ready,
                "recommend": service.quantiles(outcomes["recommend"].latency),
                "floor": service.quantiles(outcomes["floor"].latency),
                "late": service.quantiles(outcomes["recommend"].late),
                "failures": outcomes["recommend"].failures,
                "ready_cpu_s": ready_cpu,
                "cpu_share": used / options.seconds,
                "checkpoints": len(list(copy.glob("state/*/checkpoint-*.safetensors"))),
                "resident_bytes": _anonymous(pid),
                "stated_bytes": sum(status["memory_bytes"].values()),
            }


def _replica(folder: Path, size: int, options: Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="freshet-scaling-") as temporary:
        copy = _copied(folder, Path(temporary) / "world")
        config = large_world.write_config(copy, size, options.retrievers, 1e6, replicas=True)
        start = time.monotonic()
        with service.running(Path(temporary), config, "train") as (trainer, _):
            _wait(trainer, "/readyz")
            trainer_ready, start = time.monotonic() - start, time.monotonic()
            with service.running(Path(temporary), config, "serve", "--replica") as (replica, pid):
                _wait(replica, "/readyz")
                ready, ready_cpu = time.monotonic() - start, service.cpu_seconds(pid)
                rng = np.random.default_rng(2)
                burst = [
                    {"type": "interaction", "id": f"b{n}", "user": f"u{user}", "item": f"i{item}"}
                    for n, (user, item) in enumerate(rng.integers(size, size=(5000, 2)))
                ]
                start = time.monotonic()
                for request in service.events(replica, burst, 500):
                    service.fine(call(replica, request))
                goal = _offset(replica, trainer)
                while _next(replica) < goal and time.monotonic() - start < PATIENCE:
                    time.sleep(0.02)
                caught_up = time.monotonic() - start
                return {
                    "trainer_ready_s": trainer_ready,
                    "replica_ready_s": ready,
                    "replica_ready_cpu_s": ready_cpu,
                    "caught_up_s": caught_up,
                    "replica_resident_bytes": _anonymous(pid),
                }


_PARTS: dict[str, Callable[[Path, int, Namespace], dict[str, Any]]] = {"state": _state, "serve": _serve, "replica": _replica}


def _copied(folder: Path, to: Path) -> Path:
    """Copy a world; the large files are linked, because nothing writes to a checkpoint."""
    shutil.copytree(folder, to, copy_function=lambda one, other: (os.link if "checkpoint-" in one else shutil.copy)(one, other))
    return to


def _wait(address: str, path: str) -> None:
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        try:
            if call(address, http("GET", address, path))[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{path}: not ready within {PATIENCE:.0f} s")


def _next(address: str) -> int:
    status = json.loads(service.fine(call(address, http("GET", address, "/v1/status"))))
    return sum(status["next"].values())


def _offset(replica: str, trainer: str) -> int:
    """Offset of the events log up to which a replica has to follow: where the trainer has nothing left to learn."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        status = json.loads(service.fine(call(trainer, http("GET", trainer, "/v1/status"))))
        if status["lag"] == 0:
            return sum(status["next"].values())
        time.sleep(0.02)
    raise RuntimeError("the trainer does not catch up")


def _anonymous(pid: int) -> int:
    """Bytes of resident memory of a process that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 1024 * int(found[1]) if found is not None else 0


def _show(found: dict[str, dict[str, Any]], options: Namespace) -> None:
    for part in options.parts:
        columns = [_flat(of_size[part]) for of_size in found.values()]
        rows = [[name, *(values.get(name, "") for values in columns)] for name in columns[-1]]
        measure.table(f"{part}, by users and items", ["", *(f"{int(size):,}" for size in found)], rows)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = inner
    return flat


if __name__ == "__main__":
    main()
