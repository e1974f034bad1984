"""What was accepted a moment ago is not recommended, although nobody has learned it yet."""

from __future__ import annotations

from typing import Any

import pytest

from learners.features import hash_id
from service.config import parse
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.process.runtime import build_pipeline
from service.ranking.pending import PendingTouches
from streams.events import Interaction, ItemUpdate
from streams.join import Joiner


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def click(user: str, item: str, kind: str = "click") -> Interaction:
    return Interaction(user=user, item=item, kind=kind)


def items(pending: PendingTouches, user: str) -> list[int]:
    return pending.of(hash_id(user)).tolist()


def test_interactions_of_the_last_seconds_by_user() -> None:
    time = Time()
    pending = PendingTouches(seconds=5.0, clock=time)
    pending.add([click("ann", "a"), ItemUpdate(item="b"), click("bob", "c")])
    time.now = 104.0
    pending.add([click("ann", "d")])
    assert items(pending, "ann") == [hash_id("a"), hash_id("d")]
    assert items(pending, "bob") == [hash_id("c")]
    time.now = 106.0
    pending.add([])
    assert items(pending, "ann") == [hash_id("d")] and items(pending, "bob") == []


def test_it_is_bounded_and_counts_only_some_kinds() -> None:
    pending = PendingTouches(kinds=["buy"], capacity=3)
    pending.add([click("ann", "a"), *(click("ann", str(n), "buy") for n in range(5))])
    assert items(pending, "ann") == [hash_id(str(n)) for n in (2, 3, 4)]


def test_a_forgotten_user_has_none() -> None:
    pending = PendingTouches(capacity=2)
    pending.add([click("ann", "a"), click("bob", "b")])
    pending.forget("ann")
    assert items(pending, "ann") == []
    pending.add([click("bob", "c"), click("bob", "d")])
    assert items(pending, "bob") == [hash_id("c"), hash_id("d")]


@pytest.mark.parametrize("retrievers", [{}, {"popularity": {}}], ids=["ranks only", "retrieves"])
def test_a_user_is_behind_until_the_interaction_is_learned(retrievers: dict[str, Any]) -> None:
    config = parse({"features": {"user": {}, "item": {"id": "category"}}, "retrievers": retrievers}, "test")
    pipeline = build_pipeline(config)
    fold = Fold(pipeline, FeedbackBuilder(pipeline, config.reward))
    joiner = Joiner(window=5.0, lateness=5.0, batch_rows=1, capacity=100, ids=100)
    for n in range(2 * config.history.length):  # more than a history has
        liked = click("ann", f"i{n}")
        pipeline.pending.add([liked])
        assert pipeline.is_behind("ann") and not pipeline.is_behind("bob")
        for joined in joiner.push(n, liked.timestamp, liked):
            fold.joined(joined)
        assert not pipeline.is_behind("ann")
