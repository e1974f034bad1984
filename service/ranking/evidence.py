"""What retrievers know of each row, and which candidates they had for what users chose: what a mixture of them learns from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np

from learners.base import Choices, Exclusion, Retriever
from learners.schema import EvidenceColumn
from memory.keyed.seen_items import SeenItems
from service.ranking.feature_rows import FeatureRows
from service.ranking.requests import CANDIDATES
from streams.batch import Batch, Bools, Feedback, Floats, Ids, Requests

__all__ = ["EvidenceCollector", "evidence_columns"]


def evidence_columns(retrievers: Mapping[str, Retriever]) -> tuple[EvidenceColumn, ...]:
    """Columns of ``Batch.evidence``: those of all retrievers, in config order, with the retriever's name before theirs.

    The last one is the ranker's. Without retrievers there are none.
    """
    if not retrievers:
        return ()
    of_retrievers = (
        replace(column, name=f"{name}.{column.name}")
        for name, retriever in retrievers.items()
        for column in retriever.evidence_columns
    )
    return (*of_retrievers, EvidenceColumn("ranker.log_odds", by_activity=True))


class EvidenceCollector:
    """Asks retrievers for evidence, and for the candidates that they have for what users chose.

    Parameters
    ----------
    retrievers : mapping of name to Retriever
        Bound.
    seen : SeenItems
        Items that users have touched, which are no candidates.
    rows : FeatureRows
    prepare : callable
        Lets the ranker fill ``base`` of a batch; see `service.ranking.pipeline.Pipeline.prepare`.
    failed : callable
        Called with the name of a retriever that raised, or returned a number that is not finite.
    """

    def __init__(
        self,
        retrievers: Mapping[str, Retriever],
        seen: SeenItems,
        rows: FeatureRows,
        prepare: Callable[[Batch], None],
        failed: Callable[[str], None],
    ) -> None:
        self._retrievers, self._seen, self._rows = retrievers, seen, rows
        self._prepare, self._failed = prepare, failed
        self._columns: dict[str, slice] = {}
        self._width = 0
        for name, retriever in retrievers.items():
            self._columns[name] = slice(self._width, self._width + len(retriever.evidence_columns))
            self._width = self._columns[name].stop

    def fill(self, batch: Batch, requests: Bools) -> None:
        """Fill ``batch.evidence``, (N, E) float32: NaN for other requests, and in the columns of a learner that failed.

        The ranker must have filled ``base``, unless it failed.

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
        described, left_out = np.empty((batch.rows, self._width + 1), np.float32), set()
        for name, retriever in self._retrievers.items():
            columns = described[:, self._columns[name]]
            try:
                part = retriever.evidence(batch)
                if part.shape != columns.shape:
                    raise ValueError(f"{name}: evidence is not of {columns.shape[1]} columns")
                columns[:] = part
            except Exception:
                self._failed(name)
                left_out.add(name)
                columns[:] = np.nan
        described[:, -1] = _log_odds(batch)
        if not np.isfinite(described).all():
            self._leave_out(described, left_out)
        return described

    def _leave_out(self, described: Floats, known: Collection[str]) -> None:
        """Set the columns of retrievers with a number that is not finite to NaN, and count those that are not `known`."""
        for name, columns in self._columns.items():
            part = described[:, columns]
            if name not in known and not np.isfinite(part).all():
                self._failed(name)
                part[:] = np.nan

    def choices(self, feedback: Feedback) -> Choices | None:
        """What users chose of all that the retrievers have for them as of now; None where nothing was chosen.

        A choice is a row with a positive reward whose item the user had not touched before. Those of `listed` rows are others.
        """
        rows = np.flatnonzero(_positive(feedback) & np.isnan(feedback.propensity))
        rows = rows[~self._seen.has(feedback.user[feedback.request[rows]], feedback.item[rows])]
        if not rows.size:
            return None
        target = feedback.item[rows]
        requests = Requests(**feedback.columns(feedback.request[rows]))
        batch = self._rows.batch(requests, *self.candidates(requests))
        self._prepare(batch)
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

    def candidates(self, requests: Requests) -> tuple[Ids, Ids]:
        """Items that any retriever has for each request, without those that its user has touched.

        Returns
        -------
        request, item : (N,) int64
            Ascending.
        """
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
        return pairs[:, 0].copy(), pairs[:, 1].copy()


def _log_odds(batch: Batch) -> Floats:
    """Log odds of the ranker's score, (N,): NaN where it failed. A score that is no probability is clipped to one."""
    if batch.base is None:
        return np.full(batch.rows, np.nan, np.float32)
    probability = np.minimum(np.maximum(batch.base, 1e-6, dtype=np.float64), 1.0 - 1e-6)
    return np.log(probability / (1.0 - probability)).astype(np.float32)


def _positive(feedback: Feedback) -> Bools:
    positive: Bools = (feedback.reward > 0) & (feedback.weight > 0) & ~feedback.correction
    return positive
