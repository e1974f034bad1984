"""Collects the outputs of a learner of any role, and checks their shapes, types and finiteness."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from learners.base import Adapter, Exclusion, Learner, Neighbours, Ranker, Reranker, Retriever
from learners.contract.worlds import batch_of, choices_of, cut, world
from learners.delta import arrays_of, check_delta
from streams.batch import Batch, Feedback

__all__ = ["PLACES", "Make", "Outputs", "check_answers", "outputs", "scored", "taught", "teach"]

Make = Callable[[], Learner]
Outputs = dict[str, npt.NDArray[Any]]

PLACES = 7
"""Number of items that the checks ask retrievers for."""

_INTEGERS = {"retrieved item", "retrieved request", "neighbours item"}


def teach(learner: Learner, feedback: Feedback) -> None:
    """Let a learner observe the rows, learn from their choices if it can, and then learn from a copy of them."""
    learner.observe(batch_of(feedback))
    if isinstance(learner, Reranker) and learner.needs_evidence:
        learner.choose(choices_of(feedback))
    learner.learn(copy.deepcopy(feedback))


def taught(make: Make) -> Learner:
    """Return a new learner that has learned the 240 rows of ``world(5)``, 60 at a time."""
    learner = make()
    feedback = world(5)
    for start in range(0, feedback.rows, 60):
        teach(learner, cut(feedback, start, start + 60))
    return learner


def outputs(learner: Learner, feedback: Feedback, k: int = PLACES) -> Outputs:
    """Return all outputs of a learner of any role for a copy of these rows, by name."""
    batch = batch_of(feedback)
    found: Outputs = {}
    if isinstance(learner, Ranker):
        batch.uncertainty = batch.hidden = batch.base = None
        learner.score(batch)
        found = {"score": batch.score, "uncertainty": batch.uncertainty, "hidden": batch.hidden}  # type: ignore[dict-item]
        found["explain"] = learner.explain(batch)  # type: ignore[assignment]
    if isinstance(learner, Retriever):
        found = scored(learner, batch)
        candidates = learner.retrieve(batch, k, Exclusion.none(batch.user.size))
        found |= {f"retrieved {field.name}": getattr(candidates, field.name) for field in fields(candidates)}
    if isinstance(learner, Adapter):
        found |= {f"delta {name}": np.asarray(array) for name, array in arrays_of(learner.adapt(batch))}
    if isinstance(learner, Reranker):
        found["reranked"] = learner.rerank(batch)
        neighbours = learner.explain(batch)
        if neighbours is not None:
            found |= {f"neighbours {field.name}": getattr(neighbours, field.name) for field in fields(neighbours)}
        found |= {f"value {name}": np.nan_to_num(value) for name, value in learner.values(batch).items()}
    return {name: array for name, array in found.items() if array is not None}


def scored(retriever: Retriever, batch: Batch) -> Outputs:
    """Return a retriever's scores of the rows, and their standard errors if it estimates them."""
    found: Outputs = {"score": retriever.score(batch)}
    if retriever.knows_uncertainty:
        found["uncertainty"] = retriever.uncertainty(batch)
    for name, array in found.items():
        assert isinstance(array, np.ndarray), f"{name} returned {type(array).__name__}, not an array"
    return found


def check_answers(learner: Learner, feedback: Feedback) -> None:
    """Check the shape, type and finiteness of every output of a learner for these rows."""
    n, b = feedback.rows, feedback.user.size
    answers = outputs(learner, feedback)
    if isinstance(learner, Adapter):
        try:
            check_delta(learner.adapt(batch_of(feedback)), learner.changes, learner.ranker.adaptable(), b)
        except ArithmeticError as error:
            raise AssertionError(str(error)) from error
    found = answers["retrieved item"].size if "retrieved item" in answers else 0
    shapes: dict[str, Sequence[int | None]] = {
        "score": (n,),
        "uncertainty": (n,),
        "hidden": (n, None),
        "explain": (n, feedback.features.shape[1]),
        "reranked": (n,),
        **{f"neighbours {field.name}": (n, None) for field in fields(Neighbours)},
        "retrieved item": (found,),
        "retrieved request": (found,),
        "retrieved score": (found,),
        "retrieved uncertainty": (found,),
    }
    for name, array in answers.items():
        expected = np.int64 if name in _INTEGERS else np.float64 if name == "neighbours age" else np.float32
        assert array.dtype == expected, f"{name} is {array.dtype}, not {np.dtype(expected)}"
        if name in shapes:
            fits = len(array.shape) == len(shapes[name]) and all(
                w in (None, g) for w, g in zip(shapes[name], array.shape, strict=True)
            )
            assert fits, f"{name} has shape {array.shape}, not {tuple(shapes[name])}"
        assert not np.isnan(array).any(), f"{name} has NaN"
        # An infinite uncertainty is allowed: the item was never shown.
        assert "uncertainty" in name or np.isfinite(array).all(), f"{name} has infinities"
        assert "uncertainty" not in name or (array >= 0).all(), f"{name} is negative"
    if found:
        request = answers["retrieved request"]
        assert 0 <= request.min() <= request.max() < b, "candidates refer to requests that do not exist"
        assert (answers["retrieved item"] != 0).all(), "item 0 was retrieved; 0 means no item"
