"""What a learner answers, whatever its role, and what every answer has to be: of the right shape and type, and finite."""

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
"""Items that retrievers are asked for."""

_INTEGERS = {"retrieved item", "retrieved request", "neighbours item"}


def teach(learner: Learner, feedback: Feedback) -> None:
    """Show a learner rows, then let it learn from a copy of them: first what was chosen, where it learns from that."""
    learner.observe(batch_of(feedback))
    if isinstance(learner, Reranker) and learner.needs_evidence:
        learner.choose(choices_of(feedback))
    learner.learn(copy.deepcopy(feedback))


def taught(make: Make) -> Learner:
    """A new learner that has learned the 240 rows of ``world(5)``, 60 at a time."""
    learner = make()
    feedback = world(5)
    for start in range(0, feedback.rows, 60):
        teach(learner, cut(feedback, start, start + 60))
    return learner


def outputs(learner: Learner, feedback: Feedback, k: int = PLACES) -> Outputs:
    """Everything that a learner answers to these rows, whatever its role; the rows are copied first."""
    batch = batch_of(feedback)
    told: Outputs = {}
    if isinstance(learner, Ranker):
        batch.uncertainty = batch.hidden = batch.base = None
        learner.score(batch)
        told = {"score": batch.score, "uncertainty": batch.uncertainty, "hidden": batch.hidden}  # type: ignore[dict-item]
        told["explain"] = learner.explain(batch)  # type: ignore[assignment]
    if isinstance(learner, Retriever):
        told = scored(learner, batch)
        found = learner.retrieve(batch, k, Exclusion.none(batch.user.size))
        told |= {f"retrieved {field.name}": getattr(found, field.name) for field in fields(found)}
    if isinstance(learner, Adapter):
        told |= {f"delta {name}": np.asarray(array) for name, array in arrays_of(learner.adapt(batch))}
    if isinstance(learner, Reranker):
        told["reranked"] = learner.rerank(batch)
        moved_by = learner.explain(batch)
        if moved_by is not None:
            told |= {f"neighbours {field.name}": getattr(moved_by, field.name) for field in fields(moved_by)}
    return {name: array for name, array in told.items() if array is not None}


def scored(retriever: Retriever, batch: Batch) -> Outputs:
    """What a retriever says of given rows: their scores, and their standard errors if it knows them."""
    told: Outputs = {"score": retriever.score(batch)}
    if retriever.knows_uncertainty:
        told["uncertainty"] = retriever.uncertainty(batch)
    for name, array in told.items():
        assert isinstance(array, np.ndarray), f"{name} returned {type(array).__name__}, not an array"
    return told


def check_answers(learner: Learner, feedback: Feedback) -> None:
    """Shapes, types and finite numbers of everything that a learner answers to these rows."""
    n, b = feedback.rows, feedback.user.size
    told = outputs(learner, feedback)
    if isinstance(learner, Adapter):
        try:
            check_delta(learner.adapt(batch_of(feedback)), learner.changes, learner.ranker.adaptable(), b)
        except ArithmeticError as error:
            raise AssertionError(str(error)) from error
    found = told["retrieved item"].size if "retrieved item" in told else 0
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
    for name, array in told.items():
        wanted = np.int64 if name in _INTEGERS else np.float64 if name == "neighbours age" else np.float32
        assert array.dtype == wanted, f"{name} is {array.dtype}, not {np.dtype(wanted)}"
        if name in shapes:
            fits = len(array.shape) == len(shapes[name]) and all(
                w in (None, g) for w, g in zip(shapes[name], array.shape, strict=True)
            )
            assert fits, f"{name} has shape {array.shape}, not {tuple(shapes[name])}"
        assert not np.isnan(array).any(), f"{name} has NaN"
        # An infinite uncertainty means: never tried.
        assert "uncertainty" in name or np.isfinite(array).all(), f"{name} has infinities"
        assert "uncertainty" not in name or (array >= 0).all(), f"{name} is negative"
    if found:
        request = told["retrieved request"]
        assert 0 <= request.min() <= request.max() < b, "candidates of requests that were not made"
        assert (told["retrieved item"] != 0).all(), "item 0, which means none, was retrieved"
