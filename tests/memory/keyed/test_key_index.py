from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

from memory import KeyIndex, digest


def ids(*keys: int) -> np.ndarray:
    return np.array(keys, np.int64)


class Model:
    """The same index as an OrderedDict of key to slot, with the free slots as a stack."""

    def __init__(self, capacity: int) -> None:
        self.slot_of: OrderedDict[int, int] = OrderedDict()
        self.free = list(reversed(range(capacity)))
        self.evictions = 0

    def insert(self, key: int) -> tuple[int, bool]:
        if key == 0:
            return -1, False
        fresh = key not in self.slot_of
        if fresh:
            if not self.free:
                self.free.append(self.slot_of.popitem(last=False)[1])
                self.evictions += 1
            self.slot_of[key] = self.free.pop()
        self.slot_of.move_to_end(key)
        return self.slot_of[key], fresh

    def delete(self, key: int) -> int:
        slot = self.slot_of.pop(key, -1)
        if slot >= 0:
            self.free.append(slot)
        return slot


@pytest.mark.parametrize("capacity", [1, 2, 3, 16, 100])
@pytest.mark.parametrize("spread", ["small", "multiples", "hashed"])
def test_equals_an_ordered_dict(capacity: int, spread: str) -> None:
    rng = np.random.default_rng(capacity)
    pool = np.arange(2 * capacity + 1)
    if spread == "multiples":
        pool = pool << 40
    elif spread == "hashed":
        pool[1:] = rng.integers(-(2**63), 2**63 - 1, 2 * capacity)
    index, model = KeyIndex(capacity), Model(capacity)
    for _ in range(300):
        keys = rng.choice(pool, rng.integers(0, capacity + 5))
        action = rng.integers(4)
        if action == 0:
            assert index.delete(keys[:3]).tolist() == [model.delete(int(key)) for key in keys[:3]]
        elif action == 1:
            assert index.find(keys).tolist() == [model.slot_of.get(int(key), -1) for key in keys]
        else:
            slots, fresh = index.insert(keys)
            assert list(zip(slots.tolist(), fresh.tolist(), strict=True)) == [model.insert(int(key)) for key in keys]
        assert index.slots().tolist() == list(model.slot_of.values())
        assert index.keys[index.slots()].tolist() == list(model.slot_of)
        assert len(index) == len(model.slot_of)
        assert index.evictions == model.evictions
    assert index.find(pool).tolist() == [model.slot_of.get(int(key), -1) for key in pool]


def test_the_least_recently_touched_is_evicted() -> None:
    index = KeyIndex(3)
    index.insert(ids(10, 20, 30))
    index.insert(ids(10))
    slots, fresh = index.insert(ids(40, 10, 20))
    assert slots.tolist() == [1, 0, 2]
    assert fresh.tolist() == [True, False, True]
    assert index.find(ids(10, 20, 30, 40)).tolist() == [0, 2, -1, 1]


def test_key_zero_is_none() -> None:
    index = KeyIndex(2)
    slots, fresh = index.insert(ids(0, 5, 0))
    assert slots.tolist() == [-1, 0, -1]
    assert fresh.tolist() == [False, True, False]
    assert index.find(ids(0)).tolist() == index.delete(ids(0)).tolist() == [-1]


def test_other_array_layouts_and_types_are_accepted() -> None:
    index = KeyIndex(8)
    index.insert(np.arange(1, 9)[::2])
    assert index.find(np.arange(1, 9, dtype=np.int32)).tolist() == [0, -1, 1, -1, 2, -1, 3, -1]
    assert index.find(ids()).shape == (0,)


def test_order_does_not_depend_on_the_batches() -> None:
    keys = np.random.default_rng(0).integers(1, 40, 500)
    whole, pieces = KeyIndex(16), KeyIndex(16)
    whole.insert(keys)
    for piece in np.array_split(keys, 37):
        pieces.insert(piece)
    assert digest(whole.state_dict()) == digest(pieces.state_dict())


def test_only_touched_slots_are_shipped() -> None:
    index = KeyIndex(100)
    index.insert(np.arange(1, 51))
    index.take_changes()
    index.insert(ids(7, 99))
    index.delete(ids(3))
    changes = index.take_changes()
    assert changes["slots"].tolist() == [2, 6, 50]
    assert changes["keys"].tolist() == [0, 7, 99]


def test_a_missed_change_is_noticed() -> None:
    leader, follower = KeyIndex(4), KeyIndex(4)
    leader.insert(ids(1, 2))
    follower.apply_changes(leader.take_changes())
    leader.delete(ids(1))
    leader.take_changes()  # never applied
    leader.insert(ids(3, 4, 1))
    with pytest.raises(ValueError, match="changes were missed"):
        follower.apply_changes({"slots": np.array([3], np.int32), "keys": ids(2)})


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [("order", [0, 1, 1, 3], "permutation"), ("keys", [5, 5, 0, 0], "twice"), ("order", [0, 1, 2, 3], "free slots")],
)
def test_an_inconsistent_state_is_refused(name: str, value: list[int], problem: str) -> None:
    index = KeyIndex(4)
    index.insert(ids(5, 6))
    state = index.state_dict()
    before = digest(state)
    state[name] = np.array(value, state[name].dtype)
    with pytest.raises(ValueError, match=problem):
        index.load_state_dict(state)
    assert digest(index.state_dict()) == before


@pytest.mark.parametrize("capacity", [0, -1, 2**31])
def test_capacity_is_checked(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity: {capacity}"):
        KeyIndex(capacity)
