from __future__ import annotations

from collections import OrderedDict, deque

import numpy as np
import pytest

from memory.keyed.seen_items import BLOCK, SeenItems
from memory.stateful import digest


class Model:
    """The same by lists of blocks, one user after the other."""

    def __init__(self, users: int, blocks: int, per_user: int) -> None:
        self.users, self.per_user = users, per_user
        self.lists: OrderedDict[int, list[list[int]]] = OrderedDict()
        self.ring: list[list[int] | None] = [None] * blocks
        self.at = 0

    def add(self, user: int, item: int) -> None:
        if not user:
            return
        if user not in self.lists and len(self.lists) == self.users:
            self.forget(next(iter(self.lists)))
        blocks = self.lists.setdefault(user, [])
        self.lists.move_to_end(user)
        if not item or (blocks and item in blocks[-1]):
            return
        if not blocks or len(blocks[-1]) == BLOCK:
            given = self.ring[self.at]
            if given is not None:
                for other in self.lists.values():
                    if any(block is given for block in other):
                        assert other[0] is given, "the oldest of all is the oldest of its list"
                        other.pop(0)
            self.ring[self.at] = []
            blocks.append(self.ring[self.at])  # type: ignore[arg-type]
            self.at = (self.at + 1) % len(self.ring)
        blocks[-1].append(item)
        if sum(map(len, blocks)) > self.per_user:
            self._free(blocks.pop(0))

    def forget(self, user: int) -> None:
        for block in self.lists.pop(user, []):
            self._free(block)

    def _free(self, block: list[int]) -> None:
        self.ring = [None if one is block else one for one in self.ring]


@pytest.mark.parametrize(("users", "items", "per_user"), [(20, 800, 30), (5, 40, 16), (30, 80, 1000), (1, 8, 8)])
def test_equals_lists(users: int, items: int, per_user: int) -> None:
    rng = np.random.default_rng(0)
    seen, model = SeenItems(users, items, per_user), Model(users, -(-items // BLOCK), per_user)
    for _ in range(150):
        n = int(rng.integers(0, 30))
        user, item = rng.integers(0, users + 4, n), rng.integers(0, 90, n)
        seen.add(user, item)
        for u, i in zip(user.tolist(), item.tolist(), strict=True):
            model.add(u, i)
        if rng.random() < 0.3:
            gone = rng.integers(1, users + 4, 2)
            seen.forget(gone)
            for u in gone.tolist():
                model.forget(u)
        asked = np.arange(users + 5)
        found, start = seen.of(asked)
        for u in asked.tolist():
            expected = [item for block in model.lists.get(u, []) for item in block]
            assert found[start[u] : start[u + 1]].tolist() == expected
            assert seen.has(np.full(90, u), np.arange(90)).tolist() == [n in expected for n in range(90)]
        assert len(seen) == len(model.lists)


def test_the_oldest_leave_first() -> None:
    seen = SeenItems(users=2, items=1000, per_user=16)
    seen.add(np.full(20, 5), np.arange(1, 21))
    items, _ = seen.of(np.array([5]))
    assert items.tolist() == list(range(9, 21)), "a block of the oldest left when there were more than 16"


def test_a_follower_is_the_same() -> None:
    leader, follower = SeenItems(4, 40, 24), SeenItems(4, 40, 24)
    rng = np.random.default_rng(1)
    for _ in range(40):
        leader.add(rng.integers(1, 7, 9), rng.integers(1, 50, 9))
        leader.forget(rng.integers(1, 7, 1))
        follower.apply_changes(leader.take_changes())
        assert digest(follower.state_dict()) == digest(leader.state_dict())
    restored = SeenItems(4, 40, 24)
    restored.load_state_dict(leader.state_dict())
    rows = deque([(1, 99), (2, 98), (6, 97)])
    for user, item in rows:
        for store in (leader, restored):
            store.add(np.array([user]), np.array([item]))
    assert digest(restored.state_dict()) == digest(leader.state_dict())


@pytest.mark.parametrize("capacities", [(0, 8, 8), (1, 7, 8), (1, 8, 7)])
def test_capacities_are_checked(capacities: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="give at least"):
        SeenItems(*capacities)
