"""The one thread that owns the models: requests first, then one bounded learn turn, then requests again."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from service.pipeline import Pipeline
from service.schemas import RankingResponse, RankRequest, RecommendRequest
from service.updater import Updater
from streams.events import Impression

__all__ = ["Behind", "Engine", "Stopped"]

_log = logging.getLogger(__name__)

Answer = tuple[RankingResponse, Impression | None]
_Result = TypeVar("_Result")

SWITCH_INTERVAL = 0.0005
"""Seconds after which a Python thread that wants to run gets its turn; the default of 5 ms would be most of a request."""


class Stopped(RuntimeError):
    """The engine no longer answers: it was stopped, or a learner failed (then the failure is the cause)."""


class Behind(Stopped):
    """The engine does not answer yet: its state is older than one that somebody may have seen."""


class Engine:
    """Runs a pipeline and what keeps it up to date on one thread.

    Parameters
    ----------
    pipeline : Pipeline
    updater : Updater
    batch_requests : int
        Most requests that are scored together.
    on_failure : callable or None
        Told, on the engine's thread, when it dies.

    Attributes
    ----------
    prepare : callable or None
        Called first of all, on the engine's thread, with a function that tells whether to leave off, for the engine is to stop.
    preparing : bool
        Whether that is still going on.
    failure : BaseException or None
        What killed the engine.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        updater: Updater,
        *,
        batch_requests: int = 16,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._pipeline, self._updater = pipeline, updater
        self._batch_requests, self.on_failure = batch_requests, on_failure
        self._waiting: deque[tuple[RankRequest | RecommendRequest, Future[Answer]]] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._awake = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.prepare: Callable[[Callable[[], bool]], object] | None = None
        self.preparing = False
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread: it prepares and restores the state, then catches up, and serves all the while."""
        self.preparing = self.prepare is not None
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._thread.start()

    def stop(self) -> None:
        """Finish the turn at hand, refuse what still waits, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._refuse_waiting()

    def submit(self, request: RankRequest | RecommendRequest) -> Future[Answer]:
        """Ask for a ranking.

        The future raises `service.pipeline.Refused` for a request that makes no sense, `Stopped` when nobody answers.

        Raises
        ------
        Behind
            Where the state is not to be shown yet.
        """
        if not (self._updater.caught_up or self._updater.serves_behind):
            raise Behind("catching up with the one who learns; ask another replica, or try again shortly")
        future: Future[Answer] = Future()
        self._enqueue(self._waiting, (request, future))
        return future

    def call(self, function: Callable[[], _Result]) -> Future[_Result]:
        """Run `function` on the engine's thread, between two turns."""
        future: Future[_Result] = Future()
        self._enqueue(self._calls, (function, future))
        return future

    def wake(self) -> None:
        """Say that the log has grown."""
        with self._changed:
            self._awake = True
            self._changed.notify()

    def _enqueue(self, queue: deque[Any], entry: tuple[Any, Future[Any]]) -> None:
        with self._changed:
            if self._stopping or self.failure is not None:
                raise Stopped("the engine has stopped; see the log of the service") from self.failure
            queue.append(entry)
            self._changed.notify()

    def _run(self) -> None:
        try:
            if self.prepare is not None:
                self.prepare(lambda: self._stopping)
                self.preparing = False
            self._updater.restore()
            # What has been loaded by now stays: looking through it for cycles, again and again, would stop all threads.
            gc.freeze()
            while not self._stopping:
                self._serve()
                if not self._updater.turn():
                    self._rest(self._updater.idle())
        except BaseException as error:
            _log.exception("the engine stops: what it was doing failed")
            with self._changed:
                self.failure = error
            self._refuse_waiting()
            if self.on_failure is not None:
                self.on_failure(error)

    def _serve(self) -> None:
        while self._calls:
            function, called = self._calls.popleft()
            if called.set_running_or_notify_cancel():
                _resolve(called, function)
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch_requests))]
            batch = [(request, future) for request, future in taken if future.set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                answers = self._pipeline.rank([request for request, _ in batch])
            except Exception:
                # One request may have spoiled the batch for the others: each alone.
                for request, future in batch:
                    _resolve(future, lambda request=request: self._pipeline.rank([request])[0])  # type: ignore[misc]
            else:
                for (_, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)

    def _rest(self, seconds: float) -> None:
        """Sleep until somebody calls, at most so long."""
        with self._changed:
            if seconds > 0 and not (self._waiting or self._calls or self._stopping or self._awake):
                self._changed.wait(seconds)
            self._awake = False

    def _refuse_waiting(self) -> None:
        for queue in (self._waiting, self._calls):
            while queue:
                _, future = queue.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_exception(Stopped("the engine stopped before it came to this request"))


def _resolve(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
