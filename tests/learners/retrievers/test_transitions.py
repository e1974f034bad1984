from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from learners.base import Exclusion
from learners.contract.worlds import cut, feedback_of, requests_of
from learners.retrievers.transitions import Transitions
from memory.stateful import digest

SMALL = {"capacity": 64, "neighbours": 512, "next_neighbours": 512, "users": 32, "window": 5}
ITEMS = np.arange(1, 41)


class Naive:
    """The docstring's formulas, in dictionaries that never forget anything."""

    def __init__(self, window):
        self.window = window
        self.pair, self.passed, self.next, self.left = (defaultdict(float) for _ in range(4))
        self.touched = defaultdict(list)

    def learn(self, feedback):
        for n in range(feedback.rows):
            touched, i = self.touched[int(feedback.user[feedback.request[n]])], int(feedback.item[n])
            weight = float(feedback.weight[n])
            if feedback.reward[n] > 0 and weight > 0 and not feedback.correction[n]:
                for age, j in enumerate(touched):
                    if j != i:
                        self.pair[j, i] += weight / (1 + age)
                        self.passed[j] += weight / (1 + age)
                        if age == 0:
                            self.next[j, i] += weight
                            self.left[j] += weight
            if feedback.kind[n]:
                if i in touched:
                    touched.remove(i)
                touched.insert(0, i)
                del touched[self.window :]

    def remove(self, item):
        for touched in self.touched.values():
            if item in touched:
                touched.remove(item)
        for counts in (self.passed, self.left):
            counts.pop(item, None)
        for pairs in (self.pair, self.next):
            for pair in [pair for pair in pairs if item in pair]:
                del pairs[pair]

    def score(self, user, item):
        return sum(self.pair[j, item] / ((1 + age) * np.sqrt(self.passed[j] + 5)) for age, j in enumerate(self.touched[user]))

    def share(self, user, item):
        return self.next[self.touched[user][0], item] / (self.left[self.touched[user][0]] + 5) if self.touched[user] else 0.0


def stream(rows, seed=0, users=12, items=40):
    rng = np.random.default_rng(seed)
    feedback = feedback_of(
        user=rng.integers(1, users + 1, rows),
        item=rng.zipf(1.4, rows) % items + 1,
        reward=rng.integers(-1, 3, rows),
        weight=rng.integers(0, 4, rows),
    )
    feedback.kind = rng.integers(0, 3, rows).astype(np.int32)
    feedback.correction = rng.random(rows) < 0.1
    return feedback


def of(user, items=ITEMS):
    return feedback_of(user=np.full(len(items), user), item=items, reward=np.zeros(len(items)))


def retrieved(learner, user, k=50, exclude=()):
    found = learner.retrieve(requests_of([user]), k, Exclusion(np.array(exclude, np.int64), np.array([0, len(exclude)])))
    return dict(zip(found.item.tolist(), found.score.tolist(), strict=True))


def check_equal(learner, naive):
    for user in range(1, 14):
        score = np.array([naive.score(user, item) for item in ITEMS.tolist()])
        share = np.array([naive.share(user, item) for item in ITEMS.tolist()])
        assert learner.score(of(user)) == pytest.approx(score, rel=1e-5, abs=1e-7)
        expected = np.stack((np.log(score + 0.05), score > 0, np.log(share + 0.003)), axis=1)
        assert learner.evidence(of(user)) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        found = retrieved(learner, user)
        assert found == pytest.approx({i: s for i, s in zip(ITEMS.tolist(), score.tolist(), strict=True) if s > 0}, rel=1e-5)
        assert all(one >= other for one, other in pairwise(found.values()))


def test_a_world_by_hand():
    learner = Transitions(**SMALL)
    # User 1 touches 10 (no reward), then likes 11 and 12; user 2 has touched 10 last, and item 13 before.
    learner.learn(feedback_of(user=[1, 1, 1, 2, 2], item=[10, 11, 12, 13, 10], reward=[0, 1, 1, 0, 0]))
    # pair[10, 11] = 1, pair[11, 12] = 1, pair[10, 12] = 1/2; count[10] = 1.5, and 11 came right after 10 once.
    assert retrieved(learner, 2) == pytest.approx({11: 1 / np.sqrt(6.5), 12: 0.5 / np.sqrt(6.5)})
    assert learner.evidence(of(2, [11, 12, 13])) == pytest.approx(
        np.array(
            [
                [np.log(1 / np.sqrt(6.5) + 0.05), 1, np.log(1 / 6 + 0.003)],
                [np.log(0.5 / np.sqrt(6.5) + 0.05), 1, np.log(0.003)],
                [np.log(0.05), 0, np.log(0.003)],
            ]
        ),
        rel=1e-5,
    )
    # User 1 touched 12, 11 and 10, in this order from the newest: ages 0, 1, 2.
    assert retrieved(learner, 1) == pytest.approx({11: 1 / 3 / np.sqrt(6.5), 12: 1 / 2 / np.sqrt(6) + 0.5 / 3 / np.sqrt(6.5)})


def test_rows_that_are_neither_liked_nor_touched_leave_nothing():
    learner, untouched = Transitions(**SMALL), Transitions(**SMALL)
    shown = feedback_of(user=[1, 2], item=[10, 11], reward=[0, 0])
    shown.kind[:] = 0
    learner.learn(shown)
    assert digest(learner.state_dict()) == digest(untouched.state_dict())


def test_a_correction_is_a_touch_and_no_transition():
    learner = Transitions(**SMALL)
    feedback = feedback_of(user=[1, 1, 1, 2], item=[10, 11, 12, 10], reward=[1, 1, 1, 1])
    feedback.correction[1] = True
    learner.learn(feedback)
    assert retrieved(learner, 2).keys() == {12}
    assert retrieved(learner, 1).keys() == {12}  # from 11, and from 10 at the age of two


def test_random_streams_follow_the_formulas():
    learner, naive = Transitions(**SMALL), Naive(5)
    for seed in range(3):
        learner.learn(stream(500, seed))
        naive.learn(stream(500, seed))
        check_equal(learner, naive)


def test_many_requests_at_once():
    learner = Transitions(**SMALL)
    learner.learn(stream(600))
    together = feedback_of(user=np.repeat(np.arange(1, 13), 40), item=np.tile(ITEMS, 12), reward=np.zeros(480))
    apart = np.concatenate([learner.evidence(of(user)) for user in range(1, 13)])
    assert np.array_equal(learner.evidence(together), apart)


@pytest.mark.parametrize("size", [1, 7, 240])
@pytest.mark.parametrize("parameters", [SMALL, {"capacity": 6, "neighbours": 8, "next_neighbours": 8, "users": 4, "window": 4}])
def test_any_cut_into_batches_gives_the_same_state(size, parameters):
    feedback = stream(240, seed=3)
    whole, pieces = Transitions(**parameters), Transitions(**parameters)
    whole.learn(feedback)
    for start in range(0, 240, size):
        pieces.learn(cut(feedback, start, start + size))
    assert digest(pieces.state_dict()) == digest(whole.state_dict())


def test_a_removed_item_leaves_no_trace():
    learner, naive = Transitions(**SMALL), Naive(5)
    for part in range(4):
        learner.learn(stream(200, seed=part))
        naive.learn(stream(200, seed=part))
        for item in (2, 3, 5):
            learner.remove(np.array([item, 999]))
            naive.remove(item)
        check_equal(learner, naive)


def test_items_that_gave_way_leave_no_trace():
    learner, naive = Transitions(**SMALL | {"capacity": 4, "window": 9}), Naive(9)
    feedback = stream(400, seed=5, users=3, items=9)
    newest: list[int] = []
    for n in range(400):
        row = cut(feedback, n, n + 1)
        learner.learn(row)
        if feedback.kind[n] or (feedback.reward[n] > 0 and feedback.weight[n] > 0 and not feedback.correction[n]):
            item = int(feedback.item[n])
            newest = [item, *(other for other in newest if other != item)]
            for gone in newest[4:]:
                naive.remove(gone)
            newest = newest[:4]
            naive.learn(row)
    check_equal(learner, naive)


def test_tags_that_begin_anew():
    learner, twin = Transitions(**SMALL), Transitions(**SMALL)
    learner.counts["tag"][:] += 64 * ((2**31 - 1) // 64 - 1)
    for part in range(4):
        for one in (learner, twin):
            one.learn(stream(200, seed=part))
            one.remove(np.arange(1, 20))
    assert learner.counts["tag"].min() >= 0 and learner.counts["tag"].min() < 200
    for user in range(1, 13):
        assert retrieved(learner, user) == retrieved(twin, user)


def test_forgotten_users_are_strangers():
    learner = Transitions(**SMALL)
    learner.learn(stream(300))
    assert retrieved(learner, 3)
    others = learner.score(of(4))
    learner.forget(np.array([3, 77]))
    assert not retrieved(learner, 3)
    assert np.array_equal(learner.score(of(4)), others)


def test_excluded_items_make_room_for_others():
    learner = Transitions(**SMALL)
    learner.learn(stream(600))
    everything = list(retrieved(learner, 2))
    assert list(retrieved(learner, 2, k=3, exclude=everything[:4])) == everything[4:7]


def test_each_request_has_its_own_exclusions():
    learner = Transitions(**SMALL)
    learner.learn(stream(600))
    first, second, third = list(retrieved(learner, 2))[:3]
    exclude = Exclusion(np.array([first, second, first]), np.array([0, 1, 1, 3]))
    found = learner.retrieve(requests_of([2, 2, 2]), 1, exclude)
    assert found.item.tolist() == [second, first, third]
    assert found.request.tolist() == [0, 1, 2]


def test_changes_are_the_touched_rows():
    learner = Transitions(users=1000, capacity=1000)
    learner.learn(stream(500))
    learner.take_changes()
    learner.learn(feedback_of(user=[5], item=[33], reward=[1]))
    changes = learner.take_changes()
    assert changes["touched.rows"].size == changes["following.rows"].size == 1
    assert changes["pairs.rows"].size <= 20
