from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from learners.base import Exclusion
from learners.contract.checks import outputs
from learners.contract.worlds import cut, feedback_of, requests_of, world
from learners.retrievers.item_knn import ItemKnn
from memory.stateful import digest

SMALL = {"capacity": 64, "neighbours": 64, "users": 32, "last": 3, "window": 5}
ITEMS = np.arange(1, 41)


class Naive:
    """The docstring's formula, in dictionaries without a capacity."""

    def __init__(self, last, window, shrink, fading):
        self.last, self.window, self.shrink, self.fading = last, window, shrink, fading
        self.count, self.pair, self.liked = defaultdict(float), defaultdict(float), defaultdict(list)

    def learn(self, feedback):
        for n in range(feedback.rows):
            if feedback.reward[n] > 0:
                liked = self.liked[int(feedback.user[feedback.request[n]])]
                item = int(feedback.item[n])
                if item in liked:
                    liked.remove(item)
                else:
                    self.count[item] += feedback.weight[n]
                    for age, other in enumerate(liked):
                        for pair in ((item, other), (other, item)):
                            self.pair[pair] += feedback.weight[n] * (1 + age) ** -self.fading
                liked.insert(0, item)
                del liked[self.window :]

    def remove(self, item):
        for liked in self.liked.values():
            if item in liked:
                liked.remove(item)
        self.count.pop(item, None)
        self.pair = defaultdict(float, {pair: weight for pair, weight in self.pair.items() if item not in pair})

    def score(self, user, item):
        return sum(
            (1 + age) ** -self.fading * self.pair[j, item] / (np.sqrt(self.count[j] * self.count[item]) + self.shrink)
            for age, j in enumerate(self.liked[user][: self.last])
            if (j, item) in self.pair
        )


def stream(rows, seed=0, users=12, items=40, weights=False):
    rng = np.random.default_rng(seed)
    return feedback_of(
        user=rng.integers(1, users + 1, rows),
        item=rng.zipf(1.4, rows) % items + 1,
        reward=rng.integers(-1, 3, rows),
        weight=rng.integers(0, 3, rows) if weights else None,
    )


def scores(learner, user):
    batch = feedback_of(user=np.full(ITEMS.size, user), item=ITEMS, reward=np.zeros(ITEMS.size))
    return learner.score(batch)


def retrieved(learner, user, k=50, exclude=()):
    found = learner.retrieve(requests_of([user]), k, Exclusion(np.array(exclude, np.int64), np.array([0, len(exclude)])))
    return dict(zip(found.item.tolist(), found.score.tolist(), strict=True))


@pytest.mark.parametrize(("shrink", "fading"), [(0.0, 0.0), (5.0, 0.5)])
def test_scores_follow_the_formula(shrink, fading):
    learner, naive = ItemKnn(**SMALL, shrink=shrink, fading=fading), Naive(3, 5, shrink, fading)
    feedback = stream(600)
    learner.learn(feedback)
    naive.learn(feedback)
    for user in range(1, 14):
        expected = np.array([naive.score(user, item) for item in ITEMS])
        assert scores(learner, user) == pytest.approx(expected, rel=1e-5, abs=1e-7)
        found = retrieved(learner, user)
        assert found == pytest.approx({i: s for i, s in zip(ITEMS.tolist(), expected.tolist(), strict=True) if s > 0}, rel=1e-5)
        assert all(one >= other for one, other in pairwise(found.values()))


def test_two_groups_of_users():
    learner = ItemKnn(**SMALL)
    rng = np.random.default_rng(1)
    user = rng.integers(1, 21, 400)
    learner.learn(feedback_of(user=user, item=rng.integers(1, 8, 400) * 2 + user % 2, reward=np.ones(400)))
    learner.learn(feedback_of(user=[30, 31], item=[4, 5], reward=[1, 1]))
    assert all(item % 2 == 0 for item in retrieved(learner, 30)) and len(retrieved(learner, 30)) == 6
    assert all(item % 2 == 1 for item in retrieved(learner, 31)) and len(retrieved(learner, 31)) == 6


@pytest.mark.parametrize("size", [1, 7, 240])
@pytest.mark.parametrize("parameters", [SMALL, {"capacity": 6, "neighbours": 8, "users": 4, "window": 4}])
def test_the_state_does_not_depend_on_the_micro_batch_size(size, parameters):
    feedback = stream(240, seed=3)
    whole, pieces = ItemKnn(**parameters), ItemKnn(**parameters)
    whole.learn(feedback)
    for start in range(0, 240, size):
        pieces.learn(cut(feedback, start, start + size))
    assert digest(pieces.state_dict()) == digest(whole.state_dict())


def test_rows_count_by_their_weights():
    feedback = stream(300, seed=4, weights=True)
    learner, naive = ItemKnn(**SMALL), Naive(3, 5, 5.0, 0.5)
    learner.learn(feedback)
    feedback.reward[feedback.weight == 0] = 0
    naive.learn(feedback)
    assert scores(learner, 3) == pytest.approx([naive.score(3, item) for item in ITEMS], rel=1e-5, abs=1e-7)


def test_a_removed_item_leaves_no_trace():
    learner, naive = ItemKnn(**SMALL), Naive(3, 5, 5.0, 0.5)
    for part in range(4):
        feedback = stream(200, seed=part)
        learner.learn(feedback)
        naive.learn(feedback)
        for item in (2, 3, 5):
            learner.remove(np.array([item, 999]))
            naive.remove(item)
            assert scores(learner, 1)[item - 1] == 0
        for user in range(1, 13):
            expected = [naive.score(user, item) for item in ITEMS]
            assert scores(learner, user) == pytest.approx(expected, rel=1e-5, abs=1e-7)
            assert not {2, 3, 5} & retrieved(learner, user).keys()


def test_evicted_items_leave_no_trace():
    learner, naive = ItemKnn(capacity=4, neighbours=64, users=8, window=9, last=9), Naive(9, 9, 5.0, 0.5)
    feedback = stream(400, seed=5, users=3, items=9)
    newest: list[int] = []
    for n in range(400):
        row = cut(feedback, n, n + 1)
        learner.learn(row)
        if feedback.reward[n] > 0:
            item = int(feedback.item[n])
            newest = [item, *(other for other in newest if other != item)]
            for gone in newest[4:]:
                naive.remove(gone)
            newest = newest[:4]
            naive.learn(row)
    for user in (1, 2, 3):
        assert scores(learner, user) == pytest.approx([naive.score(user, item) for item in ITEMS], rel=1e-5, abs=1e-7)


def test_tags_start_again_after_the_largest():
    learner, twin = ItemKnn(**SMALL), ItemKnn(**SMALL)
    learner.counts["tag"][:] += 64 * ((2**31 - 1) // 64 - 1)
    for part in range(4):
        for one in (learner, twin):
            one.learn(stream(200, seed=part))
            one.remove(np.arange(1, 20))
    assert learner.counts["tag"].min() >= 0 and learner.counts["tag"].min() < 200
    for user in range(1, 13):
        assert retrieved(learner, user) == retrieved(twin, user)


def test_forgotten_users_are_unknown():
    learner = ItemKnn(**SMALL)
    learner.learn(stream(300))
    assert retrieved(learner, 3)
    others = scores(learner, 4)
    learner.forget(np.array([3, 77]))
    assert not retrieved(learner, 3)
    assert np.array_equal(scores(learner, 4), others)


def test_the_strongest_pairs_stay():
    learner = ItemKnn(capacity=200, neighbours=8, users=500, shrink=0.0)
    strong = np.arange(2, 8)
    user = np.repeat(np.arange(1, 61), 2)
    item = np.stack((np.ones(60), np.tile(strong, 10)), axis=1).ravel()
    learner.learn(feedback_of(user=user, item=item, reward=np.ones(120)))
    # A hundred items that were each liked once together with item 1.
    user, item = np.repeat(np.arange(101, 201), 2), np.stack((np.ones(100), np.arange(51, 151)), axis=1).ravel()
    learner.learn(feedback_of(user=user, item=item, reward=np.ones(200)))
    learner.learn(feedback_of(user=[400], item=[1], reward=[1]))
    found = retrieved(learner, 400)
    assert set(strong.tolist()) <= found.keys() and len(found) == 8


def test_changes_are_the_touched_rows():
    learner = ItemKnn(capacity=1000, neighbours=256, users=1000)
    learner.learn(stream(500))
    learner.take_changes()
    learner.learn(feedback_of(user=[5], item=[33], reward=[1]))
    changes = learner.take_changes()
    assert changes["counts.rows"].size == changes["liked.rows"].size == 1
    assert 2 <= changes["pairs.rows"].size <= 2 * 20
    assert sum(array.nbytes for array in changes.values()) < 4000


def test_excluded_items_make_room_for_others():
    learner = ItemKnn(**SMALL)
    learner.learn(stream(600))
    everything = list(retrieved(learner, 2))
    assert list(retrieved(learner, 2, k=3, exclude=everything[:4])) == everything[4:7]


def test_each_request_has_its_own_exclusions():
    learner = ItemKnn(**SMALL)
    learner.learn(stream(600))
    first, second, third = list(retrieved(learner, 2))[:3]
    exclude = Exclusion(np.array([first, second, first]), np.array([0, 1, 1, 3]))
    found = learner.retrieve(requests_of([2, 2, 2]), 1, exclude)
    assert found.item.tolist() == [second, first, third]
    assert found.request.tolist() == [0, 1, 2]


def test_one_call_for_many_requests():
    learner = ItemKnn(**SMALL)
    learner.learn(world(1))
    together = outputs(learner, world(2))
    feedback = world(2)
    for b in range(feedback.user.size):
        alone = outputs(learner, cut(feedback, *np.searchsorted(feedback.request, [b, b + 1])))
        mine = together["retrieved request"] == b
        assert np.array_equal(together["retrieved item"][mine], alone["retrieved item"])
        assert np.array_equal(together["retrieved score"][mine], alone["retrieved score"])


def test_evidence_is_the_log_of_the_score_and_whether_there_is_one():
    learner = ItemKnn(**SMALL)
    learner.learn(feedback_of(user=[1, 1, 2], item=[10, 11, 10], reward=[1, 1, 1]))
    rows = feedback_of(user=[2, 2, 9], item=[11, 12, 11], reward=[0, 0, 0])
    score = 1 / (np.sqrt(2) + 5)  # one pair; 10 was liked twice, 11 once
    expected = [[np.log(score + 0.001), 1], [np.log(0.001), 0], [np.log(0.001), 0]]
    assert learner.evidence(rows) == pytest.approx(np.array(expected), rel=1e-5)
    assert [(column.name, column.prior, column.by_activity) for column in learner.evidence_columns] == [
        ("log_score", 1.0, True),
        ("found", 0.0, False),
    ]
