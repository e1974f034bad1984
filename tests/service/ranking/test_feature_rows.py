"""Dense columns: what they say, that it is of before the row, and that rankers use it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from learners.base import Candidates, Exclusion, Retriever
from learners.features import hash_id
from learners.registry import register
from memory.keyed.click_statistics import ClickStatistics
from service.config import parse
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.process.runtime import build_pipeline
from service.ranking.requests import RankRequest
from streams.batch import Batch, Feedback, Floats, Requests
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate
from streams.join import Joiner
from tests.worlds import START


@register(__name__)
class Broken(Retriever):
    """Finds nothing, and cannot score."""

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        nothing = np.empty(0, np.int64)
        return Candidates(nothing, nothing, np.empty(0, np.float32))

    def score(self, batch: Batch) -> Floats:
        raise KeyError("broken")

    def learn(self, feedback: Feedback) -> None:
        pass


class World:
    """A pipeline without attributes and ids, and what is learned by it."""

    def __init__(self, rows: int = 1, **tables: Any) -> None:
        config = parse({"features": {"user": {}, "item": {}}, "retrievers": {"popularity": {}}} | tables, "test")
        self.pipeline = build_pipeline(config)
        self.fold = Fold(self.pipeline, FeedbackBuilder(self.pipeline, config.reward))
        self.joiner = Joiner(window=5.0, lateness=5.0, batch_rows=rows, capacity=1000, ids=1000)
        self.offset = 0

    def push(self, event: Event) -> list[Feedback]:
        self.pipeline.apply(event)
        batches = self.joiner.push(self.offset, 0.0, event)
        self.offset += 1
        return [feedback for joined in batches if (feedback := self.fold.joined(joined)) is not None]

    def column(self, rows: Batch, name: str) -> list[float]:
        values: list[float] = rows.values[:, self.pipeline.rows.names.index(name)].tolist()
        return values

    def rank(self, *items: str) -> dict[str, float]:
        ((response, _),) = self.pipeline.rank([RankRequest(user="ann", items=list(items), log=False)])
        return {one.item: one.score for one in response.items}


def like(user: str, item: str, at: float) -> Interaction:
    return Interaction(user=user, item=item, timestamp=START + at)


def test_the_names_of_the_columns() -> None:
    world = World(statistics={"half_lives": [60.0]}, features={"user": {}, "item": {"id": "category"}, "retrieval": True})
    sides = [f"{side}.{name}" for side in ("user", "item") for name in ("click_rate_60", "clicks_60", "age")]
    assert world.pipeline.rows.names == ("item.id", *sides, "context.candidates", "retrieval.popularity")
    assert World().pipeline.rows.names == ()
    assert world.pipeline.rows.fingerprint != World(statistics={"half_lives": [90.0]}).pipeline.rows.fingerprint


def test_rows_that_are_learned_together_know_of_those_before_them() -> None:
    world = World(rows=4, statistics={"half_lives": [600.0]})
    for n in range(4):
        world.push(like("bob", f"b{n // 2}", float(n)))
    events = [like("ann", "a", 10.0), like("cas", "c", 11.0), like("ann", "b", 12.0), like("ann", "c", 13.0)]
    (feedback,) = [feedback for event in events for feedback in world.push(event)]
    clicks = world.column(feedback, "user.clicks_600")
    assert clicks[0] == clicks[1] < clicks[2] < clicks[3]
    of_items = world.column(feedback, "item.clicks_600")
    assert of_items[0] == of_items[1] == of_items[2] < of_items[3], "cas liked c just before"
    names = [[world.pipeline.items.name(key) for key in row if key] for row in feedback.history.tolist()]
    assert names == [[], [], ["a"], ["b", "a"]]


def test_a_ranker_without_ids_learns_from_click_rates() -> None:
    """Items of two kinds, clicked in 60 % and 5 % of their shows; nothing else tells them apart."""
    world, rng, start = World(statistics={}), np.random.default_rng(0), time.time() - 400.0
    for n in range(400):
        items = tuple(f"{'ab'[i % 2]}{rng.integers(20)}" for i in range(2))
        world.push(Impression(request_id=f"r{n}", user=f"u{n % 50}", items=items, timestamp=start + n))
        for item in items:
            if rng.random() < (0.6 if item[0] == "a" else 0.05):
                world.push(Interaction(request_id=f"r{n}", user=f"u{n % 50}", item=item, timestamp=start + n + 0.5))
    scores = world.rank(*(f"{kind}{n}" for kind in "ab" for n in range(20)))
    good, bad = (np.array([score for item, score in scores.items() if item[0] == kind]) for kind in "ab")
    assert (good[:, None] > bad[None]).mean() > 0.9
    flat = World().rank("a1", "b1")
    assert flat["a1"] == flat["b1"]


def test_a_ranker_learns_that_one_of_many_is_clicked_less_often_than_one_of_few() -> None:
    """Of every ranking one item is clicked, whichever it is. Nothing but the number of candidates tells how likely that is."""
    world, rng, start = World(statistics={}), np.random.default_rng(0), time.time() - 600.0
    for n in range(600):
        items = tuple(f"i{i}" for i in rng.permutation(40)[: (2, 20)[n % 2]])
        world.push(Impression(request_id=f"r{n}", user=f"u{n % 50}", items=items, timestamp=start + n))
        click = Interaction(request_id=f"r{n}", user=f"u{n % 50}", item=items[0], timestamp=start + n + 0.5)
        world.push(click)
    of_two, of_twenty = (np.mean(list(world.rank(*(f"i{i}" for i in range(rows))).values())) for rows in (2, 20))
    # 0.5 and 0.05 in the end. Of the rows, 0.1 are of rankings of two, so these are learned last.
    assert of_two > 0.25 and abs(of_twenty - 0.05) < 0.02, (of_two, of_twenty)


def test_an_interaction_without_a_ranking_has_no_number_of_candidates() -> None:
    world = World(rows=2, statistics={})
    (feedback,) = [feedback for n in range(2) for feedback in world.push(like("ann", f"i{n}", float(n)))]
    at = world.pipeline.rows.names.index("context.candidates")
    assert feedback.features[:, at].tolist() == [0, 0]


def test_a_retriever_that_fails_is_absent_and_counted() -> None:
    features = {"user": {}, "item": {"id": "category"}, "retrieval": True}
    world = World(retrievers={"popularity": {}, __name__: {}}, features=features)
    (feedback,) = world.push(like("ann", "a", 1.0))
    column = world.pipeline.rows.names.index(f"retrieval.{__name__}")
    assert feedback.features[:, column].tolist() == [0] and feedback.values[:, column].tolist() == [0.0]
    assert world.pipeline.skipped[__name__] > 0
    assert np.isfinite(list(world.rank("a", "b").values())).all()


def test_users_are_forgotten_and_items_removed() -> None:
    world = World(statistics={"half_lives": [600.0]})
    for n in range(5):
        for user in ("ann", "bob"):
            world.push(like(user, "i", float(n)))
    dense, now = world.pipeline.dense, np.array([START + 6.0])

    def known(store: ClickStatistics, name: str) -> bool:
        return store.describe(np.array([hash_id(name)]), now).tolist() != store.describe(np.array([1]), now).tolist()

    assert known(dense.users, "ann") and known(dense.users, "bob") and known(dense.items, "i")
    world.push(Forget(user="ann", timestamp=START + 6))
    world.push(ItemUpdate(item="i", deleted=True, timestamp=START + 6))
    assert not known(dense.users, "ann") and known(dense.users, "bob") and not known(dense.items, "i")
