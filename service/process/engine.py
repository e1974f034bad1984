"""The one thread that owns the models. It alternates between ranking requests and short learning turns."""

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
from service.process.own_events import HeldRequests
from service.process.share import Lanes, Share
from service.process.updater import Updater
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankingResponse, RankRequest, RecommendRequest
from streams.events import Impression

__all__ = ["Engine", "NotCaughtUp", "Overloaded", "Stopped"]

_log = logging.getLogger(__name__)

Answer = tuple[RankingResponse, Impression | None]
_Result = TypeVar("_Result")
_Walk = Callable[[], Generator[None, None, Any]]

SWITCH_INTERVAL = 0.0005
"""Seconds until Python switches to another waiting thread. The default of 5 ms is most of a request's time."""


class Stopped(RuntimeError):
    """The engine no longer answers: it was stopped, or it failed (the failure is the ``__cause__``)."""


class NotCaughtUp(Stopped):
    """The replica does not answer yet: its state is older than one that clients may have seen."""


class Overloaded(RuntimeError):
    """Too many requests wait already; another one would be answered too late."""


class Engine:
    """Runs a pipeline and its updater on one thread.

    Parameters
    ----------
    pipeline : Pipeline
    updater : Updater
    batch_requests : int
        Most requests that are scored in one batch; large ones are scored alone, see `service.process.share.Lanes`.
    queue : int
        Most requests that wait to be scored, of the small and of the large ones; further ones are refused at once.
    max_wait : float
        Most seconds that a request may have to wait, estimated from the latest scoring times; otherwise it is refused at once.
        At least `batch_requests` small requests and a large one may always wait.
    learning_share : float
        Smallest share of the thread's busy time for learning while there is something to learn; see `Share`.
    own_events : float
        Most seconds for which a request waits until its user's own events, accepted before it, are learned; see `HeldRequests`.
        Meanwhile a batch with room is not waited for to fill. 0: requests do not wait.
    clock : callable returning float
        Time in seconds, for `Share` and `HeldRequests`.
    on_failure : callable or None
        Called on the engine's thread with the failure that ends it.

    Attributes
    ----------
    prepare : callable or None
        Called on the engine's thread before anything else, with a function that returns True once the engine is stopping.
    preparing : bool
        Whether `prepare` has not returned yet.
    failure : BaseException or None
        What ended the engine.
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
        own_events: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._pipeline, self._updater = pipeline, updater
        self._queue, self.on_failure = queue, on_failure
        self._share, self._clock = Share(learning_share, clock), clock
        self._max_wait, self._lanes = max_wait * (1.0 - learning_share), Lanes(batch_requests)
        self._held = HeldRequests(own_events, pipeline.is_behind, clock)
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
        """Start the thread: it calls `prepare`, restores the state, and then serves while it catches up."""
        self.preparing = self.prepare is not None
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._thread.start()

    def stop(self) -> None:
        """Finish the current turn, refuse the waiting requests, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._refuse_waiting()

    def submit(self, request: RankRequest | RecommendRequest) -> Future[Answer]:
        """Ask for a ranking.

        The future raises `service.ranking.pipeline.Refused` for an invalid request, and `Stopped` if the engine stops first.

        Raises
        ------
        NotCaughtUp
            If a replica has not caught up yet.
        Overloaded
            If too many requests wait already.
        """
        if not (self._updater.caught_up or self._updater.serves_while_behind):
            raise NotCaughtUp("this replica still catches up with the trainer; ask another replica, or try again shortly")
        lane = self._lanes.of(request)
        waiting = len(lane) + len(self._held)
        limit = self._queue if self._lanes.wait(lane, len(self._held)) <= self._max_wait else lane.batch
        if waiting >= limit:
            raise Overloaded(f"{waiting} requests already wait to be ranked; send fewer at once, or add replicas")
        future: Future[Answer] = Future()
        self._enqueue(lane.waiting, (request, future))
        return future

    def call(self, function: Callable[[], _Result]) -> Future[_Result]:
        """Run `function` on the engine's thread, between two turns."""
        future: Future[_Result] = Future()
        self._enqueue(self._calls, (function, future))
        return future

    def walk(self, steps: Callable[[], Generator[None, None, _Result]]) -> Future[_Result]:
        """Run a generator on the engine's thread, a few steps at a time between requests, instead of learning turns.

        The state does not change between its first and its last step. The future holds its return value.
        """
        future: Future[_Result] = Future()
        self._enqueue(self._walks, (steps, future))
        return future

    def gauges(self) -> dict[str, Any]:
        """Numbers for the monitor; called from any thread."""
        return {
            "waiting": len(self._lanes) + len(self._held),
            "held": dict(self._held.counts),
            "engine_seconds": {"serve": self._share.served, "learn": self._share.learned},
        }

    def wake(self) -> None:
        """Tell the engine that the log has grown."""
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
            # Objects loaded so far stay alive. The garbage collector must not scan them again: that stops all threads.
            gc.freeze()
            while not self._stopping:
                self._serve()
                if self._share.learn(self._turn):
                    self._updater.keep_time()
                else:
                    self._rest(self._updater.idle(hurry=len(self._held) > 0))
        except BaseException as error:
            _log.exception("the engine stops after a failure")
            with self._changed:
                self.failure = error
            self._refuse_waiting()
            if self.on_failure is not None:
                self.on_failure(error)

    def _serve(self) -> None:
        """Run waiting calls, then rank waiting requests until none is left or a learning turn is due."""
        for _ in range(len(self._calls)):
            function, called = self._calls.popleft()
            if called.set_running_or_notify_cancel():
                self._share.serve(lambda called=called, function=function: _resolve(called, function))  # type: ignore[misc]
        for waiting in self._held.release():
            self._lanes.of(waiting[0]).ready.append(waiting)
        while self._lanes and not self._share.due:
            self._share.serve(self._rank)

    def _turn(self) -> bool:
        """Continue a generator passed to `walk`, else learn; False if there is nothing to do."""
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
        """Rank one batch of requests. Cancelled requests are dropped before scoring."""
        lane = self._lanes.next()
        batch = lane.take(self._held.hold)
        if not batch:
            return
        start = self._clock()
        try:
            answers = self._pipeline.rank([request for request, _ in batch])
        except Exception:
            # One bad request fails the whole batch: rank each request alone.
            for request, future in batch:
                _resolve(future, lambda request=request: self._pipeline.rank([request])[0])  # type: ignore[misc]
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
        lane.took(len(batch), self._clock() - start)

    def _rest(self, seconds: float) -> None:
        """Sleep until there is work, for at most `seconds`."""
        with self._changed:
            if seconds > 0 and not (self._lanes or self._calls or self._walks or self._stopping or self._awake):
                self._changed.wait(seconds)
            self._awake = False

    def _refuse_waiting(self) -> None:
        stopped = Stopped("the engine stopped before it answered this request")
        for _, future in (*self._held.clear(), *(one for lane in self._lanes for one in lane.ready)):
            future.set_exception(stopped)
        for lane in self._lanes:
            lane.ready.clear()
        queues: list[deque[Any]] = [*(lane.waiting for lane in self._lanes), self._calls, self._walks]
        for queue in queues:
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
