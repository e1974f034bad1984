"""Evidence reaches the rerankers that need it: at serving, and as choices among candidates when something is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest

from learners.base import Candidates, Choices, Exclusion, Reranker, Retriever
from learners.features import hash_id
from learners.schema import EvidenceColumn
from memory.keyed.history import History
from memory.keyed.seen_items import SeenItems
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.process.runtime import build_pipeline
from service.ranking.evidence import evidence_columns
from service.ranking.feature_rows import DenseColumns
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankRequest, RecommendRequest
from service.tables.rows import Negatives
from streams.batch import Batch, Feedback, Floats, Requests
from streams.events import Impression, ItemUpdate
from streams.joined import JoinedBatch, Outcome, TrackedImpression

ITEMS = [f"i{n}" for n in range(8)]
KEYS = {item: hash_id(item) for item in ITEMS}


class Listing(Retriever):
    """Has the same items for everybody, best first, and counts what it learned."""

    def __init__(self, *items: str, fails: bool = False) -> None:
        self.items, self.fails, self.learned = [KEYS[item] for item in items], fails, 0

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        item, request = [], []
        for b in range(requests.user.size):
            out = set(exclude.item[exclude.start[b] : exclude.start[b + 1]].tolist())
            mine = [key for key in self.items if key not in out][:k]
            item += mine
            request += [b] * len(mine)
        return Candidates(np.array(item, np.int64), np.array(request, np.int64), np.zeros(len(item), np.float32))

    def score(self, batch: Batch) -> Floats:
        return np.array([key in self.items for key in batch.item.tolist()], np.float32)

    @property
    def evidence_columns(self) -> tuple[EvidenceColumn, ...]:
        return EvidenceColumn("listed", prior=1.0), EvidenceColumn("learned")

    def evidence(self, batch: Batch) -> Floats:
        if self.fails:
            raise RuntimeError("no evidence")
        return np.stack([self.score(batch), np.full(batch.rows, self.learned, np.float32)], axis=1)

    def learn(self, feedback: Feedback) -> None:
        self.learned += feedback.rows


class Chooser(Reranker):
    """Orders by the first column of evidence, and keeps the choices that it was given."""

    needs_evidence: ClassVar[bool] = True

    def __init__(self) -> None:
        self.choices: list[Choices] = []

    def choose(self, choices: Choices) -> None:
        self.choices.append(choices)

    def rerank(self, batch: Batch) -> Floats:
        assert batch.evidence is not None
        return np.nan_to_num(batch.evidence[:, 0], nan=-1.0)


@pytest.fixture
def chooser() -> Chooser:
    return Chooser()


def pipeline_of(config: Config, chooser: Chooser, **retrievers: Retriever) -> Pipeline:
    built = build_pipeline(config)
    pipeline = Pipeline(
        featurizer=built.featurizer,
        users=built.users,
        items=built.items,
        history=History(20, 5),
        seen=SeenItems(20, 80, 8),
        seen_kinds=None,
        dense=DenseColumns(None, []),
        negatives=Negatives(),
        retrievers=retrievers,
        ranker=(built.ranker_name, built.ranker),
        adapters={},
        rerankers={"chooser": chooser},
        policy=(built.policy_name, built.policy),
        recent=5,
    )
    for item in ITEMS:
        pipeline.apply(ItemUpdate(item=item))
    return pipeline


def click(user: str, item: str, value: float = 1.0, *, correction: bool = False) -> Outcome:
    return Outcome(user=user, item=item, kind="click", value=value, timestamp=1e9, correction=correction)


def fold(pipeline: Pipeline, config: Config, *rows: Outcome) -> None:
    Fold(pipeline, FeedbackBuilder(pipeline, config.reward)).joined(JoinedBatch([], list(rows), []))


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(reward={"click": 1.0})


def test_a_ranking_has_the_columns_of_all_retrievers(config: Config, chooser: Chooser) -> None:
    retrievers = {"a": Listing("i3", "i4"), "b": Listing("i5")}
    names = [column.name for column in evidence_columns(retrievers)]
    assert names == ["a.listed", "a.learned", "b.listed", "b.learned", "ranker.log_odds"]
    assert evidence_columns({}) == ()
    pipeline = pipeline_of(config, chooser, **retrievers)
    ((response, _),) = pipeline.rank([RecommendRequest(user="u", n=3, candidates=3)])
    assert [one.item for one in response.items][2] == "i5", "the reranker has seen that the first retriever does not list it"


def test_choices_are_the_candidates_of_before_the_row(config: Config, chooser: Chooser) -> None:
    pipeline = pipeline_of(config, chooser, a=Listing("i3", "i4"), b=Listing("i4", "i5"))
    fold(pipeline, config, click("ann", "i4"), click("bob", "i7"))
    (choices,) = chooser.choices
    for b in range(2):
        rows = np.flatnonzero(choices.batch.request == b)
        assert set(choices.batch.item[rows].tolist()) == {KEYS["i3"], KEYS["i4"], KEYS["i5"]}, "each once, whoever has it"
    assert choices.batch.item[choices.chosen[0]] == KEYS["i4"] and choices.batch.request[choices.chosen[0]] == 0
    assert choices.chosen[1] == -1, "no retriever had it, and it is not put in"
    assert choices.batch.evidence is not None and (choices.batch.evidence[:, 1] == 0).all(), "nobody had learned the rows"
    fold(pipeline, config, click("ann", "i5"))
    assert chooser.choices[1].batch.evidence is not None and (chooser.choices[1].batch.evidence[:, 1] == 2).all()
    assert KEYS["i4"] not in chooser.choices[1].batch.item, "she has touched it"


def test_what_is_no_choice(config: Config, chooser: Chooser) -> None:
    pipeline = pipeline_of(config, chooser, a=Listing("i3", "i4"))
    fold(pipeline, config, click("ann", "i3"))
    fold(pipeline, config, click("ann", "i3"), click("bob", "i4", correction=True), click("cy", "i4", 0.0))
    assert len(chooser.choices) == 1, "a second touch, a correction, and no reward"


def test_what_is_chosen_of_a_list_is_chosen_among_its_items(config: Config, chooser: Chooser) -> None:
    """Touched before or not; a ranking whose propensities are not known was not drawn up by a policy: all candidates count."""
    pipeline = pipeline_of(config, chooser, a=Listing("i3", "i4", "i5"))
    fold(pipeline, config, click("ann", "i6"))
    drawn = Impression(request_id="r", user="ann", items=("i6", "i1", "i3"), propensities=(0.5, 0.5, 1.0))
    foreign = Impression(request_id="f", user="ann", items=("i0", "i5"))
    rows = []
    for impression, item in ((drawn, "i6"), (drawn, "i3"), (foreign, "i5")):
        shown = TrackedImpression(impression=impression, timestamp=1e9)
        position = impression.items.index(item)
        rows.append(Outcome(user="ann", item=item, kind="click", value=1.0, timestamp=1e9, shown=shown, position=position))
    fold(pipeline, config, *rows)
    _, candidates, listed = chooser.choices
    assert candidates.chosen.size == 1 and set(candidates.batch.item.tolist()) == {KEYS[item] for item in ("i3", "i4", "i5")}
    assert [KEYS[item] for item in drawn.items] * 2 == listed.batch.item.tolist()
    assert listed.chosen.tolist() == [0, 5] and listed.batch.request[listed.chosen].tolist() == [0, 1]
    evidence = listed.batch.evidence
    assert evidence is not None and evidence[:, 0].tolist() == [0, 0, 1] * 2 and (evidence[:, 1] == 1).all()


def test_a_retriever_that_fails_leaves_its_columns_empty(config: Config, chooser: Chooser) -> None:
    pipeline = pipeline_of(config, chooser, a=Listing("i3", fails=True), b=Listing("i4"))
    fold(pipeline, config, click("ann", "i4"))
    evidence = chooser.choices[0].batch.evidence
    assert evidence is not None and np.isnan(evidence[:, :2]).all() and np.isfinite(evidence[:, 2:]).all()
    assert pipeline.skipped["a"] == 1


def test_given_items_are_the_rankers_to_order(config: Config) -> None:
    asked: list[Floats | None] = []

    class Listening(Chooser):
        def rerank(self, batch: Batch) -> Floats:
            asked.append(batch.evidence)
            return batch.score.copy()

    pipeline = pipeline_of(config, Listening(), a=Listing("i3", "i4"))
    pipeline.rank([RankRequest(user="u", items=["i3", "i5"])])
    assert asked.pop() is None
    pipeline.rank([RankRequest(user="u", items=["i3", "i5"]), RecommendRequest(user="u", n=2, candidates=2)])
    evidence = asked.pop()
    assert evidence is not None and np.isnan(evidence[:2]).all() and evidence[2:, 0].tolist() == [1.0, 1.0]
