"""Negatives: what is drawn, and what the ranker learns from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learners.features import hash_id
from service.config import parse
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.learning.negatives import NegativeSampler
from service.process.runtime import build_pipeline
from service.ranking.requests import RankRequest
from streams.batch import Feedback
from streams.events import Impression, Interaction, ItemUpdate
from streams.join import Joiner
from tests.worlds import START

ITEMS, N = 20, 4


class World:
    """Everybody likes the first five of twenty items more often than the others; nothing says what was shown."""

    def __init__(self, statistics: dict[str, Any] | None = None, **negatives: Any) -> None:
        reward = {"click": 1.0, "rating": {"at_least": 4.0}}
        tables = {"negatives": negatives, "reward": reward, "retrievers": {"item_knn": {}}, "ranker": {"fm": {"bits": 12}}}
        if statistics is not None:
            tables["statistics"] = statistics
        config = parse(tables | {"features": {"user": {}, "item": {"id": "category"}}}, "test")
        self.pipeline = build_pipeline(config)
        self.sampler = NegativeSampler(self.pipeline, config.negatives)
        self.builder = FeedbackBuilder(self.pipeline, config.reward)
        self.fold = Fold(self.pipeline, self.builder)
        self.joiner = Joiner(window=1.0, lateness=1.0, batch_rows=1, capacity=10, ids=10)
        self.rng, self.offset = np.random.default_rng(0), 0
        for n in range(ITEMS):
            self.pipeline.apply(ItemUpdate(item=f"i{n}", timestamp=START))

    def push(self, event: Interaction | Impression) -> list[Feedback]:
        batches = self.joiner.push(self.offset, event.timestamp, event)
        self.offset += 1
        learned = [self.fold.joined(joined) for joined in batches]
        return [feedback for feedback in learned if feedback is not None]

    def like(self, user: str, item: str, **more: Any) -> Feedback:
        (feedback,) = self.push(Interaction(user=user, item=item, timestamp=START + self.offset, **more))
        return feedback

    def live(self, steps: int) -> None:
        for _ in range(steps):
            item = self.rng.integers(5) if self.rng.random() < 0.8 else self.rng.integers(5, ITEMS)
            self.like(f"u{self.rng.integers(100_000)}", f"i{item}")

    def drawn(self, feedback: Feedback) -> list[int]:
        extended = self.sampler.extended(feedback)
        return extended.item[extended.kind == 0].tolist()

    def scores(self) -> np.ndarray:
        ((answer, _),) = self.pipeline.rank([RankRequest(user="new", items=[f"i{n}" for n in range(ITEMS)], log=False)])
        by_item = {one.item: one.score for one in answer.items}
        return np.array([by_item[f"i{n}"] for n in range(ITEMS)])


@pytest.mark.parametrize("source", ["uniform", "popular"])
def test_a_score_is_the_probability_among_uniform_others(source: str) -> None:
    """An item of share p is chosen p times for each 4 / 20 times that it is drawn uniformly, however it was drawn."""
    world = World(n=N, source=source)
    world.live(4000)
    share = np.array([0.8 / 5] * 5 + [0.2 / 15] * 15)
    expected = share / (share + N / ITEMS)
    scores = world.scores()
    assert scores[:5].mean() == pytest.approx(expected[0], abs=0.06)  # .444
    assert scores[5:].mean() == pytest.approx(expected[-1], abs=0.025)  # .0625
    assert scores[:5].min() > scores[5:].max()


def test_without_negatives_everything_looks_liked() -> None:
    world = World()
    world.live(500)
    assert world.scores().min() > 0.9


def test_a_row_draws_the_same_whenever_it_is_read() -> None:
    world = World(n=N)
    one, other = world.like("ann", "i1"), world.like("ann", "i2")
    assert world.drawn(one) == world.drawn(one) != world.drawn(other)
    assert len(world.drawn(one)) <= N


def test_a_negative_does_not_give_itself_away_by_a_number_of_candidates() -> None:
    """Neither the like nor what is drawn beside it was in a ranking."""
    world = World(statistics={}, n=N)
    world.live(10)
    extended = world.sampler.extended(world.like("ann", "i0"))
    column = world.pipeline.rows.names.index("context.candidates")
    assert extended.rows > 1 and not extended.features[:, column].any()


@pytest.mark.parametrize("source", ["uniform", "popular", "candidates"])
def test_what_the_user_touched_and_what_is_deleted_is_not_drawn(source: str) -> None:
    world = World(n=10, source=source)
    for n in range(ITEMS):
        world.like("bob", f"i{n}")
    for n in range(8):
        world.like("ann", f"i{n}")
    world.pipeline.apply(ItemUpdate(item="i9", deleted=True, timestamp=START))
    drawn = set(world.drawn(world.like("ann", "i8")))
    assert drawn
    assert not drawn & {hash_id(f"i{n}") for n in range(10)}


def test_candidates_are_drawn_from_what_retrievers_have() -> None:
    world = World(n=N, source="candidates")
    for user in ("bob", "cas", "dan"):
        for item in ("i1", "i2", "i3"):
            world.like(user, item)
    liked = world.like("ann", "i1")
    assert set(world.drawn(liked)) == {hash_id("i2"), hash_id("i3")}


def test_dislikes_and_impressions_get_none() -> None:
    world = World(n=N)
    disliked = world.like("ann", "i1", kind="rating", value=1.0)
    assert world.sampler.extended(disliked) is disliked
    world.push(Impression(request_id="r", user="ann", items=("i3", "i4"), timestamp=START + 100))
    clicked = world.like("ann", "i3", request_id="r")
    assert world.sampler.extended(clicked) is clicked
