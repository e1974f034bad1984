"""Assertions that two learners, or two outputs, are equal."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from learners.base import Learner
from learners.contract.answers import Outputs, outputs
from learners.contract.worlds import world
from memory.stateful import State, digest, without_private
from streams.batch import Feedback, Requests

__all__ = ["array_fields", "digest_of", "same_answers", "same_follower", "same_learner", "tolerance_of"]


def digest_of(learner: Learner) -> str | None:
    """Digest of a learner's state. None if equal states may have different bytes."""
    return digest(learner.state_dict()) if learner.digest_stable else None


def tolerance_of(learner: Learner) -> float:
    """Allowed difference between two equally trained learners. It is 0 unless a store is on a GPU."""
    devices = {getattr(store, "device", "cpu") for _, store in learner.stores()}
    return 0.0 if devices <= {"cpu"} else learner.tolerance


def array_fields(batch: Requests) -> Outputs:
    """Arrays of a batch by field name."""
    pairs = ((field.name, getattr(batch, field.name)) for field in fields(batch))
    return {name: array for name, array in pairs if isinstance(array, np.ndarray)}


def same_answers(one: Outputs, other: Outputs, complaint: str, tolerance: float = 0.0) -> None:
    """Raise AssertionError with this complaint and the array's name if arrays differ by more than `tolerance`.

    The tolerance is both absolute and relative. With 0, or for integers, arrays must be equal.
    """
    assert one.keys() == other.keys(), complaint
    for name, array in one.items():
        floats = array.dtype.kind == "f"
        if tolerance and floats and array.shape == other[name].shape:
            same = np.allclose(array, other[name], rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            same = np.array_equal(array, other[name], equal_nan=floats)
        assert same, f"{complaint} ({name})"


def same_learner(one: Learner, other: Learner, complaint: str, *more: Feedback) -> None:
    """Raise AssertionError with this complaint if the states or outputs of two learners differ."""
    _same(one, other, one.state_dict(), other.state_dict(), complaint, more)


def same_follower(leader: Learner, follower: Learner, complaint: str, *more: Feedback) -> None:
    """Check like `same_learner`, but without private state, which a follower has only as of its last checkpoint."""
    states = without_private(leader, leader.state_dict()), without_private(follower, follower.state_dict())
    _same(leader, follower, *states, complaint, more)


def _same(one: Learner, other: Learner, state: State, other_state: State, complaint: str, more: tuple[Feedback, ...]) -> None:
    tolerance = max(tolerance_of(one), tolerance_of(other))
    if tolerance:
        same_answers(state, other_state, complaint, tolerance)
    elif one.digest_stable:
        assert digest(state) == digest(other_state), complaint
    for feedback in (world(1), *more):
        same_answers(outputs(one, feedback), outputs(other, feedback), complaint, tolerance)
