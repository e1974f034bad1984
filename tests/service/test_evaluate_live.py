"""Evaluation of the log of a service that ran: against a truth that only the simulator knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from learners.base import Values
from learners.features import hash_id
from learners.policy import PlackettLuce
from service.config import Config, parse
from service.counterfactual import OfPolicy
from service.evaluate import evaluate
from streams.batch import Floats, Ids
from streams.codec import encode
from streams.events import Impression
from streams.simulator import Population
from tests.service.running import Service, serving

PLACES, VISITS = 3, 1200
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
            "ranker": {"fm": {"factors": 4, "bits": 12, "step": 0.2}},
            "policy": {"plackett_luce": {"temperature": temperature}},
            "items": {"capacity": 100},
            "users": {"capacity": 100},
            "history": {"capacity": 100},
            "server": {"flush": 0.005},
        },
        "shop",
    )


async def live(service: Service, population: Population) -> None:
    """Let visitors come, and click."""
    events = [json.loads(encode(event)) for event in (*population.catalogue(), *population.profiles())]
    assert (await service.post("/v1/events", events)).status_code == 202
    await service.learned()
    for n in range(VISITS):
        user, context = population.visit()
        asked = {"request_id": f"r{n}", "context": context, "n": PLACES, "candidates": 40, "repeat": True}
        answer = await service.recommend(user, **asked)
        shown = [ranked["item"] for ranked in answer["items"]]
        assert len(shown) == PLACES
        reactions = population.react(user, f"r{n}", shown, 0.0)
        if reactions:
            sent = await service.post("/v1/events", [json.loads(encode(reaction)) for reaction in reactions])
            assert sent.status_code == 202
    await service.learned()


class Known(OfPolicy):
    """A policy of which it is also noted how often its lists would really have been clicked."""

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
            drawn = [self._luce.select(score, uncertainty, PLACES, self._rng).rows for _ in range(30)]
            self.lists.append(float(np.mean([true[rows] * PATIENCE ** np.arange(PLACES) for rows in drawn])))
        return chances


@pytest.mark.anyio
async def test_snips_of_the_live_services_own_log_holds_the_true_click_through(tmp_path: Path) -> None:
    """The service explores and learns; a sharper policy on the same ranker is evaluated. 99.9 %: the run is not repeatable."""
    population = Population(60, 40, seed=3, drift=0.0, patience=PATIENCE, base_rate=0.15, best_rate=0.5, places=PLACES)
    async with serving(shop(tmp_path, 0.3)) as service:
        await live(service, population)
        shown = await service.impressions(VISITS)
        for impression in shown:
            assert len(impression.propensities) == PLACES
            assert all(0 < propensity <= 1 for propensity in impression.propensities)
            assert len(impression.unshown) == 8 * (40 - PLACES)
    config = shop(tmp_path, 0.1)
    policy = PlackettLuce(0.1)

    first = Known(policy, population)
    found = evaluate(config, chooser=first, places=1, confidence=0.999)
    assert found.result.impressions > 0.5 * VISITS and not found.dead
    snips = found.result.estimates["snips"]
    true = float(np.mean(first.first[: found.result.impressions]))
    assert snips.low < true < snips.high
    assert found.result.verdict == "better"
    assert true > found.result.estimates["logged"].value

    lists = Known(policy, population)
    found = evaluate(config, chooser=lists, confidence=0.999, floor=20.0)
    snips = found.result.estimates["snips"]
    true = float(np.mean(lists.lists[: found.result.impressions]))
    assert snips.low < true < snips.high

    same = evaluate(shop(tmp_path, 0.3), places=1)
    assert same.result.effective_sample_size > 0.9 * same.result.impressions
    assert same.result.verdict == "undecided"


@pytest.mark.anyio
async def test_every_impression_in_the_log_carries_its_propensities(make_config: Callable[..., Config]) -> None:
    """By whichever route it came, whoever made the order, and whether or not all candidates were shown."""
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
