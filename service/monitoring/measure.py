"""What a fold tells those who measure predictions: a micro-batch's rows, their predictions and outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streams.batch import Feedback, Floats, Ids

__all__ = ["SERVING", "Measure", "Scored"]

SERVING = "serving"
"""Name of the scores that were served, as the log has them, whichever configuration made them."""


class Scored:
    """Rows that were predicted, with their outcome.

    Parameters
    ----------
    user : (n,) int64
    reward : (n,) float32
    impression : (n,) int64 or None
        Number of the impression that each row is of; None for rows without one.
    predictions : dict of learner to (n,) float32
    """

    __slots__ = ("impression", "predictions", "reward", "user")

    def __init__(self, user: Ids, reward: Floats, impression: Ids | None, predictions: dict[str, Floats]) -> None:
        self.user, self.reward, self.impression, self.predictions = user, reward, impression, predictions


class Measure(Protocol):
    """Whoever measures the quality of predictions."""

    def choose_impressions(self, sizes: Sequence[int]) -> Sequence[int]:
        """Indices of the impressions, of so many rows each, that learners are to be asked about, ascending."""

    def choose_rows(self, rows: int) -> Ids | None:
        """Indices of the rows without an impression that learners are to be asked about, ascending; None: all."""

    def before_learning(self, feedback: Feedback) -> None:
        """Look at a batch that nobody has learned from."""

    def add(self, scored: Scored) -> int:
        """Take rows in; returns the number of the first of them, for `revise`."""

    def revise(self, number: int, reward: float) -> None:
        """Take note that the outcome of a row was another one."""
