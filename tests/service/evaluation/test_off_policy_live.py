"""Off-policy evaluation of a service's own log, compared with the simulator's truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from learners.base import Values
from learners.features import hash_id
from learners.policies.plackett_luce import PlackettLuce
from service.config import Config, parse
from service.evaluation.counterfactual import PipelinePolicy
from service.evaluation.off_policy import evaluate
from service.process.runtime import open_runtime
from service.ranking.requests import RecommendRequest
from streams.batch import Floats, Ids
from streams.events import Event, Impression
from streams.simulator import Population
from tests.service.conftest import records
from tests.service.running import serving
from tests.worlds import START

POSITIONS, VISITS = 3, 1200
PATIENCE = 0.9


def shop(folder: Path, temperature: float) -> Config:
    """A service for the simulated visitors."""
    return parse(
        {
            "stream": {"url": f"lmdb://{folder}", "window": 0.5, "lateness": 20.0, "batch_rows": 32},
            "features": {
                "user": {"id": "category", "segment": "category"},
                "item": {"id": "category", "category": "category"},
                "crosses": ["user.segment * item.category", "user.segment * item.id"],
            },
            "retrievers": {"popularity": {"capacity": 100}},
            "ranker": {"fm": {"factors": 4, "bits": 12}},
            "policy": {"plackett_luce": {"temperature": temperature}},
            "items": {"capacity": 100},
            "users": {"capacity": 100},
            "history": {"capacity": 100},
        },
        "shop",
    )


def live(config: Config, population: Population, monkeypatch: pytest.MonkeyPatch) -> list[Impression]:
    """Simulate visitors who click; return the impressions.

    No engine runs and no clock: what is learned between two visits must not depend on how fast this machine is.
    """
    runtime, now = open_runtime(config), START
    for module in ("service.ranking.pipeline", "streams.lmdb_log"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(time=lambda: now))
    runtime.updater.restore()

    def append(*events: Event) -> None:
        runtime.log.append(records(list(events)))
        while runtime.updater.turn():
            pass

    append(*population.catalogue(), *population.profiles())
    impressions = []
    for n in range(VISITS):
        now += 0.02
        user, context = population.visit()
        request = RecommendRequest(user=user, context=context, request_id=f"r{n}", n=POSITIONS, candidates=40, repeat=True)
        _, impression = runtime.pipeline.rank([request])[0]
        assert impression is not None and len(impression.items) == POSITIONS
        append(impression, *population.react(user, impression.request_id, impression.items, now))
        impressions.append(impression)
    runtime.stop()
    return impressions


class Known(PipelinePolicy):
    """A policy that also records the true click probability of its lists."""

    def __init__(self, policy: PlackettLuce, population: Population) -> None:
        super().__init__(policy)
        self._luce, self._population = policy, population
        self._named = {hash_id(item): item for item in population.items}
        self._rng = np.random.default_rng(0)
        self.first: list[float] = []
        self.lists: list[float] = []

    def distribution(self, impression: Impression, item: Ids, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        chances = super().distribution(impression, item, score, uncertainty, above)
        if not above.size:
            true = self._population.click_probability(impression.user, [self._named[key] for key in item.tolist()])
            self.first.append(float(chances @ true))
            drawn = [self._luce.select(score, uncertainty, POSITIONS, self._rng).rows for _ in range(30)]
            self.lists.append(float(np.mean([true[rows] * PATIENCE ** np.arange(POSITIONS) for rows in drawn])))
        return chances


def test_snips_of_the_services_own_log_holds_the_true_click_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service explores and learns; the evaluated policy has a lower temperature on the same ranker."""
    population = Population(60, 40, seed=3, drift=0.0, patience=PATIENCE, base_rate=0.15, best_rate=0.5, positions=POSITIONS)
    for impression in live(shop(tmp_path, 0.3), population, monkeypatch):
        assert len(impression.propensities) == POSITIONS
        assert all(0 < propensity <= 1 for propensity in impression.propensities)
        assert len(impression.unshown) == 8 * (40 - POSITIONS)
    config = shop(tmp_path, 0.1)
    policy = PlackettLuce(0.1)

    first = Known(policy, population)
    found = evaluate(config, chooser=first, positions=1)
    assert found.result.impressions > 0.5 * VISITS and not found.dead
    snips = found.result.estimates["snips"]
    true = float(np.mean(first.first[: found.result.impressions]))
    assert snips.low < true < snips.high
    assert found.result.verdict == "better"
    assert true > found.result.estimates["logged"].value

    lists = Known(policy, population)
    found = evaluate(config, chooser=lists, floor=20.0)
    snips = found.result.estimates["snips"]
    true = float(np.mean(lists.lists[: found.result.impressions]))
    assert snips.low < true < snips.high

    same = evaluate(shop(tmp_path, 0.3), positions=1)
    assert same.result.effective_sample_size > 0.9 * same.result.impressions
    assert same.result.verdict == "undecided"


@pytest.mark.anyio
async def test_every_impression_in_the_log_carries_its_propensities(make_config: Callable[..., Config]) -> None:
    """For every route and source of rankings, and whether or not all candidates were shown."""
    bodies = [
        ("/v1/recommend", {"user": "u", "n": 2}),
        ("/v1/recommend", {"user": "u", "n": 3, "by": "popularity"}),
        ("/v1/rank", {"user": "u", "items": ["i1", "i2", "i3", "i4"]}),
        ("/v1/rank", {"user": "u", "items": ["i1", "i2", "i3", "i4"], "n": 1, "by": "popularity"}),
    ]
    for policy in ({"greedy": {}}, {"epsilon_greedy": {"epsilon": 0.2}}, {"plackett_luce": {}}, {"top_k_random": {"top": 2}}):
        async with serving(make_config(policy=policy)) as service:
            for n in range(6):
                answer = await service.send("PUT", f"/v1/items/i{n}", {"attributes": {"colour": "red"}})
                assert answer.status_code in (200, 202)
            await service.learned()
            for path, body in bodies:
                assert (await service.post(path, body)).status_code == 200
            shown = await service.impressions(len(bodies))
            assert [len(one.items) for one in shown] == [2, 3, 4, 1]
            assert [len(one.unshown) // 8 for one in shown] == [4, 3, 0, 3]
            for one in shown:
                assert len(one.propensities) == len(one.items)
                assert all(0 < propensity <= 1 for propensity in one.propensities)
                candidates = [*(hash_id(item) for item in one.items), *np.frombuffer(one.unshown, "<i8").tolist()]
                assert len(set(candidates)) == len(candidates)
