"""A sequential ranker with StreamAdapter: equal to the bit in a replay, after kills, and on a replica."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memory.stateful import digest, without_private
from service.config import Config
from service.evaluation.replay import replay
from service.process.runtime import build_pipeline
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankRequest
from streams.lmdb_log import LmdbLog
from streams.log import MemoryLog
from tests.service.learning.test_live_equals_replay import fill, fold, killed, trainer
from tests.worlds import busy_world

MakeConfig = Callable[..., Config]
EVENTS = list(busy_world(seed=1, length=200))
RETRIEVER = {"items": 64, "users": 64, "length": 24, "width": 8, "chunk": 2, "chunks": 3, "every": 12, "learning_rate": 0.02}
ADAPTER = {"rank": 2, "every": 12, "chunks": 4, "evidence": 0, "learning_rate": 0.02, "age": 2}


@pytest.fixture
def config(make_config: MakeConfig) -> Callable[..., Config]:
    def make(url: str | Path = "memory://") -> Config:
        return make_config(
            url,
            retrievers={"next_item": RETRIEVER},
            ranker={"sequential": {}},
            adapters={"stream_adapter": ADAPTER},
            rerankers={},
        )

    return make


def test_a_replay_and_kills_lead_to_the_same_bytes(config: Callable[..., Config], tmp_path: Path) -> None:
    log = fill(MemoryLog(), EVENTS)
    uninterrupted = fold(config(), log)
    adapter = uninterrupted.pipeline.adapters.named["stream_adapter"]
    assert adapter.metrics()["anew"] > 3
    assert adapter.clock["steps"][0] > 2  # type: ignore[attr-defined]
    fill(LmdbLog(tmp_path / "events", max_bytes=64 << 20), EVENTS).close()
    assert replay(config(tmp_path)).digest == uninterrupted.digest()
    life, kills = killed(config(), log, tmp_path / "state", 3, polls=(1, 7, 1000), turns=(4, 20))
    assert kills > 5
    assert life.digest() == uninterrupted.digest()


def scores(pipeline: Pipeline, requests: list[RankRequest]) -> list[dict[str, float]]:
    return [{ranked.item: ranked.score for ranked in response.items} for response, _ in pipeline.rank(requests)]


def test_a_replica_ranks_with_the_states_that_it_was_sent(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, replica = trainer(config(), fill(MemoryLog(), EVENTS)), build_pipeline(config())
    leader.restore()
    while leader.turn():
        replica.apply_changes(leader.pipeline.take_changes())
    replica.apply_changes(leader.pipeline.take_changes())
    states = [without_private(each, each.state_dict()) for each in (leader.pipeline, replica)]
    assert digest(states[0]) == digest(states[1])
    requests = [RankRequest(user=f"u{n}", items=[f"i{m}" for m in range(10)]) for n in range(20)]
    ours, theirs = (scores(pipeline, requests) for pipeline in (leader.pipeline, replica))
    assert ours == theirs
    monkeypatch.setattr(replica.adapters.named["stream_adapter"], "_alpha", 0.0)
    plain = scores(replica, requests)
    assert sum(one != other for one, other in zip(theirs, plain, strict=True)) > 5, "rankings that the states change"
