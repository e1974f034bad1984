"""Long work runs in short steps between requests: copies of the state, digests, expensive records."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from memory import checkpoint as checkpoints
from memory.stateful import State, digest
from service.config import Config
from service.learning.steps import Steps
from service.learning.trainer import Trainer
from service.process.engine import Stopped
from service.process.runtime import Runtime, open_runtime
from service.ranking.requests import RankRequest
from service.recovery.snapshots import split_snapshots
from tests.service.conftest import records
from tests.service.running import Service, click, serving
from tests.worlds import two_tribes

MakeConfig = Callable[..., Config]

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def one_step_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the small state of these tests take as many steps as a large one."""
    monkeypatch.setattr("memory.stateful.CHUNK_BYTES", 2048)
    monkeypatch.setattr("memory.keyed.catalog.ENTRIES_PER_STEP", 5)
    monkeypatch.setattr("service.learning.steps.TURN_SECONDS", 0.0)


def trainer_of(runtime: Runtime) -> Trainer:
    assert isinstance(runtime.updater, Trainer)
    return runtime.updater


def test_a_checkpoint_is_copied_over_many_turns_in_which_nothing_changes(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path / "data", checkpoint={"every": 1e-9})
    runtime = open_runtime(config)
    trainer = trainer_of(runtime)
    trainer.restore()
    runtime.log.append(records(list(two_tribes(0, 400))))
    while trainer._copying is None:
        assert trainer.turn()
    digest_at_start, offsets, version = trainer.digest(), dict(trainer.next), runtime.pipeline.version
    turns = 0
    while trainer._copying is not None:
        assert trainer.turn()
        assert (trainer.digest(), trainer.next, runtime.pipeline.version) == (digest_at_start, offsets, version)
        turns += 1
    assert turns > 50
    assert trainer._saving is not None
    saved = checkpoints.load(trainer._saving[1].result())
    assert digest(split_snapshots(saved.state)[1]) == digest_at_start and saved.version == version
    assert saved.meta["positions"]["0"]["next"] == offsets[0]
    while trainer._copying is None:
        trainer.turn()
    assert version < runtime.pipeline.version, "learning continues"
    runtime.stop()
    newest, _ = checkpoints.latest(tmp_path / "data" / "checkpoints" / config.fingerprint)
    assert newest is not None and digest(split_snapshots(newest.state)[1]) == trainer.digest(), "a stop loses nothing"


def test_records_that_cost_much_do_not_make_a_turn_long(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.learning.event_reader.FOLD_SECONDS", -1.0)
    runtime = open_runtime(make_config())
    trainer = trainer_of(runtime)
    trainer.restore()
    events = list(two_tribes(0, 200))
    runtime.log.append(records(events))
    for _ in range(200):
        before = trainer.next[0]
        assert trainer.turn()
        assert trainer.next[0] - before in (0, 1), "at most one record per turn; a record that ends windows takes several turns"
    trainer.drain()
    monkeypatch.setattr("service.learning.event_reader.FOLD_SECONDS", 1e9)
    other = open_runtime(make_config())
    trainer_of(other).restore()
    other.log.append(records(events))
    trainer_of(other).drain()
    assert trainer.digest() == trainer_of(other).digest()
    runtime.stop()
    other.stop()


@pytest.fixture
def runtime(make_config: MakeConfig) -> Iterator[Runtime]:
    with open_runtime(make_config(server={"flush": 0.001})) as opened:
        yield opened


def test_requests_are_answered_between_the_steps_of_a_walk_and_nothing_is_learned(runtime: Runtime) -> None:
    answered: list[int] = []
    runtime.log.append(records(list(two_tribes(0, 100))))

    def walk() -> Generator[None, None, int]:
        version = runtime.pipeline.version
        while len(answered) < 5:
            yield
            assert runtime.pipeline.version == version
        return version

    walked = runtime.engine.walk(walk)
    for _ in range(5):
        answer, _ = runtime.engine.submit(RankRequest(user="u", items=["a"])).result(PATIENCE)
        answered.append(answer.version)
    assert walked.result(PATIENCE) == answered[-1]


def test_a_walk_that_fails_tells_its_caller_only(runtime: Runtime) -> None:
    def walk() -> Generator[None, None, None]:
        yield
        raise KeyError("planted")

    with pytest.raises(KeyError):
        runtime.engine.walk(walk).result(PATIENCE)
    assert runtime.engine.call(lambda: 1).result(PATIENCE) == 1


def test_a_walk_that_is_not_over_when_the_engine_stops_is_told(make_config: MakeConfig) -> None:
    runtime = open_runtime(make_config())
    started = threading.Event()

    def walk() -> Generator[None, None, None]:
        while True:
            started.set()
            yield

    runtime.start()
    endless, never_begun = runtime.engine.walk(walk), runtime.engine.walk(walk)
    assert started.wait(PATIENCE)
    runtime.stop()
    for future in (endless, never_begun):
        with pytest.raises(Stopped):
            future.result(PATIENCE)


def test_steps_are_taken_until_the_time_of_the_turn_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.learning.steps.TURN_SECONDS", 0.004)
    now = [0.0]

    def steps() -> Generator[None, None, str]:
        for _ in range(10):
            now[0] += 0.0015
            yield
        return "done"

    walk = Steps(steps(), clock=lambda: now[0])
    turns = 1
    while not walk.turn():
        turns += 1
    assert (turns, walk.result) == (4, "done")


@pytest.mark.anyio
async def test_any_number_of_digests_are_one_copy_and_rankings_and_learning_go_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack: two clients that only request digests must not block the others."""
    monkeypatch.setattr("service.process.digests.REST", 0.0)
    copy_in_steps = service.runtime.copy_in_steps
    digest_at_start: list[int] = []
    gate = threading.Event()

    def counted() -> Generator[None, None, tuple[dict[str, Any], State]]:
        digest_at_start.append(1)
        while not gate.is_set():
            yield
        return (yield from copy_in_steps())

    monkeypatch.setattr(service.runtime, "copy_in_steps", counted)
    await service.post("/v1/events", [click("u", f"i{n}") for n in range(5)])
    await service.learned()
    asked = [asyncio.create_task(service.send("GET", "/v1/status?digest=1")) for _ in range(30)]
    while not digest_at_start:
        await asyncio.sleep(0.001)
    for _ in range(20):
        assert len((await service.recommend("v", repeat=True))["items"]) == 5, "served while the copy is being taken"
        status = await service.send("GET", "/v1/status")
        assert status.status_code == 200 and "digest" not in status.json()
    gate.set()
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1 and len(digest_at_start) == 1
    said = answers[0].json()
    assert said["version"] >= 1 and len(said["digest"]) == 32
    await service.post("/v1/events", click("w", "i1"))
    await service.learned()
    again = (await service.send("GET", "/v1/status?digest=1")).json()
    assert again["digest"] != said["digest"] and again["digest"] == await asyncio.to_thread(
        lambda: service.runtime.engine.call(trainer_of(service.runtime).digest).result(PATIENCE)
    )


@pytest.mark.anyio
async def test_after_a_digest_there_is_none_for_a_while(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.process.digests.REST", 1e9)
    monkeypatch.setattr("service.process.digests.LONGEST_REST", 1e9)
    async with serving(make_config(server={"timeout": 2.0})) as service:
        while (await service.send("GET", "/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        answers = [await service.send("GET", "/v1/status?digest=1") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 503]
        assert answers[1].headers["retry-after"] == "1" and "timeout" in answers[1].json()["error"]
        assert (await service.send("GET", "/v1/status")).status_code == 200
        assert (await service.recommend("u"))["items"] == []
