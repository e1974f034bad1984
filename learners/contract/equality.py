"""When two learners, or two answers, are equal."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from learners.base import Learner
from learners.contract.answers import Outputs, outputs
from learners.contract.worlds import world
from memory.stateful import digest
from streams.batch import Feedback, Requests

__all__ = ["array_fields", "digest_of", "same_answers", "same_learner"]


def digest_of(learner: Learner) -> str | None:
    """Digest of a learner's state; None where equal states may have different bytes."""
    return digest(learner.state_dict()) if learner.digest_stable else None


def array_fields(batch: Requests) -> Outputs:
    """The arrays of a batch by their field's name."""
    pairs = ((field.name, getattr(batch, field.name)) for field in fields(batch))
    return {name: array for name, array in pairs if isinstance(array, np.ndarray)}


def same_answers(one: Outputs, other: Outputs, complaint: str) -> None:
    """Raise AssertionError with this complaint, and the field, where two answers differ in any bit."""
    assert one.keys() == other.keys(), complaint
    for name in one:
        assert np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f"), f"{complaint} ({name})"


def same_learner(one: Learner, other: Learner, complaint: str, *more: Feedback) -> None:
    """Raise AssertionError with this complaint where two learners' states or answers differ."""
    assert digest_of(one) == digest_of(other), complaint
    for feedback in (world(1), *more):
        same_answers(outputs(one, feedback), outputs(other, feedback), complaint)
