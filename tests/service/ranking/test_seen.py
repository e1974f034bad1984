"""What a user touched is not recommended again, long after the learners' history has forgotten it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from learners.features import hash_id
from memory.keyed.seen_items import SeenItems
from memory.stateful import digest
from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.process.runtime import build_pipeline
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RecommendRequest
from streams.events import Forget, ItemUpdate
from streams.joined import JoinedBatch, Outcome

ITEMS = [f"i{n:03d}" for n in range(90)]


def touched(config: Config, *rows: tuple[str, str, str]) -> Pipeline:
    """A pipeline that has learned that users touched items, one by one, in some way: (user, item, kind)."""
    pipeline = build_pipeline(config)
    for item in ITEMS:
        pipeline.apply(ItemUpdate(item=item))
    fold = Fold(pipeline, FeedbackBuilder(pipeline, config.reward))
    for n, (user, item, kind) in enumerate(rows):
        fold.joined(JoinedBatch([], [Outcome(user=user, item=item, kind=kind, value=1.0, timestamp=1e9 + n)], []))
    return pipeline


def recommended(pipeline: Pipeline, user: str, *, repeat: bool = False) -> set[str]:
    ((response, _),) = pipeline.rank([RecommendRequest(user=user, n=90, candidates=90, repeat=repeat)])
    return {one.item for one in response.items}


def test_nothing_touched_comes_back_however_long_ago(make_config: Callable[..., Config]) -> None:
    config = make_config(retrievers={"popularity": {}}, history={"length": 5, "recent": 5})
    pipeline = touched(config, *(("ann", item, "click") for item in ITEMS[:70]))
    assert recommended(pipeline, "ann") == set(ITEMS[70:])
    assert recommended(pipeline, "ann", repeat=True) == set(ITEMS)
    assert recommended(pipeline, "bob") == set(ITEMS)
    pipeline.apply(Forget(user="ann"))
    assert recommended(pipeline, "ann") == set(ITEMS)


def test_only_the_kinds_that_count(make_config: Callable[..., Config]) -> None:
    config = make_config(retrievers={"popularity": {}}, reward={"click": 1.0, "buy": 5.0}, seen={"kinds": ["buy"]})
    pipeline = touched(config, ("ann", "i001", "click"), ("ann", "i002", "buy"), ("ann", "i003", "click"))
    assert recommended(pipeline, "ann") == set(ITEMS) - {"i002"}


def test_it_is_saved_and_shipped_with_the_rest(make_config: Callable[..., Config]) -> None:
    config = make_config(retrievers={"popularity": {}}, seen={"users": 10, "items": 80, "per_user": 16})
    leader, follower = touched(config, ("ann", "i001", "click")), build_pipeline(config)
    follower.load_state_dict(leader.state_dict())
    assert isinstance(follower.seen, SeenItems)
    assert follower.seen.of(np.array([hash_id("ann")]))[0].tolist() == [hash_id("i001")]
    assert digest(follower.state_dict()) == digest(leader.state_dict())
