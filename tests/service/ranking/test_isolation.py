"""A batch on which a learner fails: only that learner skips it, it is reported, and every fold of the log skips the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from learners.features import hash_id
from service.config import Config
from service.evaluation.replay import replay
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankRequest
from streams.dead_letters import DeadLetters
from streams.events import Event, Impression, Interaction, ItemUpdate
from streams.lmdb_log import LmdbLog
from streams.log import MemoryLog
from tests.service.brittle import NAME, UNLEARNABLE, UNLISTABLE, UNSCORABLE, UNSEEABLE, Counts
from tests.service.learning.test_live_equals_replay import fill, fold, trainer
from tests.service.replication.test_replica import World, follow, states
from tests.service.running import click, serving
from tests.worlds import START, busy_world

MakeConfig = Callable[..., Config]

BRITTLE: dict[str, Any] = {"retrievers": {NAME: {}, "popularity": {}}, "features": {"item": {"id": "category"}}}


def poisoned(seed: int = 2, length: int = 200) -> list[Event]:
    """`busy_world` with some events on which `brittle` fails."""
    rng, made = random.Random(seed), list[Event]()
    for n, event in enumerate(busy_world(seed, length)):
        made.append(event)
        more: list[Event] = [
            Interaction(user="u1", item=UNLEARNABLE, timestamp=event.timestamp or START),
            Impression(request_id=f"p{n}", user="u2", items=("i1", UNSEEABLE, "i2"), timestamp=event.timestamp or START),
            ItemUpdate(item=UNLISTABLE, timestamp=event.timestamp or START),
            Interaction(user="u3", item=UNSCORABLE, timestamp=event.timestamp or START),
        ]
        made += rng.sample(more, 1) if rng.random() < 0.05 else []
    return made


def config_of(make_config: MakeConfig, url: str | Path = "memory://", **more: Any) -> Config:
    return make_config(url, **BRITTLE, **more)


def clicks(*items: str) -> list[Event]:
    return [Interaction(user=f"u{n}", item=item, timestamp=START + n) for n, item in enumerate(items)]


def counted(counts: Counts, *items: str) -> list[float]:
    slots = counts.find([hash_id(item) for item in items])  # type: ignore[arg-type]
    return [float(counts["count"][slot]) if slot >= 0 else 0.0 for slot in slots]


def learned(pipeline: Pipeline) -> Counts:
    return pipeline.retrievers.named[NAME].learned  # type: ignore[attr-defined, no-any-return]


def test_only_the_failing_learner_skips_the_batch(make_config: MakeConfig) -> None:
    log = fill(MemoryLog(), clicks("a", "b", UNLEARNABLE, "c", "d", "e"))
    config = config_of(make_config, stream={"batch_rows": 2})
    folded = trainer(config, log)
    folded.restore()
    folded.drain()
    pipeline = folded.pipeline
    assert counted(learned(pipeline), "a", "b", "c", "d", "e") == [1, 1, 0, 1, 1]
    popular = pipeline.retrievers.named["popularity"].items  # type: ignore[attr-defined]
    assert (popular.find([hash_id(item) for item in ("a", UNLEARNABLE, "c", "e")]) >= 0).all()
    assert pipeline.version == 3
    assert pipeline.isolation.counts == {NAME: 1}
    (letter,) = folded.dead.read()
    assert (letter.kind, letter.source, letter.partition, letter.offset) == ("poison", "log", 0, 3), (
        "the record that completed the batch"
    )
    assert NAME in letter.reason
    assert "KeyError" in letter.reason
    assert letter.value == log.read({0: 3}, 1)[0].value
    assert [notice for notice in folded.notices if NAME in notice and "KeyError" in notice]


@pytest.mark.parametrize(
    ("event", "letters"),
    [(Impression(request_id="r", user="u", items=("i1", UNSEEABLE), timestamp=START), 1), (ItemUpdate(item=UNLISTABLE), 1)],
)
def test_failures_in_observe_and_add_are_skipped_too(event: Event, letters: int, make_config: MakeConfig) -> None:
    folded = fold(config_of(make_config, stream={"batch_rows": 1}), fill(MemoryLog(), [event, *clicks("a")]))
    assert [letter.kind for letter in folded.dead.read()] == ["poison"] * letters
    assert counted(learned(folded.pipeline), "a") == [1]


def test_without_a_score_only_retrievers_learn(make_config: MakeConfig) -> None:
    config = make_config(**BRITTLE, ranker={NAME: {}}, rerankers={}, stream={"batch_rows": 2}, negatives={"n": 0})
    folded = fold(config, fill(MemoryLog(), clicks("a", "b", UNSCORABLE, "c", "d", "e")))
    assert counted(learned(folded.pipeline), "a", "c", UNSCORABLE, "e") == [1, 1, 1, 1]
    ranker = folded.pipeline.ranker
    assert counted(ranker.learned, "a", "c", UNSCORABLE, "e") == [1, 0, 0, 1]  # type: ignore[attr-defined]
    (letter,) = folded.dead.read()
    assert (letter.kind, letter.offset) == ("poison", 3)
    assert "not finite" in letter.reason


def test_rows_are_learned_without_negatives_that_cannot_be_scored(make_config: MakeConfig) -> None:
    config = make_config(**BRITTLE, ranker={NAME: {}}, rerankers={}, stream={"batch_rows": 1}, negatives={"n": 9})
    folded = fold(config, fill(MemoryLog(), clicks("a", UNSCORABLE, "c", "d", "e")))
    ranker = folded.pipeline.ranker
    assert counted(ranker.learned, "a", UNSCORABLE, "e") == [1, 0, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("ranker", ["fm", NAME])
def test_live_replay_and_restart_agree(ranker: str, make_config: MakeConfig, tmp_path: Path) -> None:
    sections = {"ranker": {ranker: {}}} | ({"rerankers": {}} if ranker == NAME else {})
    events = poisoned()
    config = config_of(make_config, **sections)
    whole = fold(config, fill(MemoryLog(), events))
    assert whole.dead.counts["poison"] > 10
    assert fold(config, fill(MemoryLog(), events), poll=1).digest() == whole.digest()
    log, dead, rng = fill(MemoryLog(), events), DeadLetters(MemoryLog()), random.Random(0)
    while True:
        life = trainer(config, log, folder=tmp_path / "state", poll=rng.choice([1, 5, 100]))
        life.dead = life.reader._dead = dead
        life.restore()
        turns = [life.turn() for _ in range(rng.randint(1, 30))]
        if not turns[-1]:
            break
        life.save()
        for _ in range(rng.randint(0, 9)):
            life.turn()
        life.close()
    assert life.digest() == whole.digest()
    assert [letter.offset for letter in dead.read()] == [letter.offset for letter in whole.dead.read()], "each once"
    fill(LmdbLog(tmp_path / "log" / "events", max_bytes=64 << 20), events).close()
    done = replay(config_of(make_config, tmp_path / "log", **sections), k=0)
    assert done.digest == whole.digest()
    assert done.dead == dict(whole.dead.counts)
    assert done.quality[ranker].auc > 0.4


def test_a_replica_agrees(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.service.replication.test_replica.EVENTS", poisoned())
    world = World(config_of(make_config), tmp_path, partitions=1)
    leader, replica = world.trainer(), world.replica()
    while leader.turn():
        follow(replica)
    assert leader.dead.counts["poison"] > 10
    one, other = states(leader, replica)
    assert one == other


def test_a_replay_of_a_file_counts_the_failure_too(make_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    rows = ["user,item,value,timestamp", *(f"u{n},{UNLEARNABLE if n == 5 else n},1,{n + 1}" for n in range(8))]
    path.write_text("\n".join(rows) + "\n")
    columns = {name: name for name in ("user", "item", "value", "timestamp")}
    done = replay(config_of(make_config, f"file:{path}", stream={"batch_rows": 2, "columns": columns, "kind": "click"}), k=0)
    assert done.dead == {"poison": 1}
    assert done.rows == 8


@pytest.mark.anyio
async def test_the_service_stays_up_and_starts_again(make_config: MakeConfig, tmp_path: Path) -> None:
    config = config_of(make_config, tmp_path, server={"flush": 0.001})
    digests = []
    for life in range(2):
        async with serving(config) as service:
            if life == 0:
                posted = [click("ann", item, id=f"{n}") for n, item in enumerate(["a", UNLEARNABLE, "b"])]
                assert (await service.post("/v1/events", posted)).status_code == 202
            await service.learned()
            while not service.runtime.updater.caught_up:
                await asyncio.sleep(0.01)
            assert (await service.send("GET", "/readyz")).status_code == 200
            assert [item["item"] for item in (await service.recommend("bob", n=9, log=False))["items"]] == [
                "a",
                UNLEARNABLE,
                "b",
            ]
            letters = [letter for letter in service.letters() if letter.kind == "poison"]
            assert [(letter.partition, letter.offset >= 2) for letter in letters] == [(0, True)], (
                "one letter, also after a restart"
            )
            status = (await service.send("GET", "/v1/status?digest=1")).json()
            digests.append(status["digest"])
            if life == 0:
                assert any(NAME in notice for notice in status["notices"])
                metrics = (await service.send("GET", "/metrics")).text
                assert 'freshet_dead_total{reason="poison"} 1.0' in metrics
                assert f'freshet_poisoned_total{{learner="{NAME}"}} 1.0' in metrics
    assert digests[0] == digests[1] == replay(config, k=0).digest


def test_only_the_request_for_an_unscorable_item_fails(make_config: MakeConfig) -> None:
    folded = fold(make_config(**BRITTLE, ranker={NAME: {}}, rerankers={}), fill(MemoryLog(), clicks("a", UNSCORABLE)))
    with pytest.raises(FloatingPointError):
        folded.pipeline.rank([RankRequest(user="u", items=[UNSCORABLE])])
    ((answer, _),) = folded.pipeline.rank([RankRequest(user="u", items=["a"])])
    assert answer.items[0].item == "a"
