"""Retrieval scores are computed once and kept, and the uncertainty of retrievers reaches the policy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from learners.base import Candidates, Exclusion, Policy, Ranker, Retriever, WeightDelta
from learners.features import hash_id, hash_ids
from learners.policies.greedy import Greedy
from learners.policies.ucb import Ucb
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.process.runtime import build_pipeline
from service.ranking.feature_rows import DenseColumns
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankingResponse, RankRequest, RecommendRequest
from service.tables.rows import Negatives
from streams.batch import Batch, Floats, Requests
from streams.events import ItemUpdate
from streams.joined import Outcome

ITEMS = [f"i{n}" for n in range(6)]
NUMBER = {hash_id(item): n for n, item in enumerate(ITEMS)}

MakeConfig = Callable[..., Config]


class Given(Retriever):
    """Retrieves the same items for every user. The score of item i<n> is n + `offset`."""

    def __init__(self, *found: str, offset: float = 0.0) -> None:
        self.found, self.offset, self.asked = hash_ids(found), offset, 0

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        item = np.tile(self.found, requests.user.size)
        request = np.repeat(np.arange(requests.user.size), self.found.size)
        return Candidates(item, request, np.zeros(item.size, np.float32))

    def score(self, batch: Batch) -> Floats:
        self.asked += 1
        return np.array([NUMBER[item] + self.offset for item in batch.item.tolist()], np.float32)


class Sure(Given):
    """Has standard errors for some items, retrieved or not, and 0 for the others."""

    knows_uncertainty = True

    def __init__(self, *found: str, **errors: float) -> None:
        super().__init__(*found)
        self.errors = {hash_id(item): error for item, error in errors.items()}
        self.queried: list[str] = []

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        candidates = super().retrieve(requests, k, exclude)
        candidates.uncertainty = self._errors(candidates.item.tolist())
        return candidates

    def uncertainty(self, batch: Batch) -> Floats:
        self.queried += [ITEMS[NUMBER[item]] for item in batch.item.tolist()]
        return self._errors(batch.item.tolist())

    def _errors(self, items: list[int]) -> Floats:
        return np.array([self.errors.get(item, 0.0) for item in items], np.float32)


class Broken(Given):
    """Retrieves items, but fails to score them."""

    def score(self, batch: Batch) -> Floats:
        raise RuntimeError("planted")


class Endless(Given):
    """Has one infinite score."""

    def score(self, batch: Batch) -> Floats:
        return np.where(batch.item == hash_id("i1"), np.inf, np.zeros(batch.rows)).astype(np.float32)


class Flat(Ranker):
    """Scores everything 0.5."""

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        assert batch.retrieval is None or batch.retrieval.shape[0] == batch.rows
        batch.score[:] = 0.5


def pipeline_of(config: Config, policy: Policy | None = None, **retrievers: Retriever) -> Pipeline:
    built = build_pipeline(config)
    pipeline = Pipeline(
        featurizer=built.featurizer,
        users=built.users,
        items=built.items,
        history=built.history,
        seen=built.seen,
        seen_kinds=None,
        dense=DenseColumns(None, []),
        negatives=Negatives(),
        retrievers=retrievers,
        ranker=("flat", Flat()),
        adapters={},
        rerankers={},
        policy=("policy", policy or Greedy()),
        recent=5,
    )
    for item in ITEMS:
        pipeline.apply(ItemUpdate(item=item))
    return pipeline


def answer(pipeline: Pipeline, request: RankRequest | RecommendRequest) -> RankingResponse:
    response, _ = pipeline.rank([request])[0]
    return response


def uncertainties(response: RankingResponse) -> dict[str, float | None]:
    return {ranked.item: ranked.uncertainty for ranked in response.items}


def feedback_on(pipeline: Pipeline, config: Config, *items: str) -> Batch:
    rows = [Outcome(user="u", item=item, kind="click", value=1.0, timestamp=100.0) for item in items]
    return FeedbackBuilder(pipeline, config.reward).from_rows(rows)


def test_retrievers_score_a_batch_once_for_order_and_reasons(make_config: MakeConfig) -> None:
    up, down = Given(*ITEMS), Given(*ITEMS, offset=10.0)
    pipeline = pipeline_of(make_config(), up=up, down=down)
    responses = pipeline.rank(
        [
            RecommendRequest(user="u", n=6, explain=True),
            RankRequest(user="v", items=["i1", "i3"], by="up", explain=True),
            RankRequest(user="w", items=["i2", "i0"], by="down"),
        ]
    )
    assert (up.asked, down.asked) == (1, 1)
    (every, _), (by_up, _), (by_down, _) = responses
    reasons = {ranked.item: ranked.reasons.retrievers for ranked in every.items if ranked.reasons}
    assert reasons == {item: {"up": n, "down": n + 10.0} for n, item in enumerate(ITEMS)}
    assert [(ranked.item, ranked.score) for ranked in by_up.items] == [("i3", 3.0), ("i1", 1.0)]
    assert [ranked.reasons.retrievers for ranked in by_up.items if ranked.reasons] == [
        {"up": 3.0, "down": 13.0},
        {"up": 1.0, "down": 11.0},
    ]
    assert [(ranked.item, ranked.score) for ranked in by_down.items] == [("i2", 12.0), ("i0", 10.0)]


def test_no_retriever_scores_rows_when_no_request_needs_it(make_config: MakeConfig) -> None:
    retriever = Given(*ITEMS)
    pipeline = pipeline_of(make_config(), only=retriever)
    assert len(answer(pipeline, RecommendRequest(user="u", n=3)).items) == 3
    assert retriever.asked == 0


def test_scores_are_kept_as_columns_in_config_order(make_config: MakeConfig) -> None:
    config = make_config()
    up, down = Given(), Given(offset=10.0)
    pipeline = pipeline_of(config, up=up, down=down)
    batch = feedback_on(pipeline, config, "i2", "i0", "i5")
    predictions = pipeline.predict(batch)
    assert batch.retrieval is not None and batch.retrieval.dtype == np.float32
    assert batch.retrieval.tolist() == [[2, 12], [0, 10], [5, 15]]
    assert {name: score.tolist() for name, score in predictions.items()} == {
        "up": [2, 0, 5],
        "down": [12, 10, 15],
        "flat": [0.5] * 3,
    }
    assert all(score.flags.c_contiguous for score in predictions.values())
    assert pipeline.rows.retrieval(batch, []) is batch.retrieval
    assert (up.asked, down.asked) == (1, 1)
    part = batch.take(np.array([2, 0]))
    assert part.retrieval is not None and part.retrieval.tolist() == [[5, 15], [2, 12]]


def test_only_the_requested_rows_are_scored(make_config: MakeConfig) -> None:
    config = make_config()
    pipeline = pipeline_of(config, up=Given())
    batch = feedback_on(pipeline, config, "i2", "i0", "i5")
    assert pipeline.predict(batch, np.array([0, 2]))["up"].tolist() == [2, 5]
    assert batch.retrieval is None


@pytest.mark.parametrize("failing", [Broken, Endless])
def test_a_retriever_that_fails_has_nan_in_its_column_and_is_counted(failing: type[Given], make_config: MakeConfig) -> None:
    config = make_config()
    pipeline = pipeline_of(config, bad=failing(*ITEMS), good=Given(*ITEMS))
    batch = feedback_on(pipeline, config, "i2", "i1")
    predictions = pipeline.predict(batch)
    assert batch.retrieval is not None
    assert np.isnan(batch.retrieval[:, 0]).all() and batch.retrieval[:, 1].tolist() == [2, 1]
    assert sorted(predictions) == ["flat", "good"]
    assert pipeline.skipped == {"bad": 1}
    explained = answer(pipeline, RankRequest(user="u", items=["i1", "i4"], explain=True))
    assert {ranked.item: ranked.reasons and ranked.reasons.retrievers for ranked in explained.items} == {
        "i1": {"good": 1.0},
        "i4": {"good": 4.0},
    }
    assert explained.skipped == ["bad"]
    assert answer(pipeline, RankRequest(user="u", items=["i1", "i4"], by="good")).skipped == ["bad"]
    with pytest.raises(FloatingPointError, match=r"^bad: "):
        pipeline.rank([RankRequest(user="u", items=["i1"], by="bad")])


def test_uncertainty_survives_retrievers_that_overlap(make_config: MakeConfig) -> None:
    """The largest uncertainty of the retrievers that found an item counts. Missing ones are computed, else 0."""
    one, other = Sure("i0", "i1", "i2", i0=0.1, i1=0.5, i4=0.3), Sure("i1", "i2", i1=0.3, i2=0.2, i4=0.4)
    pipeline = pipeline_of(make_config(), Ucb(1.0), one=one, plain=Given("i3", "i2", "i4"), other=other)
    response = answer(pipeline, RecommendRequest(user="u", n=5, candidates=5))
    assert uncertainties(response) == pytest.approx({"i1": 0.5, "i4": 0.4, "i2": 0.2, "i0": 0.1, "i3": 0.0})
    assert [ranked.item for ranked in response.items] == ["i1", "i4", "i2", "i0", "i3"]
    assert [ranked.propensity for ranked in response.items] == [1.0] * 5
    assert [ranked.score for ranked in response.items] == [0.5] * 5, "the bound is the policy's, not the score"
    assert one.queried == other.queried == ["i3", "i4"], "the other items already have one"


def test_the_bound_of_an_overlapping_item_decides_ties_and_propensities(make_config: MakeConfig) -> None:
    one, other = Sure("i0", "i1", i0=0.25, i1=0.125), Sure("i1", i1=0.25)
    pipeline = pipeline_of(make_config(), Ucb(1.0), one=one, other=other)
    response = answer(pipeline, RecommendRequest(user="u", n=2, candidates=2))
    assert [ranked.propensity for ranked in response.items] == [0.5, 1.0]
    response = answer(pipeline, RecommendRequest(user="u", n=2, candidates=2, by="one"))
    assert uncertainties(response) == {"i0": 0.25, "i1": 0.125}, "the other retriever is not called"
    assert [ranked.item for ranked in response.items] == ["i1", "i0"], "1 + 0.125 above 0 + 0.25"


def test_items_from_the_catalogue_get_no_uncertainty_and_change_no_other(make_config: MakeConfig) -> None:
    pipeline = pipeline_of(make_config(), Ucb(1.0), sure=Sure("i0", i0=0.1))
    response = answer(pipeline, RecommendRequest(user="u", n=3, candidates=3))
    known = uncertainties(response)
    assert response.items[0].item == "i0" and known.pop("i0") == pytest.approx(0.1)
    assert list(known.values()) == [0.0, 0.0]
    assert [ranked.propensity for ranked in response.items] == [1.0, 0.5, 1.0]


def test_without_need_no_uncertainty_is_computed_but_known_values_are_returned(make_config: MakeConfig) -> None:
    sure = Sure("i0", i0=0.25, i1=0.5)
    pipeline = pipeline_of(make_config(), sure=sure, plain=Given("i1"))
    assert uncertainties(answer(pipeline, RecommendRequest(user="u", n=2, candidates=2))) == {"i0": 0.25, "i1": None}
    assert uncertainties(answer(pipeline, RankRequest(user="u", items=["i0", "i1"]))) == {"i0": None, "i1": None}
    assert sure.queried == []
    by_sure = answer(pipeline, RankRequest(user="u", items=["i0", "i1"], by="sure"))
    assert uncertainties(by_sure) == {"i1": 0.5, "i0": 0.25}


def test_each_request_of_a_batch_has_its_own_uncertainty(make_config: MakeConfig) -> None:
    pipeline = pipeline_of(make_config(), Ucb(1.0), sure=Sure("i0", i0=0.25, i1=0.5), plain=Given("i1"))
    (given, _), (found, _), (plain, _) = pipeline.rank(
        [
            RankRequest(user="u", items=["i1", "i5"]),
            RecommendRequest(user="u", n=2, candidates=2),
            RankRequest(user="u", items=["i1", "i0"], by="plain"),
        ]
    )
    assert uncertainties(given) == {"i1": 0.5, "i5": 0.0}
    assert uncertainties(found) == {"i1": 0.5, "i0": 0.25}
    assert uncertainties(plain) == {"i1": 0.0, "i0": 0.0}, "a baseline keeps its own order"


def test_a_retriever_that_declares_uncertainty_has_to_implement_it(make_config: MakeConfig) -> None:
    class Silent(Given):
        knows_uncertainty = True

    pipeline = pipeline_of(make_config(), Ucb(1.0), silent=Silent())
    with pytest.raises(NotImplementedError, match=r"Silent\.uncertainty"):
        pipeline.rank([RankRequest(user="u", items=["i1"])])
