"""A network that is published rarely and an adapter over it: equal to the bit in a replay, after kills, and on a replica."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memory.stateful import digest, without_private
from service.config import Config
from service.evaluation.replay import replay
from service.process.runtime import build_pipeline
from streams.lmdb_log import LmdbLog
from streams.log import MemoryLog
from tests.service.learning.test_live_equals_replay import fill, fold, killed, trainer
from tests.worlds import busy_world

MakeConfig = Callable[..., Config]
EVENTS = list(busy_world(seed=1, length=160))
GUARDS: dict[str, Any] = {"mode": "gated", "window": 40, "gate_events": 40, "pause": 20, "pending": 400, "gate_z": 0.0}
ADAPTERS: dict[str, Any] = {
    "sar": GUARDS | {"requests": 4, "learning_rate": 0.05},
    "late_labels": GUARDS | {"learning_rate": 0.02},
}


@pytest.fixture(params=ADAPTERS)
def config(request: pytest.FixtureRequest, make_config: MakeConfig) -> Callable[..., Config]:
    def make(url: str | Path = "memory://") -> Config:
        deep = {"bits": 10, "factors": 4, "hidden": 8, "publish_every": 150, "network_learning_rate": 0.03}
        adapters = {request.param: ADAPTERS[request.param]}
        return make_config(url, ranker={"deep": deep}, adapters=adapters, rerankers={}, retrievers={"popularity": {}})

    return make


def test_a_replay_and_kills_lead_to_the_same_bytes(config: Callable[..., Config], tmp_path: Path) -> None:
    log = fill(MemoryLog(), EVENTS)
    uninterrupted = fold(config(), log)
    (adapter,) = uninterrupted.pipeline.adapters.named.values()
    assert adapter.metrics()["steps"] > 5
    assert uninterrupted.pipeline.ranker.version > 2  # type: ignore[attr-defined]
    fill(LmdbLog(tmp_path / "events", max_bytes=64 << 20), EVENTS).close()
    assert replay(config(tmp_path)).digest == uninterrupted.digest()
    life, kills = killed(config(), log, tmp_path / "state", 3, polls=(1, 7, 1000), turns=(4, 20))
    assert kills > 5
    assert life.digest() == uninterrupted.digest()


def test_a_replica_has_what_is_served(config: Callable[..., Config]) -> None:
    """It is sent the published version and the change, and neither what learns nor what the guards remember."""
    leader, replica = trainer(config(), fill(MemoryLog(), EVENTS)), build_pipeline(config())
    leader.restore()
    more, served = True, 0
    while more:
        more = leader.turn()
        changes = leader.pipeline.take_changes()
        assert not any(name.startswith("ranker.ahead") for name in changes)
        replica.apply_changes(changes)
        served += sum(adapter.status["serving"][0] for _, adapter in leader.pipeline.adapters)  # type: ignore[attr-defined]
        states = [without_private(each, each.state_dict()) for each in (leader.pipeline, replica)]
        assert digest(states[0]) == digest(states[1])
    assert served or "sar" in leader.pipeline.adapters.named, "what labels show to be better was served at some time"
