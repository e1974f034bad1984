"""The highest scores from a short list of candidates are those of a search through all of them."""

from __future__ import annotations

import numpy as np
import pytest

from learners.kernels import leaders
from learners.kernels.leaders import Leaders
from learners.kernels.top_k import top_k

SLOTS = np.arange(500)


@pytest.fixture
def short_lists(monkeypatch):
    monkeypatch.setattr(leaders, "ROOM", 16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_the_first_are_those_of_all_scores(short_lists, seed, dtype):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 6, SLOTS.size).astype(dtype)  # many are equal
    found = Leaders(score)
    for _ in range(300):
        slots = rng.integers(-1, SLOTS.size, rng.integers(1, 20))
        kept = slots[slots >= 0]
        score[kept] = np.maximum(score[kept] + rng.choice([-3, -1, 1, 1, 2], kept.size), 0)
        found.changed(slots)
        k = int(rng.integers(0, 40))
        assert found.top(k).tolist() == top_k(score, SLOTS, k).tolist()


def test_scores_that_only_grow_are_looked_at_once(short_lists, monkeypatch):
    searches = []
    monkeypatch.setattr(leaders, "top_k", lambda *given: searches.append(given) or top_k(*given))
    rng = np.random.default_rng(0)
    score = np.zeros(SLOTS.size)
    found = Leaders(score)
    found.top(5)
    for _ in range(200):
        slots = rng.integers(0, SLOTS.size, 10)
        score[slots] += 1
        found.changed(slots)
        assert found.top(5).tolist() == top_k(score, SLOTS, 5).tolist()
    assert len(searches) <= 1 + 1  # at first, and once as the first zeros have gone


def test_any_score_may_have_changed_after_a_reset():
    score = np.array([1.0, 2.0, 3.0])
    found = Leaders(score)
    assert found.top(2).tolist() == [2, 1]
    score[:] = 3.0, 2.0, 0.0
    found.reset()
    assert found.top(3).tolist() == [0, 1]


def test_each_request_has_its_own_exclusions():
    found = Leaders(np.array([4.0, 3.0, 2.0, 1.0]))
    slot, request = found.without(np.array([0, -1, 1, 0, 1, 2, 3]), np.array([0, 2, 3, 7]), 2)
    assert [slot[request == b].tolist() for b in range(3)] == [[1, 2], [0, 2], []]
    assert found.without(np.array([0]), np.array([0, 1]), 0)[0].size == 0
