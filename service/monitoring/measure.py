"""Interface between learning and measuring: the rows of a micro-batch, their predictions and outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streams.batch import Feedback, Floats, Ids
from streams.block import Block
from streams.joined import Outcome, TrackedImpression

__all__ = ["SERVING", "Measure", "Scored", "Source"]

Source = Block | Sequence[Outcome] | Sequence[TrackedImpression]
"""What rows were made from, in their order: interactions, or whole impressions with their positions one after the other."""

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
    source : Block, or sequence of Outcome or TrackedImpression
        What the rows were made from. It takes much more memory than the rows: do not keep it.
    rows : (n,) int64 or None
        Rows of `source` that these are; None: all.
    """

    __slots__ = ("impression", "predictions", "reward", "rows", "source", "user")

    def __init__(
        self,
        user: Ids,
        reward: Floats,
        impression: Ids | None,
        predictions: dict[str, Floats],
        source: Source = (),
        rows: Ids | None = None,
    ) -> None:
        self.user, self.reward, self.impression, self.predictions = user, reward, impression, predictions
        self.source, self.rows = source, rows


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
