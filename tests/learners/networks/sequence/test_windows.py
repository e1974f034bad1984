"""Which events a window has."""

from __future__ import annotations

import numpy as np
import pytest

from learners.contract.worlds import requests_of
from learners.networks.sequence.candidates import distinct, softmax_items
from learners.networks.sequence.windows import before, gap_rows, stretches
from memory.keyed.history import History

CHUNK = 3


def stored(events, length=12, users=4):
    """The likes of user 5: item 101 at second 1, item 102 at second 2, and so on."""
    sequences = History(users, length)
    number = np.arange(1, events + 1)
    sequences.append(np.full(events, 5), 100 + number, number.astype(float), np.ones(events, np.int32), np.ones(events, bool))
    return sequences


def request(newest, count=4):
    """A request of user 5 whose history's newest event is this one."""
    made = requests_of([5], now=1000.0)
    number = np.arange(newest, max(newest - count, 0), -1)
    made.history = np.zeros((1, 4), np.int64)
    made.history[0, : number.size] = 100 + number
    made.history_time = np.zeros((1, 4))
    made.history_time[0, : number.size] = number
    return made


@pytest.mark.parametrize(("events", "first"), [(1, 1), (3, 1), (4, 1), (6, 1), (7, 4), (9, 4), (10, 7), (12, 7)])
def test_a_window_is_the_chunk_of_the_last_event_and_the_one_before(events, first):
    found = before(stored(events), request(events), CHUNK)
    expected = list(range(100 + first, 100 + events + 1))
    assert found.item[0].tolist() == [0] * (2 * CHUNK - len(expected)) + expected
    assert found.number.tolist() == [events]
    assert found.time[0, -1] == 1000.0
    assert found.time[0, -2] == events


@pytest.mark.parametrize("newest", [1, 4, 7, 8])
def test_the_window_of_an_older_request_is_the_one_of_then(newest):
    late = before(stored(10), request(newest), CHUNK)
    then = before(stored(newest), request(newest), CHUNK)
    for ours, theirs in zip(late, then, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("ahead", [1, 2])
def test_events_that_are_not_stored_yet_come_from_the_history(ahead):
    early = before(stored(8), request(8 + ahead), CHUNK)
    later = before(stored(8 + ahead), request(8 + ahead), CHUNK)
    for ours, theirs in zip(early, later, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_user_who_is_not_stored_has_the_history():
    sequences = History(4, 12)
    assert before(sequences, request(4), CHUNK).item[0].tolist() == [0, 0, 101, 102, 103, 104]
    assert before(sequences, requests_of([5]), CHUNK).number.tolist() == [0]


def test_without_a_history_the_last_stored_event_is_the_newest():
    made = requests_of([5])
    made.history, made.history_time = np.zeros((1, 0), np.int64), np.zeros((1, 0))
    assert before(stored(7), made, CHUNK).item[0].tolist() == [0, 0, 104, 105, 106, 107]


def test_a_stretch_ends_with_the_next_event():
    found = stretches(stored(10), np.zeros(1, np.int64), np.array([8]), 2, CHUNK)
    # Event 8 is the next one of event 7, the first of the third chunk. The stretch has that chunk and two before.
    assert found.item[0].tolist() == [101, 102, 103, 104, 105, 106, 107, 108, 0, 0]
    sequences = stored(20)  # the first 8 are not stored any more
    found = stretches(sequences, np.zeros(1, np.int64), np.array([14]), 2, CHUNK)
    assert found.item[0].tolist() == [0, 0, 109, 110, 111, 112, 113, 114, 0, 0]


def test_rows_of_times():
    time = np.array([[0.0, 10.0, 10.0, 13.0, 1e12]])
    assert gap_rows(time, 8).tolist() == [[0, 1, 3, 7]]


def test_a_softmax_over_all_items_has_no_correction():
    items = softmax_items(np.array([0, 2, 0, 1], np.float32), np.array([3]), 2, 5, np.random.default_rng(0))
    assert items.item.tolist() == [1, 3]
    assert items.correction.tolist() == [0, 0]


def test_a_drawn_softmax_estimates_the_whole_one():
    rng = np.random.default_rng(3)
    likes, logit = rng.integers(1, 50, 400).astype(np.float32), rng.normal(size=400)
    estimates = []
    for _ in range(400):
        drawn = softmax_items(likes, np.array([7]), 10, 60, rng)
        estimates.append(np.exp(logit[drawn.item] + drawn.correction).sum())
        assert 7 in drawn.item
    assert np.mean(estimates) == pytest.approx(np.exp(logit).sum(), rel=0.05)


def test_distinct_numbers():
    assert distinct(6, np.array([4, 1, 4]), np.array([0])).tolist() == [0, 1, 4]
