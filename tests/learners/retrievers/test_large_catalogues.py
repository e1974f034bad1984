"""Retrievers that keep vectors of items in lists, where there are too many to compare a request with all of them."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import Exclusion, Retriever
from learners.contract.checks import checks_for
from learners.contract.small import bound
from learners.contract.worlds import cut, feedback_of
from learners.registry import build, find
from memory.stateful import digest

NAMES = ("two_tower", "next_item")
EVERY_LIST = 10_000
ITEMS, GROUPS = 600, 12

LARGE = {
    "two_tower": {"items": ITEMS, "dim": 8, "hidden": 8, "bits": 12},
    "next_item": {"items": ITEMS, "users": 64, "length": 24, "width": 8, "chunk": 4, "every": 16, "learning_rate": 0.02},
}


def make(name, **keywords):
    return build(Retriever, name, LARGE[name] | keywords)


def clicks(rows, seed=0, first=0):
    """Users who like items of their group; the columns of the towers are ids alone."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 40, rows)
    item = (rng.integers(0, ITEMS // GROUPS, rows) * GROUPS + user % GROUPS) % ITEMS
    return feedback_of(user=user + 1, item=item + 1001, reward=np.ones(rows), timestamp=1e9 + first + np.arange(rows))


def taught(learner, rows=3000, seed=0):
    feedback = clicks(rows, seed)
    every_item = feedback_of(user=np.full(ITEMS, 50), item=np.arange(ITEMS) + 1001, reward=np.ones(ITEMS))
    for start in range(0, ITEMS, 50):
        learner.learn(cut(every_item, start, start + 50))
    for start in range(0, rows, 50):
        learner.learn(cut(feedback, start, start + 50))
    return learner


def answers(learner, k=20, exclude=None):
    asked = cut(clicks(40, seed=9), 0, 16)
    return learner.retrieve(asked, k, exclude or Exclusion.none(16))


def shared(one, other):
    """Share of one learner's pairs of request and item that another one has."""
    pairs = [set(zip(found.request.tolist(), found.item.tolist(), strict=True)) for found in (one, other)]
    return len(pairs[0] & pairs[1]) / len(pairs[0])


@pytest.mark.parametrize(
    ("name", "check"),
    [pytest.param(name, check, id=f"{name}-{check.__name__}") for name in NAMES for check in checks_for(find(Retriever, name))],
)
def test_the_contract_holds_with_lists(name, check):
    small = find(Retriever, name).checks_parameters | {"exhaustive": 0}
    check(bound(lambda: build(Retriever, name, small)))


@pytest.mark.parametrize("name", NAMES)
def test_a_search_of_every_list_is_exact(name):
    exact, lists = taught(make(name)), taught(make(name, exhaustive=0, probes=EVERY_LIST))
    lists.add(np.arange(ITEMS) + 1001)  # every vector is as of now
    assert lists.index.inverted.generation > 0
    exclude = Exclusion(np.arange(16) + 1001, np.arange(17))
    for k in (1, 20, ITEMS + 5):
        one, other = answers(exact, k, exclude), answers(lists, k, exclude)
        assert one.item.tolist() == other.item.tolist()
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert not (other.item == exclude.item[other.request]).any()


def test_few_lists_have_most_of_the_nearest_while_vectors_change():
    exact, lists = taught(make("two_tower")), taught(make("two_tower", exhaustive=0, probes=16))
    assert lists.index.inverted.lists == 49
    assert shared(answers(exact), answers(lists)) > 0.95
    for learner in (exact, lists):  # a fifth of the items is learned again
        taught(learner, 120, seed=3)
    assert shared(answers(exact), answers(lists)) > 0.9


def test_vectors_that_nobody_learns_are_computed_in_turn():
    learner = taught(make("two_tower", exhaustive=0))
    slot = int(learner.items.find(np.array([1600]))[0])
    before = learner.index.rows["vector"][slot].copy()
    one = feedback_of(user=np.ones(100), item=np.tile([1001, 1002], 50), reward=np.tile([1, 0], 50))
    for _ in range(ITEMS // 100):
        learner.learn(one)
    assert not np.array_equal(learner.index.rows["vector"][slot], before)


def test_stored_vectors_follow_towers_that_learn_fast():
    size, rows = 6000, 1000
    rng = np.random.default_rng(1)
    user = rng.integers(0, 40, rows)
    item = rng.integers(0, size // GROUPS, rows) * GROUPS + user % GROUPS
    feedback = feedback_of(user=user + 1, item=item + 1001, reward=np.ones(rows))
    exact = make("two_tower", items=size, learning_rate=1.0)
    lists = make("two_tower", items=size, learning_rate=1.0, exhaustive=0, probes=EVERY_LIST)
    for learner in (exact, lists):
        learner.add(np.arange(size) + 1001)
        for start in range(0, rows, 50):
            learner.learn(cut(feedback, start, start + 50))
    assert shared(answers(exact), answers(lists)) > 0.95
    assert lists.metrics()["drift"] > 0.02


def test_stored_vectors_that_have_not_moved_are_not_shipped():
    learner = taught(make("two_tower", exhaustive=0))
    one = feedback_of(user=np.ones(100), item=np.full(100, 1001), reward=np.ones(100))
    for _ in range(20):  # a single item teaches the towers nothing: every stored vector becomes current
        learner.learn(one)
    assert learner.metrics()["drift"] < 1e-3
    learner.take_changes()
    before = int(learner.turn["slot"][0])
    learner.learn(one)
    assert learner.take_changes()["index.rows.rows"].tolist() == learner.items.find(np.array([1001])).tolist()
    assert int(learner.turn["slot"][0]) == (before + 100) % ITEMS, "one item is looked at for each row"


@pytest.mark.parametrize("name", NAMES)
def test_removed_and_evicted_items_are_not_found(name):
    learner = taught(make(name, exhaustive=0, probes=EVERY_LIST))
    learner.remove(np.arange(1001, 1011))
    assert not np.isin(answers(learner, ITEMS).item, np.arange(1001, 1011)).any()
    new = np.arange(5000, 5000 + ITEMS)
    learner.learn(feedback_of(user=np.ones(ITEMS), item=new, reward=np.ones(ITEMS)))
    assert set(answers(learner, ITEMS).item.tolist()) == set(new.tolist())


@pytest.mark.parametrize("name", NAMES)
def test_a_follower_answers_alike(name):
    leader, follower = make(name, exhaustive=0), make(name, exhaustive=0)
    feedback = clicks(3000)
    for start in range(0, 3000, 50):
        leader.learn(cut(feedback, start, start + 50))
        follower.apply_changes(leader.take_changes())
    assert answers(leader).item.tolist() == answers(follower).item.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_state_continues_like_the_saved_one(name):
    learner, loaded = taught(make(name, exhaustive=0)), make(name, exhaustive=0)
    loaded.load_state_dict(learner.state_dict())
    for each in (learner, loaded):
        taught(each, 200, seed=5)
    assert digest(learner.state_dict()) == digest(loaded.state_dict())
    assert answers(learner).item.tolist() == answers(loaded).item.tolist()
