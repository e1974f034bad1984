from __future__ import annotations

from collections import OrderedDict, deque

import numpy as np
import pytest

from memory import History, digest
from memory.keyed.history import add_earlier_rows


def kinds(user: np.ndarray) -> np.ndarray:
    return (np.arange(user.size) % 3 + 1).astype(np.int32)


def append(history: History, rows: list[tuple[int, int, bool]]) -> None:
    user, item, positive = (np.array(column) for column in zip(*rows, strict=True))
    history.append(user, item, np.arange(len(rows), dtype=np.float64), kinds(user), positive)


@pytest.mark.parametrize(("capacity", "length", "users"), [(50, 4, 30), (8, 5, 30), (1, 1, 3), (3, 20, 6)])
def test_equals_a_dict_of_deques(capacity: int, length: int, users: int) -> None:
    rng = np.random.default_rng(0)
    history = History(capacity, length)
    model: OrderedDict[int, deque[tuple[int, float, bool]]] = OrderedDict()
    for step in range(60):
        n = int(rng.integers(0, 40))  # often more users than the capacity
        user, item = rng.integers(1, users, n), rng.integers(1, 12, n)
        timestamp, positive = step + rng.uniform(size=n), rng.uniform(size=n) < 0.6
        history.append(user, item, timestamp, kinds(user), positive)
        for u, *entry in zip(user.tolist(), item.tolist(), timestamp.tolist(), positive.tolist(), strict=True):
            if u not in model:
                if len(model) == capacity:
                    model.popitem(last=False)
                model[u] = deque(maxlen=length)
            model[u].append(tuple(entry))
            model.move_to_end(u)
        if rng.random() < 0.3:
            forgotten = rng.integers(1, users, 2)
            history.forget(forgotten)
            for u in forgotten.tolist():
                model.pop(u, None)
        users_asked = rng.integers(1, users, 9)
        items, start = history.seen(users_asked)
        recent = history.recent(users_asked, 6)[0]
        assert recent.shape == (9, 6)
        assert start[-1] == items.size
        for row, u in enumerate(users_asked.tolist()):
            entries = list(model.get(u, ()))
            assert items[start[row] : start[row + 1]].tolist() == sorted({entry[0] for entry in entries})
            expected = [entry[0] for entry in reversed(entries) if entry[2]][:6]
            assert recent[row].tolist() == expected + [0] * (6 - len(expected))
            stored = zip(*(column.tolist() for column in history.entries(u)), strict=True)
            assert list(stored) == entries
        assert len(history) == len(model)


def test_recent_returns_times_and_kinds() -> None:
    history = History(4, 3)
    append(history, [(1, 10, True), (1, 11, False), (1, 12, True)])
    item, timestamp, kind = history.recent(np.array([1]), 3)
    assert (item.tolist(), timestamp.tolist(), kind.tolist()) == ([[12, 10, 0]], [[2.0, 0.0, 0.0]], [[3, 1, 0]])


def test_recent_is_newest_first_and_positives_only() -> None:
    history = History(4, 3)
    append(history, [(1, 10, True), (1, 11, True), (1, 12, False), (1, 13, True), (2, 20, False)])
    assert history.recent(np.array([1, 2, 3]), 4)[0].tolist() == [[13, 11, 0, 0], [0] * 4, [0] * 4]
    items, start = history.seen(np.array([3, 1, 2, 1]))
    assert items.tolist() == [11, 12, 13, 20, 11, 12, 13]
    assert start.tolist() == [0, 0, 3, 4, 7]


def test_a_user_evicted_within_a_batch_leaves_no_data() -> None:
    history = History(1, 3)
    append(history, [(1, 10, True), (1, 11, True), (2, 20, True)])
    assert history.recent(np.array([1, 2]), 3)[0].tolist() == [[0, 0, 0], [20, 0, 0]]


def test_rows_without_user_or_item_are_ignored() -> None:
    history = History(3, 2)
    append(history, [(0, 10, True), (1, 0, True), (1, 11, True)])
    assert history.recent(np.array([0, 1]), 2)[0].tolist() == [[0, 0], [11, 0]]


def test_forgetting_erases_the_bytes() -> None:
    history = History(3, 2)
    append(history, [(1, 10, True), (2, 20, True)])
    history.forget(np.array([1, 99]))
    assert not np.isin(10, history.state_dict()["rings.item"])
    assert history.seen(np.array([2]))[0].tolist() == [20]


def test_no_rows_and_no_requests() -> None:
    history = History(3, 2)
    none = np.empty(0, np.int64)
    history.append(none, none, np.empty(0), kinds(none), np.empty(0, np.bool_))
    assert history.recent(none, 4)[0].shape == (0, 4)
    assert [part.tolist() for part in history.seen(none)] == [[], [0]]


def test_length_is_checked() -> None:
    with pytest.raises(ValueError, match="length: 0"):
        History(3, 0)


def test_changes_contain_added_interactions_and_not_whole_rings() -> None:
    leader, follower = History(4, 50), History(4, 50)
    append(leader, [(1, 10, True), (2, 20, True), (1, 11, False)])
    follower.apply_changes(leader.take_changes())
    append(leader, [(1, 12, True)])
    changes = leader.take_changes()
    assert changes.pop("timestamp").tolist() == [0.0]
    sent = {name: array.tolist() for name, array in changes.items() if not name.startswith("index.")}
    assert sent == {"slot": sent["slot"], "first": [2], "count": [3], "item": [12], "kind": [1], "positive": [True]}
    follower.apply_changes(leader.take_changes() | changes | {"timestamp": np.zeros(1)})
    assert digest(follower.state_dict()) == digest(leader.state_dict())
    assert follower.seen(np.array([1]))[0].tolist() == [10, 11, 12]


@pytest.mark.parametrize(("capacity", "length", "users"), [(50, 4, 30), (8, 5, 30), (3, 20, 6)])
def test_changes_may_overlap_with_the_state_of_a_follower(capacity: int, length: int, users: int) -> None:
    """A restarted trainer publishes from its checkpoint on, but replicas may already be ahead of it."""
    rng = np.random.default_rng(1)
    leader, followers = History(capacity, length), [History(capacity, length) for _ in range(4)]
    for _ in range(40):
        for follower in followers:
            for _ in range(int(rng.integers(0, 3))):
                n = int(rng.integers(0, 12))
                user = rng.integers(1, users, n)
                leader.append(user, rng.integers(1, 12, n), rng.uniform(size=n), kinds(user), rng.uniform(size=n) < 0.6)
                leader.forget(rng.integers(1, users, int(rng.integers(0, 2))))
            follower.load_state_dict(leader.state_dict())
        changes = leader.take_changes()
        for follower in followers:
            follower.apply_changes(changes)
            assert digest(follower.state_dict()) == digest(leader.state_dict())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"slot": np.array([4])}, "not of 4 rings"),
        ({"slot": np.array([-1])}, "not of 4 rings"),
        ({"first": np.array([3])}, "not of 4 rings"),
        ({"count": np.array([60])}, "60 interactions of a ring of 50"),
        ({"first": np.array([0, 1])}, "first"),
        ({"item": np.zeros(1, np.int64)}, "item"),
        ({"kind": np.zeros(2)}, "kind"),
        ({"surplus": np.zeros(2)}, "surplus"),
    ],
)
def test_changes_that_do_not_fit_are_refused(damage: dict[str, np.ndarray], message: str) -> None:
    leader, follower = History(4, 50), History(4, 50)
    append(leader, [(1, 10, True), (1, 11, False)])
    changes, before = leader.take_changes() | damage, digest(follower.state_dict())
    with pytest.raises(ValueError, match=message):
        follower.apply_changes(changes)
    assert digest(follower.state_dict()) == before


def test_rows_of_one_batch_follow_each_other_in_their_histories() -> None:
    rng = np.random.default_rng(1)
    one_by_one, at_once = History(20, 50), History(20, 50)
    for batch in range(20):
        n = int(rng.integers(1, 30))
        user, item, positive = rng.integers(0, 6, n), rng.integers(0, 9, n), rng.random(n) < 0.6
        time, kind = batch + np.sort(rng.random(n)), kinds(user)
        recent = at_once.recent(user, 4)
        add_earlier_rows(user, item, time, kind, positive, recent)
        at_once.append(user, item, time, kind, positive)
        for row in range(n):
            part = slice(row, row + 1)
            expected = one_by_one.recent(user[part], 4)
            assert [column[row].tolist() for column in recent] == [column[0].tolist() for column in expected]
            one_by_one.append(user[part], item[part], time[part], kind[part], positive[part])
