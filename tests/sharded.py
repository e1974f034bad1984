"""Processes of one training as threads of one process, for tests of what they learn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from service.sharding.building import Deferred
from service.sharding.keeping import Keeper
from service.sharding.trainer import ShardedTrainer
from streams.dead_letters import DeadLetters
from streams.log import Log, MemoryLog

__all__ = ["Together", "in_threads", "train", "trainer"]

_Result = TypeVar("_Result")

_COMPUTING = threading.Lock()
"""Held by the thread that computes: real ones are processes, and torch and numba see one thread at a time there."""
_own = threading.local()


class Together:
    """What threads share to exchange messages; see `service.sharding.world.Peers`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.messages: list[bytes] = [b""] * size
        self.barrier = threading.Barrier(size)

    def peer(self, rank: int) -> Peer:
        """One of them."""
        return Peer(self, rank)


class Peer:
    """One thread among those of `Together`."""

    def __init__(self, together: Together, rank: int) -> None:
        self._together, self.rank, self.size = together, rank, together.size

    def gather(self, message: bytes, kind: str) -> list[bytes]:
        """See `Peers`."""
        together, computing = self._together, getattr(_own, "computing", False)
        if computing:
            _COMPUTING.release()
        try:
            together.messages[self.rank] = message
            together.barrier.wait(60)
            found = list(together.messages)
            together.barrier.wait(60)
        except threading.BrokenBarrierError as error:
            raise ConnectionError("another one has ended") from error
        finally:
            if computing:
                _COMPUTING.acquire()
        return found

    def broadcast(self, message: bytes) -> bytes:
        """See `Peers`."""
        return self.gather(message, "")[0]

    def close(self) -> None:
        """Let the others fail, as when a process has ended."""
        self._together.barrier.abort()


def in_threads(calls: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Call all at once; one computes while the others wait for messages."""

    def alone(call: Callable[[], _Result]) -> _Result:
        with _COMPUTING:
            _own.computing = True
            return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(120) for future in [pool.submit(alone, call) for call in calls]]


def trainer(config: Config, log: Log, peer: Peer, folder: Path | None = None, **keeping: Any) -> ShardedTrainer:
    """Make the trainer of one thread; it is not restored yet."""
    pipeline, effects = build_pipeline(config), Deferred()
    return ShardedTrainer(
        pipeline,
        FeedbackBuilder(pipeline, config.reward, effects=effects),
        effects,
        joiners(config, len(log.end())),
        log,
        DeadLetters(MemoryLog()),
        EventValidator(config.reward, config.stream.max_skew),
        peer,
        Keeper(pipeline, log, folder, **keeping) if peer.rank == 0 else None,
    )


def train(config: Config, log: Log, ranks: int, folder: Path | None = None, **keeping: Any) -> list[ShardedTrainer]:
    """Let `ranks` threads learn all that a log holds, and return their trainers."""
    together = Together(ranks)
    trainers = [trainer(config, log, together.peer(rank), folder, **keeping) for rank in range(ranks)]

    def run(one: ShardedTrainer) -> None:
        one.restore()
        one.drain()

    in_threads([lambda one=one: run(one) for one in trainers])  # type: ignore[misc]
    return trainers
