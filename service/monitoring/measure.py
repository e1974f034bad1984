"""Interface between learning and measuring: the rows of a micro-batch, their predictions and outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streams.batch import Feedback, Floats, Ids

__all__ = ["SERVING", "Measure", "Scored"]

SERVING = "serving"
"""Name of the served scores in the log, whichever configuration made them."""


class Scored:
    """Predicted rows with their outcomes.

    Parameters
    ----------
    user : (n,) int64
    reward : (n,) float32
    impression : (n,) int64 or None
        Number of each row's impression; None for rows without one.
    predictions : dict of learner to (n,) float32
    """

    __slots__ = ("impression", "predictions", "reward", "user")

    def __init__(self, user: Ids, reward: Floats, impression: Ids | None, predictions: dict[str, Floats]) -> None:
        self.user, self.reward, self.impression, self.predictions = user, reward, impression, predictions


class Measure(Protocol):
    """Measures the quality of predictions."""

    def choose_impressions(self, sizes: Sequence[int]) -> Sequence[int]:
        """Choose impressions that all learners predict, from their numbers of rows; return ascending indices."""

    def choose_rows(self, rows: int) -> Ids | None:
        """Choose rows without an impression that all learners predict; return ascending indices, or None for all."""

    def before_learning(self, feedback: Feedback) -> None:
        """Handle a batch before any learner learns it."""

    def add(self, scored: Scored) -> int:
        """Add predicted rows. Return the number of the first of them, for `revise`."""

    def revise(self, number: int, reward: float) -> None:
        """Replace the reward of a row."""
