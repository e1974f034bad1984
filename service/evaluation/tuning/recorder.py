"""Keeps the predictions of a replay, to compute the objective over any part of it."""

from __future__ import annotations

import numpy as np

from service.config import ConfigError
from service.evaluation.progressive import SERVED, Evaluation
from service.evaluation.tuning.samples import LISTS, ROWS, Objective, Sample, of_lists, of_rows
from service.ranking.pipeline import Pipeline
from streams.batch import Feedback, Ids

__all__ = ["Incomplete", "Recorder"]


class Incomplete(RuntimeError):
    """A learner failed on some rows, so the objective of this config cannot be compared."""


class Recorder(Evaluation):
    """Collects the predictions and outcomes of one replay.

    Parameters
    ----------
    pipeline : Pipeline
    objective : Objective
        Its name; not `Objective.OFF_POLICY` nor `Objective.CPU`.
    k : int
        Length of the lists.

    Raises
    ------
    ConfigError
        For an objective of lists without retrievers.
    """

    def __init__(self, pipeline: Pipeline, objective: Objective, k: int) -> None:
        lists = objective not in ROWS
        super().__init__(pipeline, k if lists else 0)
        if objective in LISTS and not self._k:
            raise ConfigError("retrievers", f"none, so nothing is recommended and {objective} is undefined; add a retriever")
        self._objective, self._at = objective, [np.empty(0, np.int64)]
        self._judged = next(
            (name for name, reranker in reversed(list(pipeline.rerankers.named.items())) if not reranker.needs_evidence),
            pipeline.ranker_name,
        )
        if objective is not Objective.LOG_LOSS:
            self._judged = pipeline.last_name

    def before_learning(self, feedback: Feedback) -> None:
        """Measure the recommended list on the batch, and note where in the stream."""
        known = len(self._tested)
        super().before_learning(feedback)
        for tested in self._tested[known:]:
            self._at.append(np.full(tested.size, self.rows))

    def sample(self) -> Sample:
        """Return the units so far.

        Raises
        ------
        Incomplete
            When a learner has failed on some rows.
        """
        if self._objective in LISTS or (self._objective is Objective.REWARD and not self._ranked()):
            gain = self._gain.get(SERVED, [np.empty(0, np.float32)])
            return of_lists(self._objective, np.concatenate(self._at), np.concatenate(gain), np.concatenate(self._tested))
        chunks = [chunk for chunk in self._chunks if self._judged in chunk.predictions]
        if sum(chunk.user.size for chunk in chunks) < self.rows:
            raise Incomplete(f"{self._judged} failed on some rows")
        return of_rows(
            self._objective,
            np.concatenate([np.empty(0, np.int64), *(chunk.user for chunk in chunks)]),
            np.concatenate([np.empty(0, np.float32), *(chunk.predictions[self._judged] for chunk in chunks)]),
            np.concatenate([np.empty(0, np.float32), *(chunk.reward for chunk in chunks)]),
            np.concatenate([np.empty(0, np.int64), *(_impressions(chunk.impression, chunk.user.size) for chunk in chunks)]),
        )

    def _ranked(self) -> bool:
        return any(chunk.impression is not None for chunk in self._chunks)


def _impressions(impression: Ids | None, rows: int) -> Ids:
    return np.full(rows, -1) if impression is None else impression
