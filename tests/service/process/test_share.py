"""How the engine's time is shared, on a simulated clock that the work advances."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from service.config import Config
from service.process.engine import Engine, Overloaded
from service.process.runtime import Runtime, open_runtime
from service.process.share import MAX_CREDIT, MAX_DEBT, SMOOTHING, Lanes, Share
from service.ranking.requests import RankRequest, RecommendRequest
from tests.service.conftest import records
from tests.worlds import two_tribes

PATIENCE = 60.0


class Time:
    """A clock that moves only when `spend` or `turn` is called."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds

    def turn(self, seconds: float, more: bool = True) -> bool:
        self.now += seconds
        return more


def alternate(share: Share, time: Time, serve: float, learn: float, until: float) -> None:
    """Requests always wait, and there is always something to learn."""
    while time.now < until:
        if share.due:
            share.learn(lambda: time.turn(learn))
        else:
            share.serve(lambda: time.spend(serve))


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(("serve", "learn"), [(0.005, 0.002), (0.002, 0.030), (0.010, 0.0001)])
def test_learning_gets_its_share_within_every_second_of_a_closed_loop(fraction: float, serve: float, learn: float) -> None:
    time = Time()
    share = Share(fraction, time)
    for second in range(1, 6):
        served, learned = share.served, share.learned
        alternate(share, time, serve, learn, float(second))
        part = (share.learned - learned) / (share.learned - learned + share.served - served)
        # A second may end in the middle of a turn.
        assert part == pytest.approx(fraction, abs=0.02 + learn)


def test_a_burst_after_a_quiet_time_goes_first_but_not_for_long() -> None:
    time = Time()
    share = Share(0.2, time)
    for _ in range(1000):
        share.learn(lambda: time.turn(0.01))
    begun = time.now
    while not share.due:
        share.serve(lambda: time.spend(0.001))
    assert time.now - begun == pytest.approx(MAX_CREDIT * 0.8 / 0.2, abs=0.002)


def test_the_debt_is_bounded_and_cancelled_when_there_is_nothing_to_learn() -> None:
    time = Time()
    share = Share(0.5, time)
    share.serve(lambda: time.spend(60.0))
    turns = 0
    while share.due:
        share.learn(lambda: time.turn(0.01))
        turns += 1
    assert turns == pytest.approx(MAX_DEBT / 0.01, abs=1)
    share.serve(lambda: time.spend(60.0))
    share.learn(lambda: time.turn(0.0, more=False))
    assert not share.due


def test_with_a_share_of_0_requests_always_go_first() -> None:
    time = Time()
    share = Share(0.0, time)
    alternate(share, time, 0.01, 0.01, 10.0)
    assert share.learned == 0.0


class Pipeline:
    """Ranks each request in 2 ms and submits a new one: a closed loop without a pause."""

    def __init__(self, time: Time) -> None:
        self.time, self.ranked = time, 0
        self.again: Callable[[], None] = lambda: None

    def rank(self, requests: list[Any]) -> list[Any]:
        for _ in requests:
            self.time.spend(0.002)
            self.ranked += 1
            self.again()
        return [None] * len(requests)

    def is_behind(self, user: str) -> bool:
        return False


class Updater:
    """Always has something to learn, 4 ms a turn, and ends the test after 1,000 turns."""

    serves_while_behind = caught_up = True

    def __init__(self, time: Time, end: Callable[[], None]) -> None:
        self.time, self.turns, self.end = time, 0, end

    def restore(self) -> None:
        pass

    def idle(self, *, hurry: bool = False) -> float:
        return 0.001

    def keep_time(self) -> None:
        pass

    def turn(self) -> bool:
        self.time.spend(0.004)
        self.turns += 1
        if self.turns == 1000:
            self.end()
        return True


def test_the_engine_learns_under_a_constant_load_of_requests() -> None:
    time, over = Time(), threading.Event()
    pipeline = Pipeline(time)

    def end() -> None:
        engine._stopping = True
        over.set()

    updater = Updater(time, end)
    engine = Engine(pipeline, updater, batch_requests=4, learning_share=0.2, clock=time)  # type: ignore[arg-type]
    waiting: deque[Future[Any]] = deque(maxlen=60)
    pipeline.again = lambda: waiting.append(engine.submit(RankRequest(user="u", items=["a"])))
    for _ in range(60):
        pipeline.again()
    engine.start()
    assert over.wait(PATIENCE)
    engine.stop()
    assert 1000 * 0.004 / time.now == pytest.approx(0.2, abs=0.01)
    assert pipeline.ranked > 1000, "and serves all the while"


@pytest.fixture
def runtime(make_config: Callable[..., Config]) -> Iterator[Runtime]:
    opened = open_runtime(make_config(server={"queue": 64, "max_wait": 1e9, "flush": 0.001}))
    yield opened
    opened.stop()


def test_sixty_clients_in_a_closed_loop_do_not_keep_it_from_learning(runtime: Runtime) -> None:
    """Each response triggers the next request, so at least one always waits."""
    stopping, answered = threading.Event(), [0]

    def ask(done: Future[Any] | None = None) -> None:
        if done is not None:
            answered[0] += done.exception() is None
        if not stopping.is_set():
            runtime.engine.submit(RankRequest(user="u1", items=["i1", "i2"])).add_done_callback(ask)

    runtime.log.append(records(list(two_tribes(0, 500))))
    for _ in range(60):
        ask()
    runtime.start()
    rows, waited = 0, threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        rows = runtime.monitor.snapshot()["events"]
        if rows >= 500 or runtime.engine.failure is not None:
            break
        waited.wait(0.01)
    seconds = runtime.monitor.snapshot()["engine_seconds"]
    stopping.set()
    assert rows >= 500, "everything is learned while they ask"
    assert answered[0] > 60 and seconds["serve"] > 0


def test_a_request_that_would_wait_too_long_is_refused_at_once() -> None:
    time, over = Time(), threading.Event()
    pipeline = Pipeline(time)
    updater = Updater(time, lambda: None)
    updater.turn = lambda: False  # type: ignore[method-assign]
    engine = Engine(pipeline, updater, batch_requests=4, learning_share=0.5, max_wait=0.1, clock=time)  # type: ignore[arg-type]
    counts: list[int] = []

    def fill() -> None:
        """Once the time per request is known, submit requests until one is refused."""
        if pipeline.ranked < 400:
            engine.submit(RankRequest(user="u", items=["a"]))
        elif not counts:
            waiting = 0
            with pytest.raises(Overloaded, match="already wait"):
                while True:
                    waiting = engine.gauges()["waiting"]
                    engine.submit(RankRequest(user="u", items=["a"]))
            counts.append(waiting)
            over.set()

    pipeline.again = fill
    fill()
    engine.start()
    assert over.wait(PATIENCE)
    engine.stop()
    # A request takes 2 ms, and learning as much again: 100 ms are 25 requests.
    assert counts[0] == pytest.approx(25, abs=2)


def test_requests_beyond_the_queue_are_refused_and_cancelled_ones_are_never_ranked(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [runtime.engine.submit(RankRequest(user=f"u{n}", items=["a"])) for n in range(64)]
    with pytest.raises(Overloaded, match="64 requests already wait"):
        runtime.engine.submit(RankRequest(user="u", items=["a"]))
    assert all(future.cancel() for future in waiting[:60])
    ranked: list[str] = []
    rank = runtime.pipeline.rank

    def noted(requests: Any) -> Any:
        ranked.extend(request.user for request in requests)
        return rank(requests)

    monkeypatch.setattr(runtime.pipeline, "rank", noted)
    runtime.start()
    for future in waiting[60:]:
        assert future.result(PATIENCE)[0].items[0].item == "a"
    assert ranked == ["u60", "u61", "u62", "u63"]
    assert runtime.engine.gauges()["waiting"] == 0


def request(name: str, size: int) -> RankRequest | RecommendRequest:
    return RankRequest(user=name, items=[f"i{n}" for n in range(size)])


def test_a_small_ranking_waits_for_one_large_one_at_most() -> None:
    lanes, order = Lanes(2), list[str]()
    asked = [request(f"L{n}", 1000) for n in range(4)]
    asked += [RecommendRequest(user="L4", n=1000), RecommendRequest(user="L5", exclude=["x"] * 5000)]
    asked += [request(f"s{n}", 10) for n in range(5)]
    asked += [RecommendRequest(user="s5")]
    for one in asked:
        lanes.of(one).waiting.append((one, Future()))
    while lanes:
        order.append(" ".join(one.user for one, _ in lanes.next().take(lambda _: False)))
    assert order == ["s0 s1", "L0", "s2 s3", "L1", "s4 s5", "L2", "L3", "L4", "L5"]


def test_large_rankings_that_wait_do_not_use_up_the_places_of_small_ones() -> None:
    time = Time()
    updater = Updater(time, lambda: None)
    engine = Engine(Pipeline(time), updater, batch_requests=4, queue=3, clock=time)  # type: ignore[arg-type]
    for n in range(3):
        engine.submit(request(f"L{n}", 1000))
    with pytest.raises(Overloaded):
        engine.submit(request("L3", 1000))
    for n in range(3):
        engine.submit(request(f"s{n}", 10))
    with pytest.raises(Overloaded):
        engine.submit(request("s3", 10))


def test_a_large_ranking_counts_in_the_time_that_a_small_one_waits() -> None:
    lanes = Lanes(4)
    small, large = lanes
    small.took(2, 0.002 / SMOOTHING)
    large.took(1, 0.01 / SMOOTHING)
    assert lanes.wait(small, 0) == 0.0 and lanes.wait(small, 3) == pytest.approx(3 * 0.001)
    for n in range(3):
        large.waiting.append((request(f"L{n}", 1000), Future()))
    assert lanes.wait(small, 0) == pytest.approx(0.01), "one goes first"
    assert lanes.wait(small, 5) == pytest.approx(5 * 0.001 + 2 * 0.01)
    assert lanes.wait(large, 0) == pytest.approx(3 * 0.01)
