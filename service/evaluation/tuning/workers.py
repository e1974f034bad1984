"""Processes that replay trials. The process that started them keeps the study and tells them what to do."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self

from service import config as configs
from service.evaluation.tuning.documents import Document
from service.evaluation.tuning.replays import Source

__all__ = ["Processes", "WorkerDied"]

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerDied(RuntimeError):
    """A process ended in the middle of a trial, for example because memory ran out."""


@dataclass(frozen=True, slots=True)
class _Raised:
    """An error on its way between processes. Its constructor is not called again, since it may take other arguments."""

    kind: type[Exception]
    args: tuple[Any, ...]
    attributes: dict[str, Any]

    def rebuilt(self) -> Exception:
        error: Exception = self.kind.__new__(self.kind, *self.args)
        vars(error).update(self.attributes)
        return error


class Processes:
    """Replays in several processes, each with one thread. Each decodes the recording once.

    Parameters
    ----------
    jobs : int
    source : callable
        Makes the source of a process; it is called there.

    Attributes
    ----------
    idle : list of Connection
        Processes without work.
    """

    def __init__(self, jobs: int, source: Callable[[], Source]) -> None:
        context = multiprocessing.get_context("spawn")
        known = {name: os.environ.get(name) for name in _ONE_THREAD}
        os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
        self.idle: list[Connection] = []
        self._busy: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        try:
            for _ in range(jobs):
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, source), daemon=True)
                process.start()
                there.close()
                self._processes.append(process)
                self.idle.append(here)
        finally:
            for name, value in known.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def trial(self, document: Document, first: int | None) -> Connection:
        """Start a trial in an idle process; see `replays.Source.trial`."""
        return self._start(("trial", document, first))

    def whole(self, document: Document) -> Connection:
        """Start a replay of the whole stream in an idle process; see `replays.Source.whole`."""
        return self._start(("whole", document, None))

    def events(self) -> Iterator[tuple[Connection, Any]]:
        """Wait until processes have said something, and yield it.

        Yields
        ------
        process : Connection
        said : (int, float), Result, Sample or Exception
            A checkpoint with the objective, which has to be answered by `answer`; or the end: a result, or an error.

        Raises
        ------
        WorkerDied
            When a process has ended.
        """
        for process in wait(self._busy):
            assert isinstance(process, Connection)
            try:
                said = process.recv()
            except EOFError:
                raise WorkerDied("a process of --jobs ended; is there enough memory? The same command continues") from None
            if isinstance(said, _Raised):
                said = said.rebuilt()
            if not isinstance(said, tuple):
                self._busy.remove(process)
                self.idle.append(process)
            yield process, said

    def answer(self, process: Connection, stop: bool) -> None:
        """Tell a process whether to stop its trial."""
        process.send(stop)

    def _start(self, task: tuple[str, Document, int | None]) -> Connection:
        process = self.idle.pop()
        process.send(task)
        self._busy.append(process)
        return process


def _work(there: Connection, make: Callable[[], Source]) -> None:
    """Do what the other process says, until it ends."""
    # An interrupt from the keyboard reaches all processes; the one that keeps the study ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source = make()

    def report(step: int, value: float) -> bool:
        there.send((step, value))
        return bool(there.recv())

    while True:
        try:
            task, document, first = there.recv()
        except EOFError:
            return
        try:
            config = configs.parse(document)
            there.send(source.trial(config, first, report) if task == "trial" else source.whole(config))
        except Exception as error:
            there.send(_Raised(type(error), error.args, vars(error)))
