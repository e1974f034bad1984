"""What retrievers know of each row, and which candidates they had for what users chose: what a mixture of them learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from learners.base import Choices, Exclusion, Retriever
from learners.schema import EvidenceColumn
from memory.keyed.seen_items import SeenItems
from service.ranking.requests import CANDIDATES
from streams.batch import Batch, Bools, Feedback, Floats, Ids, Requests

__all__ = ["EvidenceCollector", "evidence_columns"]


def evidence_columns(retrievers: Mapping[str, Retriever]) -> tuple[EvidenceColumn, ...]:
    """Columns of ``Batch.evidence``: those of all retrievers, in config order, with the retriever's name before theirs."""
    return tuple(
        replace(column, name=f"{name}.{column.name}")
        for name, retriever in retrievers.items()
        for column in retriever.evidence_columns
    )


class EvidenceCollector:
    """Asks retrievers for evidence, and for the candidates that they have for what users chose.

    Parameters
    ----------
    retrievers : mapping of name to Retriever
        Bound.
    seen : SeenItems
        Items that users have touched, which are no candidates.
    failed : callable
        Called with the name of a retriever that raised, or returned a number that is not finite.
    """

    def __init__(self, retrievers: Mapping[str, Retriever], seen: SeenItems, failed: Callable[[str], None]) -> None:
        self._retrievers, self._seen, self._failed = retrievers, seen, failed

    def fill(self, batch: Batch, requests: Bools) -> None:
        """Fill ``batch.evidence``, (N, E) float32: NaN for other requests, and in the columns of a retriever that failed.

        Parameters
        ----------
        batch : Batch
        requests : (B,) bool
            Requests whose rows are to be described. Where there are none, ``evidence`` stays None.
        """
        rows = np.flatnonzero(requests[batch.request])
        if rows.size == batch.rows:
            batch.evidence = self._described(batch)
        elif rows.size:
            part = self._described(batch.take(rows))
            batch.evidence = np.full((batch.rows, part.shape[1]), np.nan, np.float32)
            batch.evidence[rows] = part

    def _described(self, batch: Batch) -> Floats:
        parts = []
        for name, retriever in self._retrievers.items():
            width = len(retriever.evidence_columns)
            try:
                part = retriever.evidence(batch)
                if part.shape != (batch.rows, width) or not np.isfinite(part).all():
                    raise FloatingPointError(f"{name}: evidence is not finite, or not of {width} columns")
            except Exception:
                self._failed(name)
                part = np.full((batch.rows, width), np.nan, np.float32)
            parts.append(part)
        return np.concatenate(parts, axis=1, dtype=np.float32) if parts else np.empty((batch.rows, 0), np.float32)

    def choices(self, feedback: Feedback) -> Choices | None:
        """What users chose of all that the retrievers have for them as of now; None where nothing was chosen.

        A choice is a row with a positive reward whose item the user had not touched before. Those of `listed` rows are others.
        """
        rows = np.flatnonzero(_positive(feedback) & np.isnan(feedback.propensity))
        rows = rows[~self._seen.has(feedback.user[feedback.request[rows]], feedback.item[rows])]
        if not rows.size:
            return None
        target = feedback.item[rows]
        batch = self.candidates(Requests(**feedback.columns(feedback.request[rows])))
        batch.evidence = self._described(batch)
        chosen = np.full(rows.size, -1)
        hit = np.flatnonzero(batch.item == target[batch.request])
        chosen[batch.request[hit]] = hit
        return Choices(batch, chosen, feedback.reward[rows])

    @staticmethod
    def listed(feedback: Feedback) -> Ids:
        """Rows that were chosen from a list whose propensities are known, (n,) int64.

        A policy drew up such a list, mostly this service's own, and what is chosen is among what it showed. Among all
        candidates, the choice would teach what marks the items that are shown: the learner's own opinion. Among the items of
        the list it teaches which of them the user prefers, and items that the user had touched before are among them.
        """
        return np.flatnonzero(_positive(feedback) & np.isfinite(feedback.propensity))

    def candidates(self, requests: Requests) -> Batch:
        """Rows of items that any retriever has for each request, ascending, without those that its user has touched."""
        exclude = Exclusion(*self._seen.of(requests.user))
        request, item = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for name, retriever in self._retrievers.items():
            try:
                found = retriever.retrieve(requests, CANDIDATES, exclude)
            except Exception:
                self._failed(name)
                continue
            request.append(found.request)
            item.append(found.item)
        pairs = np.stack([np.concatenate(request), np.concatenate(item)], axis=1)
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        first = np.ones(pairs.shape[0], np.bool_)
        first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
        pairs = pairs[first]
        nothing = np.empty((pairs.shape[0], 0))
        return Batch(
            **requests.columns(),
            item=pairs[:, 1].copy(),
            request=pairs[:, 0].copy(),
            features=nothing.astype(np.int64),
            values=nothing.astype(np.float32),
        )


def _positive(feedback: Feedback) -> Bools:
    positive: Bools = (feedback.reward > 0) & (feedback.weight > 0) & ~feedback.correction
    return positive
