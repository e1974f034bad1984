"""The one thread that owns the models: requests first, then a bounded learn turn; learning keeps its share."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from service.learning.steps import Steps
from service.process.share import Share
from service.process.updater import Updater
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankingResponse, RankRequest, RecommendRequest
from streams.events import Impression

__all__ = ["Behind", "Engine", "Overloaded", "Stopped"]

_log = logging.getLogger(__name__)

Answer = tuple[RankingResponse, Impression | None]
_Result = TypeVar("_Result")
_Walk = Callable[[], Generator[None, None, Any]]

SWITCH_INTERVAL = 0.0005
"""Seconds after which a Python thread that wants to run gets its turn; the default of 5 ms would be most of a request."""

RECENT = 0.2
"""Weight of the last batch in what a request takes (an exponentially weighted mean)."""


class Stopped(RuntimeError):
    """The engine no longer answers: it was stopped, or a learner failed (then the failure is the cause)."""


class Behind(Stopped):
    """The engine does not answer yet: its state is older than one that somebody may have seen."""


class Overloaded(RuntimeError):
    """So many requests wait already that another one would only be late."""


class Engine:
    """Runs a pipeline and what keeps it up to date on one thread.

    Parameters
    ----------
    pipeline : Pipeline
    updater : Updater
    batch_requests : int
        Most requests that are scored together.
    queue : int
        Most requests that wait to be scored; more are refused at once.
    max_wait : float
        Seconds that a request may have to wait for those before it, by what they took lately; else it is refused at once.
        Where no more wait than are scored together, it is taken all the same.
    learning_share : float
        Least share of the thread's busy time that learning gets while there is something to learn; see `Share`.
    clock : callable returning float
        Seconds, to share time by.
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
        queue: int = 256,
        max_wait: float = 1.0,
        learning_share: float = 0.2,
        clock: Callable[[], float] = time.perf_counter,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._pipeline, self._updater = pipeline, updater
        self._batch_requests, self._queue, self.on_failure = batch_requests, queue, on_failure
        self._share, self._clock = Share(learning_share, clock), clock
        self._max_wait, self._slowness = max_wait * (1.0 - learning_share), 0.0
        self._waiting: deque[tuple[RankRequest | RecommendRequest, Future[Answer]]] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._walks: deque[tuple[_Walk, Future[Any]]] = deque()
        self._walking: tuple[Steps[Any], Future[Any]] | None = None
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

        The future raises `service.ranking.pipeline.Refused` for a request that makes no sense, `Stopped` when nobody answers.

        Raises
        ------
        Behind
            Where the state is not to be shown yet.
        Overloaded
            Where too many requests wait already.
        """
        if not (self._updater.caught_up or self._updater.serves_behind):
            raise Behind("catching up with the one who learns; ask another replica, or try again shortly")
        waiting = len(self._waiting)
        most = self._queue if waiting * self._slowness <= self._max_wait else self._batch_requests
        if waiting >= most:
            raise Overloaded(f"{waiting} requests already wait to be ranked; send fewer at once, or add replicas")
        future: Future[Answer] = Future()
        self._enqueue(self._waiting, (request, future))
        return future

    def call(self, function: Callable[[], _Result]) -> Future[_Result]:
        """Run `function` on the engine's thread, between two turns."""
        future: Future[_Result] = Future()
        self._enqueue(self._calls, (function, future))
        return future

    def walk(self, steps: Callable[[], Generator[None, None, _Result]]) -> Future[_Result]:
        """Take the steps of a generator on the engine's thread, some at a time between requests, in place of learn turns.

        From its first step to its last nothing changes the state. The future has what it returns.
        """
        future: Future[_Result] = Future()
        self._enqueue(self._walks, (steps, future))
        return future

    def gauges(self) -> dict[str, Any]:
        """Numbers for the monitor; called from any thread."""
        return {
            "waiting": len(self._waiting),
            "engine_seconds": {"serve": self._share.served, "learn": self._share.learned},
        }

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
                if not self._share.learn(self._turn):
                    self._rest(self._updater.idle())
        except BaseException as error:
            _log.exception("the engine stops: what it was doing failed")
            with self._changed:
                self.failure = error
            self._refuse_waiting()
            if self.on_failure is not None:
                self.on_failure(error)

    def _serve(self) -> None:
        """Answer what waits, until nothing does or a learn turn is due."""
        for _ in range(len(self._calls)):
            function, called = self._calls.popleft()
            if called.set_running_or_notify_cancel():
                self._share.serve(lambda called=called, function=function: _resolve(called, function))  # type: ignore[misc]
        while self._waiting and not self._share.due:
            self._share.serve(self._rank)

    def _turn(self) -> bool:
        """Go on with a walk that was asked for, else learn; False when there is nothing to do."""
        while self._walking is None and self._walks:
            steps, future = self._walks.popleft()
            if future.set_running_or_notify_cancel():
                self._walking = Steps(steps()), future
        if self._walking is None:
            return self._updater.turn()
        walk, future = self._walking
        try:
            if walk.turn():
                self._walking = None
                future.set_result(walk.result)
        except Exception as error:
            self._walking = None
            future.set_exception(error)
        return True

    def _rank(self) -> None:
        """Score one batch of requests. Who has given up waiting is passed over before anything is scored."""
        batch: list[tuple[RankRequest | RecommendRequest, Future[Answer]]] = []
        while self._waiting and len(batch) < self._batch_requests:
            request, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                batch.append((request, future))
        if not batch:
            return
        start = self._clock()
        try:
            answers = self._pipeline.rank([request for request, _ in batch])
        except Exception:
            # One request may have spoiled the batch for the others: each alone.
            for request, future in batch:
                _resolve(future, lambda request=request: self._pipeline.rank([request])[0])  # type: ignore[misc]
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
        self._slowness += RECENT * ((self._clock() - start) / len(batch) - self._slowness)

    def _rest(self, seconds: float) -> None:
        """Sleep until somebody calls, at most so long."""
        with self._changed:
            if seconds > 0 and not (self._waiting or self._calls or self._walks or self._stopping or self._awake):
                self._changed.wait(seconds)
            self._awake = False

    def _refuse_waiting(self) -> None:
        stopped = Stopped("the engine stopped before it came to this request")
        for queue in (self._waiting, self._calls, self._walks):
            while queue:
                _, future = queue.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_exception(stopped)
        if self._walking is not None:
            self._walking[1].set_exception(stopped)
            self._walking = None


def _resolve(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
