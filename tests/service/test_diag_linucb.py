"""Diag-LinUCB in the service: the context that is logged, the propensities, and clicks in a world that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from learners.features import hash_id
from learners.retrievers.diag_linucb.contexts import Contexts, pack_contexts, unpack_contexts
from learners.retrievers.diag_linucb.retriever import DiagLinUcb
from service import config as configs
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from service.ranking.requests import RankRequest, RecommendRequest
from service.ranking.signing import Signer
from streams.codec import decode, encode, partition_key
from streams.dead_letters import DeadLetters
from streams.events import Event, Impression, Interaction, UserUpdate
from streams.log import MemoryLog
from streams.simulator import Population
from tests.worlds import START, busy_world

EXAMPLE = Path(__file__).parents[2] / "examples" / "diag_linucb.toml"
PLACES = 10


class Service:
    """A pipeline and its trainer over a log in memory, on this thread: what is appended has been learned."""

    def __init__(self, config: Config) -> None:
        self.pipeline, self.log = build_pipeline(config), MemoryLog()
        self.signer = Signer.for_writer(None)
        builder = FeedbackBuilder(self.pipeline, config.reward, self.signer.verify)
        validator = EventValidator(config.reward, 1e9)
        self.trainer = Trainer(self.pipeline, builder, joiners(config, 1), self.log, DeadLetters(MemoryLog()), validator)
        self.trainer.restore()

    def append(self, *events: Event) -> None:
        self.log.append([(partition_key(event), encode(event)) for event in events])
        self.trainer.drain()

    def recommend(self, user: str, **keywords: Any) -> Impression:
        _, impression = self.pipeline.rank([RecommendRequest(user=user, repeat=True, **keywords)])[0]
        assert impression is not None
        return impression

    @property
    def bandit(self) -> DiagLinUcb:
        found = self.pipeline.retrievers.named["diag_linucb"]
        assert isinstance(found, DiagLinUcb)
        return found


@pytest.fixture
def service(make_config: Callable[..., Config]) -> Service:
    """Has clustered its users."""
    made = Service(make_config(policy={"ucb": {"alpha": 0.5, "top": 3}}, stream={"batch_rows": 1}))
    made.append(*busy_world(0, 60))
    assert made.bandit.centroids.epoch
    return made


def context_of(impression: Impression) -> Contexts:
    return unpack_contexts([impression.carried["diag_linucb"]])


def edge(bandit: DiagLinUcb, cluster: int, item: str) -> tuple[float, float] | None:
    slot = int(bandit.graph.items.find(np.array([hash_id(item)]))[0])
    places = np.flatnonzero(bandit.graph.slot == slot)
    here = places[places // bandit.graph.width == cluster]
    return (float(bandit.graph.mass[here[0]]), float(bandit.graph.reward[here[0]])) if here.size else None


def test_a_click_is_counted_for_the_clusters_of_serving_time(service: Service) -> None:
    """In between, the user has become another: the context of now would be a different one."""
    bandit = service.bandit
    impression = service.recommend("u1", n=3, by="diag_linucb", request_id="r")
    assert decode(encode(impression)) == impression
    logged = context_of(impression)
    assert logged.weight.sum() == pytest.approx(1)
    assert (logged.epoch[0], logged.graph[0]) == (bandit.centroids.epoch, bandit.graph.version)
    impression = decode(service.signer.encoded(msgspec.structs.replace(impression, timestamp=START + 1e6)))
    service.append(UserUpdate(user="u1", attributes={"tribe": "blue"}), impression)
    now = context_of(service.recommend("u1", n=1))
    assert now.index.tolist() != logged.index.tolist() or now.weight.tolist() != logged.weight.tolist()
    clusters = logged.index[0][logged.index[0] >= 0].tolist()
    before = [edge(bandit, cluster, impression.items[0]) for cluster in clusters]
    service.append(Interaction(id="c", request_id="r", user="u1", item=impression.items[0], timestamp=START + 1e6 + 1))
    assert any(before)
    for cluster, weight, known in zip(clusters, logged.weight[0].tolist(), before, strict=False):
        found = edge(bandit, cluster, impression.items[0])
        assert (found is None) == (known is None)
        if found is not None and known is not None:
            assert found == pytest.approx((known[0] + weight**2, known[1] + weight), rel=1e-12)


def test_what_a_client_made_up_is_counted_as_if_nothing_had_been_logged(service: Service) -> None:
    impression = service.recommend("u1", n=3)
    context = context_of(impression)
    one = np.ones(1, np.int64)
    forged = Contexts(index=np.array([[2**31 - 1, 1]]), weight=np.array([[1e30, np.nan]]), epoch=one, schema=5 * one, graph=one)
    heavy = replace(context, weight=context.weight * 1e30)
    for n, told in enumerate((pack_contexts(forged)[0], pack_contexts(heavy)[0], b"lopsided")):
        made_up = msgspec.structs.replace(
            impression, request_id=f"m{n}", carried={"diag_linucb": told}, timestamp=START + 1e6 * (n + 1)
        )
        stolen = decode(service.signer.encoded(impression)).signature
        service.append(made_up, msgspec.structs.replace(made_up, request_id=f"s{n}", signature=stolen))
    service.append(msgspec.structs.replace(impression, request_id="last", timestamp=START + 1e7))
    assert service.bandit.graph.mass.max() < 1e6


@pytest.mark.parametrize(
    "policy",
    [
        {"ucb": {"alpha": 0.5}},
        {"ucb": {"alpha": 0.5, "top": 3}},
        {"thompson": {}},
        {"epsilon_greedy": {"epsilon": 0.3}},
        {"top_k_random": {"top": 3}},
        {"plackett_luce": {"temperature": 0.5}},
    ],
    ids=lambda policy: " ".join(f"{name} {keywords}" for name, keywords in policy.items()),
)
@pytest.mark.parametrize("init", ["prior", "infinite"])
def test_logged_propensities_add_up_to_one_over_the_candidates(
    policy: dict[str, Any], init: str, make_config: Callable[..., Config]
) -> None:
    """At one state, each item that can be put first is, some time; with infinite bounds some of them are tied."""
    bandit = {"clusters": 2, "width": 6, "items": 100, "first": 60, "epoch": 10**6, "sample": 64, "dim": 4, "bits": 8}
    service = Service(make_config(policy=policy, retrievers={"diag_linucb": bandit | {"init": init}}))
    service.append(*busy_world(0, 60))
    assert service.bandit.centroids.epoch
    told: dict[str, float] = {}
    for seed in range(3000):
        impression = service.recommend("u1", n=1, candidates=6, by="diag_linucb", seed=seed)
        (item,), (propensity,) = impression.items, impression.propensities
        assert told.setdefault(item, propensity) == pytest.approx(propensity, rel=1e-6)
        if sum(told.values()) > 1 - 1e-6:
            break
    assert sum(told.values()) == pytest.approx(1, abs=1e-5)
    whole = service.recommend("u1", n=6, candidates=6, by="diag_linucb")
    assert whole.propensities[-1] == pytest.approx(1), "only one was left"


def test_given_items_are_ranked_with_the_uncertainty_of_the_bandit(service: Service) -> None:
    given = [f"i{n}" for n in range(10)]
    response, _ = service.pipeline.rank([RankRequest(user="u1", items=given)])[0]
    by_bandit, _ = service.pipeline.rank([RankRequest(user="u1", items=given, by="diag_linucb")])[0]
    widths = {ranked.item: ranked.uncertainty for ranked in by_bandit.items}
    assert {ranked.item: ranked.uncertainty for ranked in response.items} == widths
    assert len(set(widths.values())) > 1
    baseline, _ = service.pipeline.rank([RankRequest(user="u1", items=given, by="popularity")])[0]
    assert [ranked.uncertainty for ranked in baseline.items] == [0] * 10, "a baseline keeps its own order"


def click_through(
    config: Config,
    retriever: dict[str, Any],
    policy: dict[str, Any],
    visits: int,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> np.ndarray:
    """Clicks per place of each visit. Tastes shift at half-time; after three quarters, a tenth of the items are others."""
    service = Service(config.model_copy(update={"retrievers": retriever, "policy": policy, "ranker": {"bias": {}}}))
    population, now = Population(200, 300, seed=seed), START
    # Equal scores are ordered by the time of the request: what is clicked must not depend on when the test is run.
    monkeypatch.setattr("service.ranking.pipeline.time", SimpleNamespace(time=lambda: now))
    service.append(*population.catalogue(), *population.profiles())
    (by,) = retriever
    clicks = np.zeros(visits)
    for n in range(visits):
        if n == visits // 2:
            population.shift()
        if n == visits * 3 // 4:
            service.append(*population.replace(0.1))
        now += 1 / 80
        user, context = population.visit()
        shown = service.recommend(user, context=context, n=PLACES, by=by, request_id=f"r{n}", seed=n)
        clicked = population.react(user, f"r{n}", shown.items, now + 0.5)
        service.append(msgspec.structs.replace(shown, timestamp=now), *clicked)
        clicks[n] = len(clicked) / PLACES
    return clicks


def test_more_clicks_than_popularity_and_item_knn_when_the_world_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    config, visits = configs.load(EXAMPLE), 2000
    config = config.model_copy(update={"stream": config.stream.model_copy(update={"url": "memory://"})})
    random = {"epsilon_greedy": {"epsilon": 0.04}}
    contenders: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "popularity": ({"popularity": {"half_life": 60.0}}, random),
        "item_knn": ({"item_knn": {}}, random),
        "diag_linucb": (config.retrievers, config.policy),
    }
    clicks = {name: click_through(config, *chosen, visits, 0, monkeypatch) for name, chosen in contenders.items()}
    half, quarter = visits // 2, visits // 4
    phases = {"before": (quarter, half), "shifted": (half, half + quarter), "replaced": (half + quarter, visits)}
    for phase, (start, stop) in phases.items():
        rates = {name: float(one[start:stop].mean()) for name, one in clicks.items()}
        assert rates["diag_linucb"] > max(rates["popularity"], rates["item_knn"]), (phase, rates)
