"""Warm up before the first request: rehearse all work on a scratch pipeline, so that code is compiled and loaded."""

from __future__ import annotations

import fcntl
import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from learners import registry
from learners.base import Adapter, Ranker, Reranker, Retriever
from learners.registry import ConfigError
from memory import jit
from service.config import Config
from service.process.rehearsal import Rehearsal
from service.process.runtime import Runtime, open_runtime
from service.sections import Capacity, Checkpoint, DeadLetterLog, Weights

__all__ = ["Interrupted", "warm_up"]

_log = logging.getLogger(__name__)

CAPACITY = 64
"""Capacity of the rehearsal's catalogues: less than its users and items, so that some are evicted."""

BATCH_ROWS = 64
"""Most rows in its micro-batches."""

_ROLES: Mapping[str, type] = {"retrievers": Retriever, "ranker": Ranker, "adapters": Adapter, "rerankers": Reranker}

LOCK = "freshet.lock"
"""Lock file in numba's cache folder: without it, two processes would overwrite each other's files."""

LOCK_POLL = 0.1
"""Seconds between two attempts to get the lock."""


class Interrupted(BaseException):
    """The process must end. A BaseException: code that catches failures of learners must not catch it."""


def warm_up(config: Config, stopping: Callable[[], bool] = lambda: False) -> list[str]:
    """Run a scratch pipeline of this config through everything that a service does, on this thread.

    Afterwards numba has compiled all functions, and cached them if it can, and late imports are done. The state of the service
    is not touched. Compilation depends on types, not on sizes, so the learners are made small by their ``checks_parameters``.
    A learner whose types depend on its size lists the keywords of several rehearsals in
    ``rehearsals: ClassVar[tuple[dict[str, object], ...]]``.

    Parameters
    ----------
    config : Config
    stopping : callable
        Returns True to stop the warm-up. Called before each step and each compilation.

    Returns
    -------
    list of str
        Failed steps, each with the reason. They are also logged as warnings.
    """
    start = time.monotonic()
    with ExitStack() as held:
        compiling = _Compiling(stopping, held)
        try:
            with jit.compilations(compiling.start):
                problems = _rehearse(config, stopping)
        except Interrupted:
            return []
        except Exception as error:
            problems = [f"build: {error!r}"]
    for problem in problems:
        _log.warning("warm-up: %s; the service starts, but the first requests may have to wait", problem)
    if compiling.count:
        _log.info("compiled %d functions in %.0f s", compiling.count, time.monotonic() - start)
    gc.collect()
    return problems


def _rehearse(config: Config, stopping: Callable[[], bool]) -> list[str]:
    """Run as many rehearsals as the learner with the most needs; return what failed."""
    common, problems = _in_memory(config), dict[str, str]()
    sizes = {section: {name: _sizes(role, name) for name in getattr(config, section)} for section, role in _ROLES.items()}
    for number in range(max(len(rehearsals) for named in sizes.values() for rehearsals in named.values())):
        small = {
            section: {
                name: getattr(config, section)[name] | sizes_of[min(number, len(sizes_of) - 1)]
                for name, sizes_of in named.items()
            }
            for section, named in sizes.items()
        }
        try:
            scratch = open_runtime(common.model_copy(update=small))
        except ConfigError:  # The small sizes may contradict other keywords of the config; its own sizes do not.
            scratch = open_runtime(common)
        try:
            problems |= _play(scratch, stopping)
        finally:
            scratch.stop()
    return [f"{name}: {problem}" for name, problem in problems.items()]


def _play(scratch: Runtime, stopping: Callable[[], bool]) -> dict[str, str]:
    problems: dict[str, str] = {}
    for name, step in Rehearsal(scratch.config, scratch.pipeline, scratch.updater, scratch.log, scratch.monitor).steps():
        if stopping():
            raise Interrupted
        try:
            step()
        except Exception as error:
            problems[name] = repr(error)
    return problems | {stage: f"failed {count} times" for stage, count in scratch.pipeline.skipped.items()}


class _Compiling:
    """Logs the first compilation, and lets only one process compile at a time.

    Parameters
    ----------
    stopping : callable
        As for `warm_up`.
    held : ExitStack
        Holds the lock until the warm-up ends.
    """

    def __init__(self, stopping: Callable[[], bool], held: ExitStack) -> None:
        self._stopping, self._held = stopping, held
        self.count = 0

    def start(self, function: str) -> None:
        if self._stopping():
            raise Interrupted
        if not self.count:
            folder = jit.cache_folder()
            if folder is None:
                often = "at every start; to cache it, set NUMBA_CACHE_DIR to a folder that this user can write"
            else:
                often = "once for an installation"
                self._take_turns(folder / LOCK)
            _log.info("compiling the functions of the learners (%s), for up to a minute", often)
        self.count += 1

    def _take_turns(self, path: Path) -> None:
        """Wait until no other process compiles. This one then finds most functions in the cache."""
        try:
            file = self._held.enter_context(path.open("ab"))
            logged = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if not logged:
                        _log.info("another process compiles; waiting until it has finished")
                        logged = True
                if self._stopping():
                    raise Interrupted
                time.sleep(LOCK_POLL)
        except OSError as error:
            _log.warning("%s: cannot be locked (%s); compiling without the lock", path, error)


def _in_memory(config: Config) -> Config:
    """The config with a log in memory, small catalogues, and no files."""
    stream: dict[str, object] = {"url": "memory://", "group": None, "options": {}, "retain": None}
    stream |= {"window": 1.0, "lateness": 3600.0, "max_skew": 3600.0}
    stream |= {"batch_rows": min(config.stream.batch_rows, BATCH_ROWS)}
    common = {
        "stream": config.stream.model_copy(update=stream),
        "weights": Weights(),
        "checkpoint": Checkpoint(),
        "dead_letters": DeadLetterLog(),
        "users": Capacity(capacity=min(config.users.capacity, CAPACITY)),
        "items": config.items.model_copy(update={"capacity": min(config.items.capacity, CAPACITY)}),
        "history": config.history.model_copy(update={"capacity": min(config.history.capacity, CAPACITY)}),
    }
    return config.model_copy(update=common)


def _sizes(role: type, name: str) -> Sequence[Mapping[str, object]]:
    """Keywords that make a learner small, for each of its rehearsals."""
    cls = registry.find(role, name)
    rehearsals = getattr(cls, "rehearsals", (getattr(cls, "checks_parameters", {}),))
    # The ranker determines the width of a reranker that needs hidden vectors.
    return [{key: size for key, size in sizes.items() if key != "width" or role is not Reranker} for sizes in rehearsals]
