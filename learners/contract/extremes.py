"""Contract check of robustness: extreme numbers in some rows must not ruin a learner for all others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from learners.base import Learner
from learners.contract.answers import Make, check_answers, outputs, teach
from learners.contract.worlds import world
from streams.batch import Feedback

__all__ = ["check_extremes"]

_NUMBER = 4
"""Column of `world` that holds a number under one constant key."""

_MAX_AUC_LOSS = 0.1
"""AUC that a learner may lose to extreme rows, after as much ordinary feedback again."""


def check_extremes(make: Make) -> None:
    """After the largest and smallest numbers of float32, all outputs stay finite and the learner goes on learning."""
    twin = _taught_with(make, world(11, first=5000))
    changes = _learning_changes_outputs(_taught_with(make, world(11, first=5000)))
    for name, change in _EXTREMES.items():
        spoilt = world(11, first=5000)
        change(spoilt)
        learner = make()
        teach(learner, world(5))
        for _ in range(3):
            teach(learner, spoilt)
            for rows in (world(1), world(2, first=700), spoilt):
                try:
                    check_answers(learner, rows)
                except (AssertionError, ArithmeticError) as error:
                    raise AssertionError(f"after {name}: {error}; clip the inputs of learning") from error
        learner = _taught_with(make, spoilt)
        before, after = _auc(twin), _auc(learner)
        assert after > before - _MAX_AUC_LOSS, f"after {name} it stops learning: AUC {after:.3f} instead of {before:.3f}"
        assert _learning_changes_outputs(learner) >= changes, f"after {name} it stops learning: its outputs do not change"


def _taught_with(make: Make, more: Feedback) -> Learner:
    """Return a learner that was taught the world, then `more`, then the world again."""
    learner = make()
    for feedback in (world(5), more, *(world(seed) for seed in range(20, 28))):
        teach(learner, feedback)
    return learner


def _auc(learner: Learner) -> float:
    """Return the AUC of the learner's scores in the world; 0.5 if it has no scores."""
    feedback = world(1)
    answers = outputs(learner, feedback)
    score = answers.get("score", answers.get("reranked"))
    if score is None:
        return 0.5
    positive = feedback.reward > 0
    above = score[positive][:, None] - score[~positive]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def _learning_changes_outputs(learner: Learner) -> bool:
    """Whether the learner's outputs change when it learns."""
    before = outputs(learner, world(1))
    teach(learner, world(30))
    after = outputs(learner, world(1))
    return before.keys() != after.keys() or any(not np.array_equal(before[name], after[name]) for name in before)


def _signs(rows: int) -> npt.NDArray[np.float32]:
    signs: npt.NDArray[np.float32] = np.where(np.arange(rows) % 2, 1, -1).astype(np.float32)
    return signs


def _numbers(size: float) -> Callable[[Feedback], None]:
    def change(feedback: Feedback) -> None:
        feedback.values[:, _NUMBER] = size * _signs(feedback.rows)
        feedback.context_values[:] = size

    return change


def _rewards(good: float, bad: float) -> Callable[[Feedback], None]:
    def change(feedback: Feedback) -> None:
        feedback.reward[:] = np.where(feedback.reward > 0, good, bad)

    return change


def _set(field: str, *cycle: float) -> Callable[[Feedback], None]:
    """Fill a field with these numbers, repeated row by row."""

    def change(feedback: Feedback) -> None:
        array = getattr(feedback, field)
        array[:] = np.resize(np.array(cycle, array.dtype), len(array)).reshape(-1, *[1] * (array.ndim - 1))

    return change


_EXTREMES: dict[str, Callable[[Feedback], None]] = {
    **{f"features of {size}": _numbers(size) for size in (1e-45, 1e-38, 1e20, 3e38)},
    "rewards of 1e30": _rewards(1e30, -1e30),
    "rewards of 1e-38": _rewards(1e-38, 0.0),
    "weights of 1e30": _set("weight", 1e30),
    "weights of 3e38": _set("weight", 3e38),
    "weights of 1e-45": _set("weight", 1e-45),
    "propensities of 0": _set("propensity", 0.0, 1e-45),
    "times of 0 and 1e11": _set("timestamp", 1.7e9, 0.0, 1e11),
    "times of 1e11": _set("timestamp", 1e11),
    "hidden vectors of 3e38": _set("hidden", 3e38, -3e38, 1e-45),
    "scores of 3e38": _set("base", 3e38, -3e38, 1e-45),
    "evidence of 3e38": _set("evidence", 3e38, -3e38, 1e-45),
    "evidence of a retriever that failed": _set("evidence", np.nan),
}
