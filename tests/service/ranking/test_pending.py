"""What was accepted a moment ago is not recommended, although nobody has learned it yet."""

from __future__ import annotations

from learners.features import hash_id
from service.ranking.pending import PendingTouches
from streams.events import Interaction, ItemUpdate


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
