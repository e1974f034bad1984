"""CPU time of the world models of ``losse_ftl``: one update, and a request of 100 candidates, by encoder and horizon.

Random states and actions; one thread. Each number is the best of ``--rounds`` turns, in which the contenders alternate.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks import measure
from learners.contract.small import SCHEMA
from learners.contract.worlds import feedback_of
from learners.lookups import Catalogues, UserHistory
from learners.rerankers.losse_ftl.reranker import LosseFtl
from learners.threads import one_thread
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from streams.batch import Batch, Feedback

__all__ = ["main"]

CANDIDATES = 100
USERS, ITEMS = 200, 400


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=7)
    parser.add_argument("--requests", type=int, default=300, help="requests of a turn (default: %(default)s)")
    options = parser.parse_args(arguments)
    before = measure.machine()
    made = {f"{encoder}, H={horizon}": _learner(encoder, horizon) for encoder in ("rff", "losse") for horizon in (1, 2, 3)}
    one_thread()
    contenders: dict[str, tuple[Callable[[Feedback], object], Callable[[Batch], object]]] = {
        name: (learner.learn, learner.rerank) for name, learner in made.items()
    }
    best = {name: [np.inf, np.inf] for name in contenders}
    for turn in range(-1, options.rounds):
        for name, (learn, rerank) in contenders.items():
            for which, (call, rows) in enumerate(((learn, 1), (rerank, CANDIDATES))):
                requests = [_request(turn * options.requests + n, rows) for n in range(options.requests)]
                start = time.process_time()
                for one in requests:
                    call(one)
                if turn >= 0:
                    best[name][which] = min(best[name][which], (time.process_time() - start) / options.requests * 1e3)
    metrics = {name: {"learn_ms": learn, "request_ms": rank} for name, (learn, rank) in best.items()}
    measure.table(
        f"CPU ms for a request learned, and for a ranking of {CANDIDATES} candidates",
        ["", "learn", "rank", "bytes"],
        [[name, f"{learn:.2f}", f"{rank:.2f}", f"{made[name].nbytes:,}"] for name, (learn, rank) in best.items()],
    )
    measure.finish("lookahead", options, before, metrics)


def _learner(encoder: str, horizon: int) -> LosseFtl:
    learner = LosseFtl(encoder=encoder, horizon=horizon, beta=1.0, users=1000, first=50)  # type: ignore[arg-type]
    items, rng = Catalog(ITEMS, len(SCHEMA.items)), np.random.default_rng(0)
    for n in range(ITEMS):
        items.put(n + 1, str(n), {}, rng.integers(1, 20, 3) * np.array([1, 0, 1]), np.array([1, 0, 1], np.float32))
    learner.bind(SCHEMA, Catalogues(Catalog(8, len(SCHEMA.users)), items), UserHistory(History(8, 5)))
    for n in range(400):
        learner.learn(_request(n, 1))
    return learner


def _request(seed: int, rows: int) -> Feedback:
    rng = np.random.default_rng(abs(seed))
    one = feedback_of(
        user=np.full(rows, rng.integers(1, USERS)), item=rng.integers(1, ITEMS + 1, rows), reward=rng.integers(0, 2, rows)
    )
    keep = one.columns(slice(0, 1))
    for name, column in keep.items():
        setattr(one, name, column)
    one.timestamp = np.array([float(seed)])
    one.request[:] = 0
    one.score = one.base = np.full(rows, 0.3, np.float32)
    return one


if __name__ == "__main__":
    main()
