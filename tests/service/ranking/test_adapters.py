"""Adapters in the pipeline, over a ranker with known scores: 0.6 without adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from learners.base import Adapter, WeightDelta
from learners.contract.worlds import feedback_of
from learners.features import hash_ids
from service.config import Config, ConfigError
from service.process.runtime import build_pipeline
from service.process.warmup import warm_up
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankRequest
from streams.batch import Batch

UNIFORM, PER_USER = "tests.adaptable", "tests.per_user"


@pytest.fixture
def make(make_config: Callable[..., Config]) -> Callable[..., Pipeline]:
    """Make a pipeline whose adapters know the user ann and have observed one row."""

    def made(**adapters: dict[str, Any]) -> Pipeline:
        named = {f"tests.{name}": keywords for name, keywords in adapters.items()}
        pipeline = build_pipeline(make_config(ranker={"tests.adaptable": {}}, adapters=named, rerankers={}, retrievers={}))
        seen = feedback_of(user=hash_ids(["ann"]), item=[1], reward=[1.0])
        for _, adapter in pipeline.adapters:
            adapter.observe(seen)
            adapter.learn(seen)
        return pipeline

    return made


def scores(pipeline: Pipeline, *users: str) -> tuple[list[float], list[list[str]]]:
    """Score of an item for each user, all in one batch, and what was skipped."""
    answers = pipeline.rank([RankRequest(user=user, items=["i1"]) for user in users])
    return [response.items[0].score for response, _ in answers], [response.skipped for response, _ in answers]


def test_nothing_is_adapted_without_adapters(make: Callable[..., Pipeline]) -> None:
    assert scores(make(), "ann", "bob") == ([pytest.approx(0.6)] * 2, [[], []])


def test_a_low_rank_change_affects_only_its_own_requests(make: Callable[..., Pipeline]) -> None:
    found, skipped = scores(make(per_user={"by": 0.1}), "bob", "ann", "eve", "ann")
    assert found == pytest.approx([0.6, 1.2, 0.6, 1.2])
    assert skipped == [[]] * 4


def test_a_dense_change_affects_all_requests(make: Callable[..., Pipeline]) -> None:
    assert scores(make(adaptable={"by": 1.0}), "ann", "bob")[0] == pytest.approx([1.2, 1.2])
    dense = make(adaptable={"parameter": "weight", "by": 0.2})
    assert scores(dense, "ann", "bob")[0] == pytest.approx([1.8, 1.8])


def test_changes_of_two_adapters_are_merged(make: Callable[..., Pipeline]) -> None:
    both = make(per_user={"by": 0.1}, adaptable={"by": 1.0})
    assert scores(both, "ann", "bob")[0] == pytest.approx([2.4, 1.2])


@pytest.mark.parametrize("by", [np.nan, np.inf])
def test_a_change_that_is_not_finite_is_skipped_and_counted(make: Callable[..., Pipeline], by: float) -> None:
    dense = make(adaptable={"by": by}, per_user={"by": 0.1})
    assert scores(dense, "ann", "bob") == ([pytest.approx(1.2), pytest.approx(0.6)], [[UNIFORM]] * 2)
    low_rank = make(adaptable={"by": 1.0}, per_user={"by": by})
    assert scores(low_rank, "ann", "bob") == ([pytest.approx(1.2)] * 2, [[PER_USER]] * 2)
    assert dense.skipped == {UNIFORM: 1}
    assert low_rank.skipped == {PER_USER: 1}


def raises(self: Adapter, batch: Batch) -> WeightDelta:
    raise RuntimeError("planted")


def names_another(self: Adapter, batch: Batch) -> WeightDelta:
    return {"weight": np.zeros((3, 2), np.float32)}


def has_another_shape(self: Adapter, batch: Batch) -> WeightDelta:
    return {"scale": np.zeros((batch.user.size, 3), np.float32)}


@pytest.mark.parametrize("adapt", [raises, names_another, has_another_shape])
def test_an_adapter_that_fails_is_skipped_and_counted(
    make: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch, adapt: Callable[[Adapter, Batch], WeightDelta]
) -> None:
    pipeline = make(adaptable={}, per_user={"by": 0.1})
    monkeypatch.setattr(type(pipeline.adapters.named[UNIFORM]), "adapt", adapt)
    assert scores(pipeline, "ann", "bob") == ([pytest.approx(1.2), pytest.approx(0.6)], [[UNIFORM]] * 2)
    assert pipeline.skipped == {UNIFORM: 1}


def test_changes_that_the_ranker_cannot_score_with_are_skipped(make: Callable[..., Pipeline]) -> None:
    pipeline = make(adaptable={"by": 3e38}, per_user={"by": 3e38})
    with np.errstate(over="ignore"):
        assert scores(pipeline, "ann", "bob") == ([pytest.approx(0.6)] * 2, [[UNIFORM, PER_USER]] * 2)
    assert pipeline.skipped == {UNIFORM: 1, PER_USER: 1}


def test_a_failure_of_the_ranker_itself_is_not_counted_for_its_adapters(make: Callable[..., Pipeline]) -> None:
    pipeline = make(per_user={})
    pipeline.ranker.parameters["scale"][:] = np.nan
    with pytest.raises(FloatingPointError, match=r"tests\.adaptable: a score is not finite"):
        scores(pipeline, "ann")
    assert not pipeline.skipped


def test_predictions_before_learning_use_the_changes(make: Callable[..., Pipeline]) -> None:
    pipeline = make(per_user={"by": 0.1})
    feedback = feedback_of(user=hash_ids(["ann", "bob"]), item=[1, 1], reward=[1.0, 0.0])
    assert pipeline.predict(feedback)["tests.adaptable"] == pytest.approx([1.2, 0.6])


def test_the_saved_state_holds_the_ranker_once(make: Callable[..., Pipeline]) -> None:
    stores = [name for name, _ in make(per_user={}).stores()]
    assert [name for name in stores if name.endswith("parameters")] == ["ranker.parameters"]


@pytest.mark.parametrize(
    ("ranker", "adapters", "parts"),
    [
        ("fm", {PER_USER: {}}, [f"[adapters.{PER_USER}]", "fm has no parameters", "choose another"]),
        (
            UNIFORM,
            {PER_USER: {}, UNIFORM: {"parameter": "weight"}},
            [f"[adapters.{UNIFORM}]", "changes 'weight'", f"so does [adapters.{PER_USER}]", "leave one of them out"],
        ),
        (UNIFORM, {UNIFORM: {"parameter": "bias"}}, [f"[adapters.{UNIFORM}]", "changes 'bias'", "weight, scale"]),
        (UNIFORM, {PER_USER: {"ranker": "fm"}}, [f"[adapters.{PER_USER}]", "ranker = 'fm'", "leave it out"]),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    make_config: Callable[..., Config], ranker: str, adapters: dict[str, Any], parts: list[str]
) -> None:
    config = make_config(ranker={ranker: {}}, adapters=adapters, rerankers={})
    with pytest.raises(ConfigError) as refused:
        build_pipeline(config)
    for part in parts:
        assert part in str(refused.value)


def test_a_rehearsal_goes_through_adapters(make_config: Callable[..., Config]) -> None:
    config = make_config(
        ranker={UNIFORM: {}}, adapters={PER_USER: {}, UNIFORM: {}}, rerankers={}, retrievers={"popularity": {}}
    )
    assert warm_up(config) == []
    assert config.fingerprint != make_config(ranker={UNIFORM: {}}, rerankers={}, retrievers={"popularity": {}}).fingerprint
