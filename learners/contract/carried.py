"""Contract check of `Learner.carry` and of ``carried``, the bytes that a learner gets back at learning time."""

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
"""Lengths of the foreign bytes: typical sizes of small records, sizes next to them, and large ones."""


def check_carried(make: Make) -> None:
    """`carry` returns bytes for each request and does not change the state.

    If the bytes are handed back at once, learning leads to the same state as without them. Foreign bytes do no harm.
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
    _check_foreign_bytes(make)


def _check_bytes(learner: Learner, requests: Requests) -> None:
    untouched = copy.deepcopy(requests)
    carried = learner.carry(requests)
    same_answers(array_fields(requests), array_fields(untouched), "carry wrote to the requests")
    assert requests.carried == untouched.carried, "carry wrote to the requests (carried)"
    if carried is not None:
        assert isinstance(carried, list) and all(type(packed) is bytes for packed in carried), (
            f"carry returned {carried!r:.80}; return None or a list of bytes"
        )
        assert len(carried) == requests.user.size, (
            f"carry returned {len(carried)} bytes objects for {requests.user.size} requests; return one for each"
        )
    assert carried == learner.carry(requests), "carry returned other bytes for the same requests"


def _check_given_back(make: Make) -> None:
    """Bytes of the current state contain nothing new, so learning with them equals learning without them."""
    without, with_bytes = taught(make), taught(make)
    for seed in (6, 7):
        feedback, carrying = world(seed), world(seed)
        carried = with_bytes.carry(carrying)
        if carried is not None:
            carrying.carried[with_bytes.name] = carried
        teach(without, feedback)
        teach(with_bytes, carrying)
        same_learner(without, with_bytes, "learning with the bytes of the current state differs from learning without them")


def _check_foreign_bytes(make: Make) -> None:
    """A learner serves and learns with foreign bytes of any length, and without bytes."""
    rng = np.random.default_rng(0)
    for fill in (None, 0, 255):
        learner = taught(make)
        feedback = world(12)
        own = list(learner.carry(feedback) or [b""] * feedback.user.size)
        for n in range(feedback.user.size):
            size = _LENGTHS[n // 3 % len(_LENGTHS)]
            foreign = rng.bytes(size) if fill is None else bytes([fill]) * size
            own[n] = (foreign, own[n] + foreign, own[n][:size])[n % 3]
        for carried in (own, [b""] * len(own)):
            feedback.carried = {learner.name: carried, "nobody": carried}
            try:
                check_answers(learner, feedback)
                teach(learner, feedback)
                check_answers(learner, feedback)
                check_answers(learner, world(1))
            except Exception as error:
                raise AssertionError(f"foreign bytes in carried: {error}; ignore bytes that carry did not make") from error
