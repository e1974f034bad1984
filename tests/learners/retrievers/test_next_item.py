"""The retriever of the next item in worlds where the order of likes says what comes next."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import Exclusion
from learners.contract.worlds import cut, feedback_of
from learners.retrievers.next_item import NextItem
from memory.stateful import digest

SMALL = {
    "items": 64,
    "users": 64,
    "length": 24,
    "width": 16,
    "chunk": 4,
    "chunks": 4,
    "every": 16,
    "batch": 16,
    "learning_rate": 0.01,
    "warm_up": 10,
    "dropout": 0.0,
}
ITEMS = 20


def cycle(rows, seed=0, users=16):
    """Users who like item n + 1 after item n, with time stamps of whole seconds; rows in turn."""
    rng = np.random.default_rng(seed)
    at = rng.integers(0, ITEMS, users)
    user, item = np.arange(rows) % users, np.empty(rows, np.int64)
    for n in range(rows):
        item[n] = at[user[n]] % ITEMS
        at[user[n]] += 1
    feedback = feedback_of(user=user + 1, item=item + 101, reward=np.ones(rows), timestamp=1e9 + np.arange(rows))
    for n in range(rows):
        mine = np.flatnonzero(user[:n] == user[n])[::-1][:5]
        feedback.history[n, : mine.size] = item[mine] + 101
        feedback.history_time[n, : mine.size] = feedback.timestamp[mine]
    return feedback


@pytest.fixture(scope="module")
def taught():
    learner, feedback = NextItem(**SMALL), cycle(1600)
    for start in range(0, 1600, 40):
        learner.learn(cut(feedback, start, start + 40))
    return learner


def test_it_learns_what_follows(taught):
    asked = cut(cycle(1664), 1600, 1664)
    found = taught.retrieve(asked, 1, Exclusion.none(64))
    assert (found.item == asked.item).mean() > 0.9


def test_what_follows_is_what_serving_saw(taught):
    asked = cut(cycle(1664), 1600, 1601)
    asked.history[:], asked.history_time[:] = 0, 0
    asked.history[0, 0], asked.history_time[0, 0] = 110, 2e9  # not stored yet
    assert taught.retrieve(asked, 1, Exclusion.none(1)).item.tolist() == [111]


def test_a_user_without_likes_gets_the_items_biases(taught):
    asked = cut(cycle(1664), 1600, 1601)
    asked.user[:], asked.history[:] = 999, 0
    biases = taught.model.network.module.items.weight[:, -1].detach().numpy()
    expected = biases[taught.model.items.find(asked.item)]
    assert taught.score(asked) == pytest.approx(expected, abs=1e-6)


def test_scores_of_unknown_items_are_0_and_evidence_says_so(taught):
    asked = cut(cycle(1664), 1600, 1602)
    asked.item[1] = 31337
    evidence = taught.evidence(asked)
    assert evidence[:, 1].tolist() == [1, 0]
    assert evidence[1, 0] == 0
    assert evidence[0, 0] == taught.score(asked)[0]


def test_results_do_not_depend_on_the_micro_batch():
    one, other, feedback = NextItem(**SMALL), NextItem(**SMALL), cycle(320)
    for start in range(0, 320, 64):
        one.learn(cut(feedback, start, start + 64))
    for start in range(0, 320, 7):
        other.learn(cut(feedback, start, min(start + 7, 320)))
    assert digest(one.state_dict()) == digest(other.state_dict())


def test_an_item_that_takes_a_slot_begins_anew():
    learner = NextItem(**SMALL | {"items": 20})
    feedback = cycle(320)
    learner.learn(feedback)
    oldest = int(learner.model.items.keys[learner.model.items.slots()[0]])
    slot = learner.model.items.find(np.array([oldest]))
    learner.learn(feedback_of(user=[1], item=[500], reward=[1], timestamp=[2e9]))
    assert learner.model.items.find(np.array([500])) == slot
    assert learner.model.items.find(np.array([oldest])) == -1
    assert not learner.model.network.module.items.weight[int(slot[0])].any()
    assert learner.model.counts["likes"][slot] == 1


def test_a_drawn_softmax_learns_too():
    learner, feedback = NextItem(**SMALL | {"exact": 5, "drawn": 8}), cycle(1600)
    for start in range(0, 1600, 40):
        learner.learn(cut(feedback, start, start + 40))
    asked = cut(cycle(1664), 1600, 1664)
    assert (learner.retrieve(asked, 1, Exclusion.none(64)).item == asked.item).mean() > 0.8


def test_rows_that_are_no_likes_teach_nothing():
    learner, feedback = NextItem(**SMALL), cycle(64)
    before = digest(learner.state_dict())
    feedback.reward[:32], feedback.correction[32:] = 0, True
    learner.learn(feedback)
    assert digest(learner.state_dict()) == before


@pytest.mark.parametrize(
    ("keywords", "complaint"),
    [
        ({"width": 33}, "width: 33, which is not a multiple of heads, 2; give 34"),
        ({"length": 20}, "length: 20, less than three chunks of 8; give 24 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(keywords, complaint):
    with pytest.raises(ValueError, match=complaint):
        NextItem(**keywords)
