"""A step of SAR has two passes. Between them, a ranking may come, a state may be saved, and a user may be forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from learners.adapters.sar import SharpnessAwareReliable
from learners.contract.worlds import batch_of, world
from memory.stateful import digest
from streams.batch import Batch
from tests.learners.adapters.changing import FREE, sar, teach_worlds

REQUESTS = 8


def requests(first: int, last: int) -> Batch:
    """Some requests of a world that was not learned, of those with more than one candidate."""
    batch = batch_of(world(30))
    slates = np.flatnonzero(np.bincount(batch.request) > 1)[first:last]
    return batch.take(np.flatnonzero(np.isin(batch.request, slates)))


@pytest.fixture
def halfway() -> SharpnessAwareReliable:
    """An adapter that has just done the first pass of a step."""
    adapter = sar(**FREE)
    teach_worlds(adapter, range(5, 8))
    adapter.clear()
    while len(adapter.waiting):
        adapter.waiting.take()
    adapter.observe(requests(0, REQUESTS))
    assert adapter.halfway["open"][0] and not adapter.delta.any()
    return adapter


def test_the_second_pass_comes_with_the_next_requests(halfway: SharpnessAwareReliable) -> None:
    steps = halfway.metrics()["steps"]
    halfway.observe(requests(REQUESTS, REQUESTS + 1))
    assert halfway.metrics()["steps"] == steps + 1
    assert halfway.delta.any() and len(halfway.waiting) == 1


def test_a_state_that_was_saved_between_the_passes_goes_on_alike(halfway: SharpnessAwareReliable) -> None:
    other = sar(**FREE)
    other.ranker.load_state_dict(halfway.ranker.state_dict())
    other.load_state_dict(halfway.state_dict())
    for adapter in (halfway, other):
        adapter.observe(requests(REQUESTS, 2 * REQUESTS + 2))
    assert digest(other.state_dict()) == digest(halfway.state_dict())
    assert halfway.delta.any()


def test_a_step_without_one_of_its_users_begins_again(halfway: SharpnessAwareReliable) -> None:
    steps, users = halfway.metrics()["steps"], halfway.waiting.requests["user"][:REQUESTS].copy()
    halfway.forget(users[:1])
    left = len(halfway.waiting)
    assert left == (users != users[0]).sum() and not halfway.halfway["open"][0]
    halfway.observe(requests(REQUESTS, REQUESTS + 1))
    assert halfway.metrics()["steps"] == steps and not halfway.delta.any()
    assert len(halfway.waiting) == left + 1


def test_a_reset_between_the_passes_drops_the_step(halfway: SharpnessAwareReliable) -> None:
    halfway.reset("labels")
    assert not halfway.halfway["open"][0] and len(halfway.waiting) == 0 and not halfway.delta.any()
