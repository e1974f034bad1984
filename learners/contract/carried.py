"""The check of `Learner.carry` and of ``carried``: what a learner wants back at learning time."""

from __future__ import annotations

import copy

import numpy as np

from learners.base import Learner
from learners.contract.answers import Make, check_answers, taught, teach
from learners.contract.equality import array_fields, digest_of, same_answers, same_learner
from learners.contract.worlds import cut, requests_of, world
from streams.batch import Requests

__all__ = ["check_carried"]

_LENGTHS = (0, 1, 7, 8, 12, 16, 23, 24, 25, 32, 36, 48, 60, 64, 100, 255, 1000, 4096)
"""Lengths of the bytes that are not a learner's own: sizes of small records, some beside them, and large ones."""


def check_carried(make: Make) -> None:
    """`carry` returns bytes for each request and changes nothing.

    Given back at once, the bytes lead to the same state as learning without them. Other bytes in their place do no harm.
    """
    for learner in (make(), taught(make)):
        learner.take_changes()
        before = digest_of(learner)
        for requests in (world(1), world(2, first=700), cut(world(1), 0, 0), requests_of([5, 0, 5])):
            _check_bytes(learner, requests)
        assert before is None or before == digest_of(learner), "carry changed the state"
        assert before is None or not learner.take_changes(), "carry left changes to ship"
    same_learner(learner, taught(make), "carry changed later answers")
    _check_given_back(make)
    _check_rubbish(make)


def _check_bytes(learner: Learner, requests: Requests) -> None:
    untouched = copy.deepcopy(requests)
    told = learner.carry(requests)
    same_answers(array_fields(requests), array_fields(untouched), "carry wrote to the requests")
    assert requests.carried == untouched.carried, "carry wrote to the requests (carried)"
    if told is not None:
        assert isinstance(told, list) and all(type(one) is bytes for one in told), (
            f"carry returned {told!r:.80}; return None or a list of bytes"
        )
        assert len(told) == requests.user.size, f"carry returned {len(told)} bytes objects for {requests.user.size} requests"
    assert told == learner.carry(requests), "carry returned other bytes for the same requests"


def _check_given_back(make: Make) -> None:
    """Bytes that were made from the present state say nothing new: learning with them is learning without them."""
    at_once, later = taught(make), taught(make)
    for seed in (6, 7):
        feedback, carrying = world(seed), world(seed)
        told = later.carry(carrying)
        if told is not None:
            carrying.carried[later.name] = told
        teach(at_once, feedback)
        teach(later, carrying)
        same_learner(at_once, later, "learning with what carry gave differs from learning at once")


def _check_rubbish(make: Make) -> None:
    """A learner answers and learns whatever bytes it is given, of any length, and when there are none."""
    rng = np.random.default_rng(0)
    for fill in (None, 0, 255):
        learner = taught(make)
        feedback = world(12)
        told = list(learner.carry(feedback) or [b""] * feedback.user.size)
        for n in range(feedback.user.size):
            size = _LENGTHS[n // 3 % len(_LENGTHS)]
            rubbish = rng.bytes(size) if fill is None else bytes([fill]) * size
            told[n] = (rubbish, told[n] + rubbish, told[n][:size])[n % 3]
        for carried in (told, [b""] * len(told)):
            feedback.carried = {learner.name: carried, "nobody": carried}
            try:
                check_answers(learner, feedback)
                teach(learner, feedback)
                check_answers(learner, feedback)
                check_answers(learner, world(1))
            except Exception as error:
                raise AssertionError(f"carried with foreign bytes: {error}; ignore bytes that carry did not make") from error
