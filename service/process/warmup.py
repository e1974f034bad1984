"""Compile and load all that serving takes before anybody asks, by a rehearsal on a pipeline that is thrown away after."""

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
"""Users and items of the rehearsal's catalogues: fewer than come, so that some have to give way."""

BATCH_ROWS = 64
"""Rows of its micro-batches, at most."""

_ROLES: Mapping[str, type] = {"retrievers": Retriever, "ranker": Ranker, "adapters": Adapter, "rerankers": Reranker}

LOCK = "freshet.lock"
"""File in numba's folder that whoever compiles holds: numba itself lets two processes overwrite each other's work."""

PATIENCE = 0.1
"""Seconds between looks whether another process has done with compiling."""


class Interrupted(BaseException):
    """The process is to end. No failure of a learner, and nothing that catches those may catch it."""


def warm_up(config: Config, stopping: Callable[[], bool] = lambda: False) -> list[str]:
    """Take a pipeline of this config through everything that a service does, on this thread.

    What numba compiles on the way it keeps for the next process, where it can; what is imported at the first call has been so
    afterwards. The state of the service is not touched. Types decide what is compiled, not sizes: learners are small here,
    by their ``checks_parameters``. One whose types depend on its size lists the keywords of several rehearsals in
    ``rehearsals: ClassVar[tuple[dict[str, object], ...]]``.

    Parameters
    ----------
    config : Config
    stopping : callable
        Whether to leave off: asked before each step and each function that is to be compiled.

    Returns
    -------
    list of str
        Steps that failed, each with the reason. They are logged as warnings.
    """
    began = time.monotonic()
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
        _log.warning("warm-up: %s; the service starts, and the first requests may have to wait", problem)
    if compiling.count:
        _log.info("compiled %d functions in %.0f s", compiling.count, time.monotonic() - began)
    gc.collect()
    return problems


def _rehearse(config: Config, stopping: Callable[[], bool]) -> list[str]:
    """Rehearse as often as the learner that asks for it most; what failed."""
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
        except ConfigError:  # Some sizes do not go with other keywords of the config: its own do.
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
    """Says so when the first function has to be compiled, and sees to it that one process at a time does.

    Parameters
    ----------
    stopping : callable
        As for `warm_up`.
    held : ExitStack
        Where the lock is kept.
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
                often = "at every start, for it cannot be kept: set NUMBA_CACHE_DIR to a folder that this user can write"
            else:
                often = "once for an installation"
                self._take_turns(folder / LOCK)
            _log.info("compiling what the learners compute with (%s), for up to a minute", often)
        self.count += 1

    def _take_turns(self, path: Path) -> None:
        """Wait until no other process compiles: then this one finds most of it in the cache."""
        try:
            file = self._held.enter_context(path.open("ab"))
            told = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if not told:
                        _log.info("another process compiles; waiting until it has done")
                        told = True
                if self._stopping():
                    raise Interrupted
                time.sleep(PATIENCE)
        except OSError as error:
            _log.warning("%s: cannot be locked (%s); compiling all the same", path, error)


def _in_memory(config: Config) -> Config:
    """The same learners, with a log in memory, small catalogues, and nothing kept."""
    stream: dict[str, object] = {"url": "memory://", "group": None, "options": {}, "retain": None}
    stream |= {"window": 1.0, "lateness": 3600.0, "max_skew": 3600.0}
    stream |= {"batch_rows": min(config.stream.batch_rows, BATCH_ROWS)}
    common = {
        "stream": config.stream.model_copy(update=stream),
        "weights": Weights(),
        "checkpoint": Checkpoint(),
        "dead_letters": DeadLetterLog(),
        "users": Capacity(capacity=min(config.users.capacity, CAPACITY)),
        "items": Capacity(capacity=min(config.items.capacity, CAPACITY)),
        "history": config.history.model_copy(update={"capacity": min(config.history.capacity, CAPACITY)}),
    }
    return config.model_copy(update=common)


def _sizes(role: type, name: str) -> Sequence[Mapping[str, object]]:
    """Keywords that make a learner small, for each rehearsal that it asks for."""
    cls = registry.find(role, name)
    rehearsals = getattr(cls, "rehearsals", (getattr(cls, "checks_parameters", {}),))
    # Of a reranker on hidden vectors, the ranker decides the width.
    return [{key: size for key, size in sizes.items() if key != "width" or role is not Reranker} for sizes in rehearsals]
