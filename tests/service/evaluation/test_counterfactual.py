"""Records of impressions, made before any learner learns from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from learners.base import Exclusion, Reranker, Retriever
from learners.features import hash_id, hash_ids
from learners.policies.greedy import Greedy
from learners.policies.plackett_luce import PlackettLuce
from learners.policies.ucb import Ucb
from service.config import Config
from service.evaluation.counterfactual import Counterfactual, EmpiricalPolicy, PipelinePolicy, UndefinedDistribution
from service.evaluation.estimators import Decisions
from service.learning.feedback import FeedbackBuilder
from service.process.runtime import build_pipeline
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankRequest, RecommendRequest
from service.ranking.stages import Stages
from streams.batch import Batch, Floats
from streams.events import Impression
from streams.joined import Outcome, TrackedImpression
from streams.readers.decisions import Decision
from tests.worlds import two_tribes

ITEMS = tuple(f"i{n}" for n in range(10))


def clicked(user: str, item: str, impression: Impression | None = None, kind: str = "click", value: float = 1.0) -> Outcome:
    row = Outcome(user=user, item=item, kind=kind, value=value, timestamp=100.0)
    if impression is not None:
        row.shown = TrackedImpression(impression=impression, timestamp=impression.timestamp)
        row.position = impression.items.index(item)
    return row


@pytest.fixture
def make_pipeline(make_config: Callable[..., Config]) -> Callable[..., Pipeline]:
    def make(**sections: Any) -> Pipeline:
        """Make a pipeline without rerankers, so that the scores of a response are the ranker's predictions."""
        config = make_config(**{"rerankers": {}} | sections)
        pipeline = build_pipeline(config)
        for event in two_tribes(0, 0):
            pipeline.apply(event)
        rows = [clicked(f"u{n}", f"i{item}") for item in range(5) for n in range(5 - item)]
        feedback = FeedbackBuilder(pipeline, config.reward).from_rows(rows)
        pipeline.predict(feedback)
        pipeline.learn(feedback)
        return pipeline

    return make


def decided(counterfactual: Counterfactual) -> Decisions:
    _, found = counterfactual.decisions() or pytest.fail("no decisions")
    return found


def answers(pipeline: Pipeline, n: int = 4) -> list[Impression]:
    asked = [
        request
        for user in range(20)
        for request in (RankRequest(user=f"u{user}", items=list(ITEMS), n=n), RecommendRequest(user=f"u{user}", n=n))
    ]
    return [impression for _, impression in pipeline.rank(asked) if impression is not None]


@pytest.mark.parametrize(
    "policy",
    [
        {"greedy": {}},
        {"epsilon_greedy": {"epsilon": 0.3}},
        {"plackett_luce": {"temperature": 0.2}},
        {"top_k_random": {"top": 3}},
    ],
)
def test_the_policy_that_acted_would_do_the_same(make_pipeline: Callable[..., Pipeline], policy: dict[str, Any]) -> None:
    pipeline = make_pipeline(policy=policy, rerankers={"reloop2": {}})
    counterfactual = Counterfactual(pipeline, PipelinePolicy(pipeline.policy))
    impressions = answers(pipeline)
    assert any(len(set(impression.propensities)) > 1 for impression in impressions) or "greedy" in policy
    counterfactual.add_impressions(impressions)
    found = counterfactual.decisions()
    assert found is not None
    ids, decisions = found
    assert ids == [impression.request_id for impression in impressions]
    weight, _ = decisions.weights
    assert weight == pytest.approx(np.ones(weight.size), rel=1e-5)


def test_adding_impressions_changes_no_state(make_pipeline: Callable[..., Pipeline]) -> None:
    from memory.stateful import digest

    pipeline = make_pipeline()
    impressions = answers(pipeline)
    before = digest(pipeline.state_dict())
    Counterfactual(pipeline, PipelinePolicy(PlackettLuce(0.1))).add_impressions(impressions)
    assert digest(pipeline.state_dict()) == before


def test_values_follow_from_the_scores_of_all_candidates(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline()
    impression = answers(pipeline, n=2)[0]
    assert len(impression.unshown) == 8 * 8
    response, _ = pipeline.rank([RankRequest(user=impression.user, items=list(ITEMS), log=False)])[0]
    score = {ranked.item: ranked.score for ranked in response.items}
    chances = {item: np.exp(score[item] / 0.5) for item in ITEMS}
    counterfactual = Counterfactual(pipeline, PipelinePolicy(PlackettLuce(0.5)), chain=False)
    counterfactual.add_impressions([impression])
    decisions = decided(counterfactual)
    first, second = impression.items
    left = sum(chances.values()) - chances[first]
    assert decisions.target == pytest.approx([chances[first] / sum(chances.values()), chances[second] / left], rel=1e-5)
    assert decisions.predicted == pytest.approx([score[first], score[second]])
    expected = [sum(chances[i] * score[i] for i in ITEMS) / sum(chances.values())]
    expected.append(sum(chances[i] * score[i] for i in ITEMS if i != first) / left)
    assert decisions.expected == pytest.approx(expected, rel=1e-5)
    assert decisions.on_policy == pytest.approx(decisions.expected)


def test_the_policys_own_list_differs_from_the_logged_one(make_pipeline: Callable[..., Pipeline]) -> None:
    """The log shows the worst item first; greedy starts with the two best."""
    pipeline = make_pipeline()
    response, _ = pipeline.rank([RankRequest(user="u1", items=list(ITEMS), log=False)])[0]
    best = sorted(response.items, key=lambda ranked: -ranked.score)
    assert len({ranked.score for ranked in best}) == 10
    shown = best[-1].item, best[0].item
    unshown = hash_ids([ranked.item for ranked in best[1:-1]]).tobytes()
    counterfactual = Counterfactual(pipeline, PipelinePolicy(Greedy()))
    counterfactual.add_impressions(
        [
            Impression(
                request_id="r",
                user="u1",
                items=shown,
                propensities=(0.1, 0.2),
                unshown=unshown,
                timestamp=time.time(),
            )
        ]
    )
    decisions = decided(counterfactual)
    assert decisions.target.tolist() == [0.0, 1.0]
    assert decisions.on_policy == pytest.approx([best[0].score, best[1].score])
    assert decisions.expected == pytest.approx([best[0].score, best[0].score])


def test_the_first_positions_alone(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline()
    impressions = answers(pipeline)
    counterfactual = Counterfactual(pipeline, PipelinePolicy(pipeline.policy), positions=1)
    counterfactual.add_impressions(impressions)
    counterfactual.add_outcomes([clicked(impressions[0].user, impressions[0].items[3], impressions[0])], np.ones(1, np.float32))
    _, decisions = counterfactual.decisions() or pytest.fail("no decisions")
    assert decisions.start.tolist() == list(range(len(impressions)))
    assert decisions.reward.sum() == 0


def test_outcomes_find_their_position_and_the_highest_reward_counts(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline()
    one, other = answers(pipeline)[:2]
    counterfactual = Counterfactual(pipeline, PipelinePolicy(pipeline.policy))
    counterfactual.add_impressions([one, other])
    rows = [
        clicked(one.user, one.items[1], one),
        clicked(one.user, one.items[1], one, "buy"),
        clicked(one.user, one.items[1], one),
        clicked(one.user, one.items[2], one, ""),
        clicked(one.user, one.items[2], one, "dislike"),
        clicked(other.user, other.items[0], other, ""),
        clicked(one.user, "i0"),
    ]
    counterfactual.add_outcomes(rows, np.array([1.0, 5.0, 1.0, 0.0, -1.0, 0.0, 1.0], np.float32))
    _, decisions = counterfactual.decisions() or pytest.fail("no decisions")
    assert decisions.reward.tolist() == [0, 5, -1, 0, 0, 0, 0, 0]


def test_what_cannot_be_evaluated_is_counted(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline()
    good = answers(pipeline)[0]

    def impression(request: str, *propensities: float, timestamp: float = 50.0) -> Impression:
        return Impression(
            request_id=request,
            user="u0",
            items=("i0", "i1"),
            propensities=propensities,
            unshown=good.unshown,
            timestamp=timestamp,
        )

    counterfactual = Counterfactual(pipeline, PipelinePolicy(pipeline.policy), window=20.0)
    counterfactual.add_impressions(
        [impression("a"), impression("b", 0.5), impression("c", 0.5, 0.0), impression("d", 0.5, 1.5)]
    )
    counterfactual.add_impressions(
        [impression("e", 0.5, 0.5), impression("e", 0.5, 0.5), impression("f", 0.5, 0.5, timestamp=99.0)]
    )
    ids, decisions = counterfactual.decisions() or pytest.fail("no decisions")
    assert ids == ["e"]
    assert decisions.reward.size == 2
    assert dict(counterfactual.left_out) == {"no_propensities": 4, "duplicates": 1, "young": 1}
    assert Counterfactual(pipeline, PipelinePolicy(pipeline.policy)).decisions() is None


def test_a_click_in_an_open_window_is_excluded_like_a_missing_one(make_pipeline: Callable[..., Pipeline]) -> None:
    """A click is known before the window ends, a missing click only after it. Clicks alone would bias the estimate."""
    pipeline = make_pipeline()
    shown = [
        Impression(request_id=f"r{n}", user="u0", items=("i0",), propensities=(1.0,), timestamp=100.0 + n) for n in range(10)
    ]
    counterfactual = Counterfactual(pipeline, PipelinePolicy(pipeline.policy), window=5.0)
    counterfactual.add_impressions(shown)
    counterfactual.add_outcomes([clicked("u0", "i0", shown[9])], np.ones(1, np.float32))
    ids, decisions = counterfactual.decisions() or pytest.fail("no decisions")
    assert ids == ["r0", "r1", "r2", "r3", "r4"]
    assert decisions.reward.tolist() == [0.0] * 5


class Sure(Retriever):
    """Has a standard error for each item: the number in its name."""

    knows_uncertainty = True

    def retrieve(self, requests: Any, k: int, exclude: Exclusion) -> Any:
        raise AssertionError("the candidates are those of the log")

    def score(self, batch: Batch) -> Floats:
        raise AssertionError("scores of retrievers are of no use here")

    def uncertainty(self, batch: Batch) -> Floats:
        number = {hash_id(item): float(n) for n, item in enumerate(ITEMS)}
        return np.array([number[key] for key in batch.item.tolist()], np.float32)


class Upside(Reranker):
    """Reverses the order."""

    def rerank(self, batch: Batch) -> Floats:
        return -batch.score


def test_uncertainty_comes_from_the_retriever_that_has_it(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline(retrievers={"popularity": {}})
    impressions = [
        Impression(request_id="r", user="u1", items=("i9",), propensities=(0.5,), unshown=hash_ids(ITEMS[:9]).tobytes())
    ]
    popularity = pipeline.retrievers.named["popularity"]
    pipeline.retrievers = Stages({"popularity": popularity})
    with pytest.raises(ValueError, match="needs the standard error"):
        Counterfactual(pipeline, PipelinePolicy(Ucb(100.0))).add_impressions(impressions)
    pipeline.retrievers = Stages({"popularity": popularity, "sure": Sure()})
    counterfactual = Counterfactual(pipeline, PipelinePolicy(Ucb(100.0)))
    counterfactual.add_impressions(impressions)
    _, decisions = counterfactual.decisions() or pytest.fail("no decisions")
    assert decisions.target.tolist() == [1.0]


def test_rewards_are_predicted_by_the_ranker_whatever_rerankers_do(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline()
    impression = answers(pipeline, n=10)[0]
    plain = Counterfactual(pipeline, PipelinePolicy(Greedy()))
    plain.add_impressions([impression])
    turned = Counterfactual(pipeline, PipelinePolicy(Greedy()))
    pipeline.rerankers = Stages({"upside": Upside()})
    turned.add_impressions([impression])
    before, after = decided(plain), decided(turned)
    assert after.predicted == pytest.approx(before.predicted)
    assert before.target[0] == 1.0 and after.target[0] == 0.0


def shown_at(position: float, item: str) -> Decision:
    impression = Impression(request_id="r", user="-", items=(item,), propensities=(0.1,), context={"position": position})
    return Decision(impression=impression, others=(), kind="click", rewards=(0.0,))


def test_another_logs_shares_are_a_policy(make_pipeline: Callable[..., Pipeline]) -> None:
    shares = EmpiricalPolicy(
        [shown_at(1.0, "i0"), shown_at(1.0, "i0"), shown_at(1.0, "i1"), shown_at(1.0, "i3"), shown_at(2.0, "i2")]
    )
    pipeline = make_pipeline()
    shown = [
        Impression(
            request_id=f"{position}{item}",
            user="-",
            items=(item,),
            propensities=(0.1,),
            context={"position": position},
            unshown=hash_ids([other for other in ITEMS if other != item]).tobytes(),
        )
        for position, item in ((1.0, "i0"), (1.0, "i3"), (1.0, "i2"), (2.0, "i2"))
    ]
    counterfactual = Counterfactual(pipeline, shares)
    counterfactual.add_impressions(shown)
    _, decisions = counterfactual.decisions() or pytest.fail("no decisions")
    assert decisions.target.tolist() == [0.5, 0.25, 0.0, 1.0]
    with pytest.raises(UndefinedDistribution, match=r"position: at 3.0"):
        counterfactual.add_impressions(
            [Impression(request_id="x", user="-", items=("i0",), propensities=(0.1,), context={"position": 3.0})]
        )
    with pytest.raises(UndefinedDistribution, match="one campaign"):
        counterfactual.add_impressions(
            [Impression(request_id="y", user="-", items=("i0",), propensities=(0.1,), context={"position": 1.0})]
        )
