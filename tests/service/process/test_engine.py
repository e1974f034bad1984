"""The thread that owns the models: what it answers, and what happens when it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from service.config import Config
from service.process.engine import Engine, Stopped
from service.process.runtime import Runtime, open_runtime
from service.ranking.pipeline import Refused
from service.ranking.requests import RankRequest
from streams.batch import Feedback
from streams.events import Interaction
from tests.service.conftest import records
from tests.worlds import START, two_tribes

PATIENCE = 30.0


@pytest.fixture
def runtime(make_config: Callable[..., Config]) -> Iterator[Runtime]:
    with open_runtime(make_config()) as opened:
        yield opened


def caught_up(runtime: Runtime) -> bool:
    return runtime.updater.lag() == 0 and not runtime.updater.reader.pending


def wait_until(runtime: Runtime, condition: Callable[[], bool]) -> None:
    """Check a condition on the engine's thread, between turns, until it holds."""
    waited = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if runtime.engine.call(condition).result(PATIENCE):
            return
        waited.wait(0.01)
    raise AssertionError("it never came to hold")


def test_it_learns_what_is_appended_and_ranks_by_it(runtime: Runtime) -> None:
    runtime.log.append(records(list(two_tribes(0, 300))))
    runtime.engine.wake()
    wait_until(runtime, lambda: caught_up(runtime))
    response, _ = runtime.engine.submit(RankRequest(user="u1", items=[f"i{n}" for n in range(10)])).result(PATIENCE)
    assert {ranked.item for ranked in response.items[:5]} == {f"i{n}" for n in range(5)}
    assert response.version > 0


def test_a_single_event_is_learned_without_a_later_one(runtime: Runtime) -> None:
    runtime.log.append(records([Interaction(user="u", item="i", timestamp=START)]))
    runtime.engine.wake()
    wait_until(runtime, lambda: runtime.pipeline.version == 1)


def test_a_refused_request_does_not_spoil_its_batch(runtime: Runtime) -> None:
    gate = threading.Event()
    blocked = runtime.engine.call(gate.wait)
    good = runtime.engine.submit(RankRequest(user="u", items=["a"]))
    bad = runtime.engine.submit(RankRequest(user="u", items=["a"], by="nobody"))
    also_good = runtime.engine.submit(RankRequest(user="v", items=["a"]))
    gate.set()
    blocked.result(PATIENCE)
    assert good.result(PATIENCE)[0].items[0].item == "a"
    assert also_good.result(PATIENCE)[0].items[0].item == "a"
    with pytest.raises(Refused, match="nobody"):
        bad.result(PATIENCE)


def test_cancelled_requests_do_not_affect_others(runtime: Runtime) -> None:
    gate = threading.Event()
    blocked = runtime.engine.call(gate.wait)
    given_up = [runtime.engine.submit(RankRequest(user="u", items=["a"])), runtime.engine.call(lambda: 1)]
    kept = runtime.engine.submit(RankRequest(user="u", items=["a"]))
    assert all(future.cancel() for future in given_up)
    gate.set()
    blocked.result(PATIENCE)
    assert kept.result(PATIENCE)[0].items[0].item == "a"


def test_a_failed_call_fails_only_for_its_caller(runtime: Runtime) -> None:
    def fail() -> None:
        raise KeyError("planted")

    with pytest.raises(KeyError):
        runtime.engine.call(fail).result(PATIENCE)
    assert runtime.engine.call(lambda: 1).result(PATIENCE) == 1


def test_many_threads_asking_while_it_learns_all_get_whole_answers(runtime: Runtime) -> None:
    runtime.log.append(records(list(two_tribes(0, 2000))))
    runtime.engine.wake()
    versions: list[list[int]] = [[] for _ in range(4)]

    def ask(mine: list[int]) -> None:
        for _ in range(50):
            response, _ = runtime.engine.submit(RankRequest(user="u1", items=["i1", "i2"])).result(PATIENCE)
            assert np.isfinite([ranked.score for ranked in response.items]).all()
            mine.append(response.version)

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(mine) == 50 and mine == sorted(mine) for mine in versions), "no caller ever saw an older state"


@pytest.mark.parametrize("failure", [MemoryError, ConnectionResetError, SystemExit])
def test_a_failure_that_no_batch_caused_stops_the_engine_loudly(
    failure: type[BaseException], runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[BaseException] = []
    runtime.engine.on_failure = failures.append

    def broken(_: Feedback) -> None:
        raise failure("planted")

    monkeypatch.setattr(runtime.pipeline.ranker, "learn", broken)
    runtime.log.append(records(list(two_tribes(0, 50))))
    runtime.engine.wake()
    runtime.engine._thread.join(PATIENCE)
    assert isinstance(runtime.engine.failure, failure)
    assert failures == [runtime.engine.failure]
    with pytest.raises(Stopped) as stopped:
        runtime.engine.submit(RankRequest(user="u", items=["a"]))
    assert isinstance(stopped.value.__cause__, failure)


def test_stop_refuses_waiting_requests(make_config: Callable[..., Config]) -> None:
    runtime = open_runtime(make_config())
    engine: Engine = runtime.engine
    waiting = engine.submit(RankRequest(user="u", items=["a"]))
    engine.stop()
    with pytest.raises(Stopped):
        waiting.result(PATIENCE)
    with pytest.raises(Stopped):
        engine.call(lambda: None)
    runtime.stop()
