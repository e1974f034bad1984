"""The pipeline, in worlds small enough to know the answer."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from learners.base import Reranker
from learners.features import hash_id
from memory.stateful import digest
from service.config import Config, ConfigError
from service.learning.feedback import FeedbackBuilder
from service.process.runtime import build_pipeline
from service.ranking.pipeline import Pipeline, Refused
from service.ranking.requests import RankingResponse, RankRequest, RecommendRequest
from service.ranking.signing import Signer
from service.ranking.stages import Stages
from streams.batch import Batch, Floats
from streams.codec import decode
from streams.events import Forget, Impression, ItemUpdate, UserUpdate
from streams.joined import Outcome, TrackedImpression
from tests.worlds import two_tribes

RED, BLUE = [f"i{n}" for n in range(5)], [f"i{n}" for n in range(5, 10)]


def clicked(user: str, item: str, value: float = 1.0) -> Outcome:
    return Outcome(user=user, item=item, kind="click", value=value, timestamp=100.0)


def acted_on_all(impression: Impression) -> list[Outcome]:
    shown = TrackedImpression(impression=impression, timestamp=impression.timestamp)
    return [
        Outcome(user=impression.user, item=item, kind="click", value=1.0, timestamp=0.0, shown=shown, position=position)
        for position, item in enumerate(impression.items)
    ]


def learn(pipeline: Pipeline, config: Config, *rows: Outcome) -> None:
    feedback = FeedbackBuilder(pipeline, config.reward).from_rows(rows)
    pipeline.predict(feedback)
    pipeline.learn(feedback)


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config()


@pytest.fixture
def pipeline(config: Config) -> Pipeline:
    """Knows the ten items of the two tribes; red items have been clicked by red users, i0 most of all."""
    built = build_pipeline(config)
    for event in two_tribes(0, 0):
        built.apply(event)
    learn(built, config, *(clicked(f"u{n}", f"i{item}") for item in range(5) for n in range(5 - item)))
    return built


def answer(pipeline: Pipeline, request: RankRequest | RecommendRequest) -> tuple[RankingResponse, Impression | None]:
    return pipeline.rank([request])[0]


def items(response: RankingResponse) -> list[str]:
    return [ranked.item for ranked in response.items]


def test_ranking_orders_the_given_items_by_score(pipeline: Pipeline) -> None:
    response, impression = answer(pipeline, RankRequest(user="u1", items=["i9", "i0", "i4", "i0"]))
    assert sorted(items(response)) == ["i0", "i4", "i9"], "each candidate once"
    scores = [ranked.score for ranked in response.items]
    assert scores == sorted(scores, reverse=True)
    assert items(response)[-1] == "i9", "never clicked"
    assert impression is not None
    assert impression.items == tuple(items(response))
    assert impression.request_id == response.request_id


def test_recommending_leaves_out_what_was_seen_excluded_or_deleted(pipeline: Pipeline) -> None:
    assert items(answer(pipeline, RecommendRequest(user="stranger", n=3, by="popularity"))[0]) == ["i0", "i1", "i2"]
    assert items(answer(pipeline, RecommendRequest(user="stranger", n=3, by="popularity", exclude=["i1"]))[0])[1] == "i2"
    assert set(items(answer(pipeline, RecommendRequest(user="u0", n=3))[0])) < set(BLUE), "u0 has clicked every red item"
    assert len(items(answer(pipeline, RecommendRequest(user="u0", n=3, repeat=True))[0])) == 3
    pipeline.apply(ItemUpdate(item="i0", deleted=True))
    assert "i0" not in items(answer(pipeline, RecommendRequest(user="stranger", n=10))[0])
    assert items(answer(pipeline, RankRequest(user="u1", items=["i0", "i1"]))[0]) == ["i1"]


@pytest.mark.parametrize(
    ("request_", "count", "why"),
    [
        (RecommendRequest(user="stranger", n=10), 10, None),
        (
            RecommendRequest(user="stranger", n=300),
            10,
            "n = 300, and 10 items are left: 10 in the catalogue may be recommended",
        ),
        (
            RecommendRequest(user="u0", n=10, exclude=["i9", "i9", "i0", "unknown"]),
            4,
            "n = 10, and 4 items are left: 10 in the catalogue may be recommended, 2 of them are in exclude, 4 the user has "
            "interacted with (repeat = true returns them, too)",
        ),
        (RecommendRequest(user="u0", n=10, repeat=True), 10, None),
        (RankRequest(user="u0", items=["i1", "new"]), 2, None),
        (RankRequest(user="u0", items=["i1", "i2"], n=1), 1, None),
        (
            RankRequest(user="u0", items=["i1", "gone", "i1", "i2"]),
            2,
            "2 items are ranked of 4 given, 1 are deleted (see skipped), 1 are repetitions",
        ),
        (RankRequest(user="u0", items=["i1", "gone", "i1", "i2"], n=2), 2, None),
        (RankRequest(user="u0", items=["i1", "i2"], n=9), 2, "n = 9, and 2 items are ranked of 2 given"),
    ],
)
def test_fewer_items_than_asked_for_are_explained(
    pipeline: Pipeline, request_: RankRequest | RecommendRequest, count: int, why: str | None
) -> None:
    pipeline.apply(ItemUpdate(item="gone"))
    pipeline.apply(ItemUpdate(item="gone", deleted=True))
    for response, _ in pipeline.rank([request_, RecommendRequest(user="u7", n=1), request_])[::2]:
        assert (len(response.items), response.short or None) == (count, why)
        assert (b"short" in msgspec.json.encode(response)) == (why is not None)


def test_requests_in_one_batch_get_what_they_get_alone(pipeline: Pipeline) -> None:
    requests = [
        RankRequest(user="u1", items=["i3", "i7"], request_id="a"),
        RecommendRequest(user="u2", n=4, request_id="b", exclude=["i1"]),
        RecommendRequest(user="u7", n=2, request_id="c", by="popularity", candidates=3),
        RankRequest(user="u8", items=["i1"], request_id="d", context={"device": "tv"}),
    ]
    together = [response for response, _ in pipeline.rank(requests)]
    assert together == [answer(pipeline, request)[0] for request in requests]


def test_a_request_changes_nothing(pipeline: Pipeline) -> None:
    before = {name: array.copy() for name, array in pipeline.state_dict().items()}
    answer(pipeline, RecommendRequest(user="new", n=5, explain=True))
    answer(pipeline, RankRequest(user="new", items=["unheard", "i1"], explain=True))
    after = pipeline.state_dict()
    assert all((after[name] == array).all() for name, array in before.items())


def test_an_impression_carries_the_rows_it_was_scored_on(pipeline: Pipeline, config: Config) -> None:
    _, impression = answer(pipeline, RankRequest(user="u1", items=["i3", "i7"], context={"device": "tv"}))
    assert impression is not None
    logged = pipeline.rows.unpack(impression.features, 2)
    assert logged is not None
    pipeline.apply(ItemUpdate(item="i3", attributes={"colour": "green"}))
    signer = Signer.for_writer(None)
    builder = FeedbackBuilder(pipeline, config.reward, signer.verify)
    feedback = builder.from_rows(acted_on_all(decode(signer.encoded(impression))))
    assert (feedback.features == logged[0]).all(), "trained on the logged features, not on the current ones"
    assert feedback.propensity.tolist() == pytest.approx(list(impression.propensities))
    assert builder.recomputed == 0


def test_rows_logged_under_another_config_are_recomputed_and_counted(pipeline: Pipeline, config: Config) -> None:
    _, impression = answer(pipeline, RankRequest(user="u1", items=["i3"]))
    assert impression is not None
    other = impression.features[:3] + b"!" + impression.features[4:]
    signer = Signer.for_writer(None)
    builder = FeedbackBuilder(pipeline, config.reward, signer.verify)
    logged_elsewhere = decode(signer.encoded(Impression(request_id="x", user="u1", items=("i3",), features=other)))
    feedback = builder.from_rows(acted_on_all(logged_elsewhere))
    assert builder.recomputed == 1
    assert (feedback.features[0] == pipeline.rows.unpack(impression.features, 1)[0]).all()  # type: ignore[index]


def test_reasons_name_what_made_the_score(pipeline: Pipeline) -> None:
    response, _ = answer(pipeline, RankRequest(user="u1", items=["i0", "i9"], explain=True))
    first = response.items[0].reasons
    assert first is not None
    assert {"user.id", "item.id", "user.tribe", "item.colour", "user.tribe * item.colour"} <= set(first.contributions)
    assert first.retrievers["popularity"] > response.items[1].reasons.retrievers["popularity"]  # type: ignore[union-attr]


def test_reasons_name_the_neighbours_that_moved_the_score(make_config: Callable[..., Config]) -> None:
    config = make_config(rerankers={"reloop2": {"weight": 0.5, "neighbours": 3, "capacity": 10}})
    pipeline = build_pipeline(config)
    learn(pipeline, config, clicked("u1", "i0"), clicked("u2", "i1", value=0.0), clicked("u3", "i2", value=0.5))
    response, _ = answer(pipeline, RankRequest(user="u1", items=["i0", "i9"], explain=True))
    for ranked in response.items:
        reasons = ranked.reasons
        assert reasons is not None
        assert {one.item: one.label for one in reasons.neighbours} == {"i0": 1.0, "i1": 0.0, "i2": 0.5}
        weights = [one.weight for one in reasons.neighbours]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) == pytest.approx(1)
        assert all(one.age > 0 for one in reasons.neighbours), "the rows are old"
        voted = sum(one.weight * one.label for one in reasons.neighbours)
        assert ranked.score == pytest.approx(0.5 * reasons.base + 0.5 * voted, abs=1e-6)


def test_predicting_some_rows_gives_the_same_scores_as_predicting_all(pipeline: Pipeline, config: Config) -> None:
    feedback = FeedbackBuilder(pipeline, config.reward).from_rows(
        [clicked("u1", "i3"), clicked("u8", "i3"), clicked("u1", "i5")]
    )
    everything = {name: score.copy() for name, score in pipeline.predict(feedback).items()}
    some = pipeline.predict(feedback, np.array([0, 2]))
    assert {name: score.tolist() for name, score in some.items()} == {
        name: score[[0, 2]].tolist() for name, score in everything.items()
    }
    assert np.array_equal(feedback.base, everything["fm"]), "all rows are prepared for learning"
    assert feedback.hidden is not None and len(feedback.hidden) == 3
    assert pipeline.predict(feedback, np.empty(0, np.int64)) == {}


def test_what_is_learned_does_not_depend_on_what_was_predicted(config: Config) -> None:
    states = []
    for rows in (None, np.array([1]), np.empty(0, np.int64)):
        pipeline = build_pipeline(config)
        for event in two_tribes(0, 0):
            pipeline.apply(event)
        for n in range(40):
            feedback = FeedbackBuilder(pipeline, config.reward).from_rows(
                [clicked(f"u{n % 7}", f"i{n % 5}"), clicked("u8", "i3")]
            )
            pipeline.predict(feedback, rows)
            pipeline.learn(feedback)
        states.append(digest(pipeline.state_dict()))
    assert len(set(states)) == 1


def test_rerankers_learn_from_the_scores_before_reranking(pipeline: Pipeline, config: Config) -> None:
    """The memory keeps the ranker's own scores from before it learned the batch, not the reranked ones."""
    feedback = FeedbackBuilder(pipeline, config.reward).from_rows([clicked("u1", "i3"), clicked("u8", "i3")])
    predictions = pipeline.predict(feedback)
    assert list(predictions) == ["popularity", "diag_linucb", "fm", "reloop2"]
    assert not np.array_equal(predictions["fm"], predictions["reloop2"])
    assert feedback.base is not None and feedback.hidden is not None
    assert np.array_equal(feedback.base, predictions["fm"])
    assert np.array_equal(feedback.score, predictions["reloop2"])
    before = pipeline.rerankers.named["reloop2"].memory.clock["place"][0]  # type: ignore[attr-defined]
    pipeline.learn(feedback)
    memory = pipeline.rerankers.named["reloop2"].memory  # type: ignore[attr-defined]
    assert np.array_equal(memory.rows["base_score"][before : before + 2], predictions["fm"])
    key = feedback.hidden / np.linalg.norm(feedback.hidden, axis=1)[:, None]
    assert np.allclose(memory.index.rows["vector"][before : before + 2], key, atol=1e-6)


def test_a_reranker_gets_the_width_of_the_ranker_s_hidden_vector_or_is_refused(make_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"^\[rerankers.reloop2\] needs a ranker with a hidden vector; bias has none"):
        build_pipeline(make_config(ranker={"bias": {}}))
    with pytest.raises(ConfigError, match=r"^\[rerankers.reloop2\] width = 3: it is the ranker's"):
        build_pipeline(make_config(rerankers={"reloop2": {"width": 3}}))
    with pytest.raises(ConfigError, match=r"^\[rerankers.reloop3\].*did you mean 'reloop2'"):
        build_pipeline(make_config(rerankers={"reloop3": {}}))


def test_a_ranker_that_uses_a_retriever_gets_it_or_is_refused(make_config: Callable[..., Config]) -> None:
    alone = {"ranker": {"sequential": {}}, "rerankers": {}}
    with pytest.raises(ConfigError, match=r"^\[ranker.sequential\] ranks with .* not configured; add \[retrievers.next_item\]"):
        build_pipeline(make_config(**alone))
    both = alone | {"retrievers": {"next_item": {}}}
    pipeline = build_pipeline(make_config(**both))
    ranker, retriever = pipeline.ranker, pipeline.retrievers.named["next_item"]
    assert ranker.model is retriever.model  # type: ignore[attr-defined]
    assert not any(name.startswith("ranker.model") for name in pipeline.state_dict()), "the model is saved once"
    with pytest.raises(ConfigError, match=r"^\[ranker.sequential\] retriever = 3: it is the one of \[retrievers.next_item\]"):
        build_pipeline(make_config(**both | {"ranker": {"sequential": {"retriever": 3}}}))


def test_a_seed_repeats_a_random_policy(make_config: Callable[..., Config]) -> None:
    pipeline = build_pipeline(make_config(policy={"epsilon_greedy": {"epsilon": 1.0}}))
    names = [f"i{n}" for n in range(50)]
    orders = [tuple(items(answer(pipeline, RankRequest(user="u", items=names, seed=seed))[0])) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_a_baseline_that_is_not_there_is_refused_by_name(pipeline: Pipeline) -> None:
    with pytest.raises(Refused, match=r"by: 'popular'.*popularity"):
        pipeline.rank([RankRequest(user="u", items=["i1"], by="popular")])


def test_forgetting_a_user_removes_history_and_attributes(pipeline: Pipeline) -> None:
    pipeline.apply(UserUpdate(user="u0", attributes={"tribe": "red"}))
    pipeline.apply(Forget(user="u0"))
    assert pipeline.users.get(hash_id("u0")) is None
    assert pipeline.history.seen(np.array([hash_id("u0")]))[0].size == 0
    assert pipeline.seen.of(np.array([hash_id("u0")]))[0].size == 0
    assert len(items(answer(pipeline, RecommendRequest(user="u0", n=5))[0])) == 5


class Boost(Reranker):
    """Moves every score by a constant; may fail."""

    def __init__(self, by: float) -> None:
        self.by = by

    def rerank(self, batch: Batch) -> Floats:
        if self.by == 0:
            raise RuntimeError("planted")
        return batch.score + np.float32(self.by)


def test_rerankers_apply_in_order_and_a_failing_stage_is_skipped_and_counted(pipeline: Pipeline) -> None:
    request = RankRequest(user="u1", items=["i1", "i2"], request_id="x")
    pipeline.rerankers = Stages({})
    plain, _ = answer(pipeline, request)
    pipeline.rerankers = Stages({"up": Boost(1.0), "broken": Boost(0.0), "endless": Boost(np.inf), "more": Boost(0.5)})
    boosted, _ = answer(pipeline, request)
    assert [r.score for r in boosted.items] == pytest.approx([r.score + 1.5 for r in plain.items])
    assert boosted.skipped == ["broken", "endless"]
    assert pipeline.skipped == {"broken": 1, "endless": 1}
