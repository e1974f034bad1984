"""Predict, then learn: trainer, replay and evaluation process every batch this way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from learners.base import Choices
from learners.features import hash_ids
from service.learning.feedback import FeedbackBuilder
from service.learning.negatives import NegativeSampler
from service.monitoring.measure import SERVING, Measure, Scored, Source
from service.ranking.evidence import EvidenceCollector
from service.ranking.pipeline import Pipeline
from streams.batch import Feedback, Floats, Ids
from streams.block import Block
from streams.joined import JoinedBatch, Outcome, TrackedImpression

__all__ = ["Fold", "choices_of_lists", "with_negatives"]


class _Measured(Struct, gc=False, eq=False):
    """Predictions of an impression and its rewards so far, until its outcome is known; `first` is the number of its first row.

    The reward of a position is NaN until there is an interaction with it.

    There may be a hundred thousand of these. The cyclic garbage collector does not track them, or it would scan them often.
    """

    predictions: dict[str, Floats]
    reward: Floats
    first: int = -1


class Fold:
    """Lets a pipeline predict and then learn each batch, and reports the predictions to a measure.

    The prediction of a row is the score of its ranking. It never depends on the outcome of the row, nor on outcomes of rows
    in the same ranking. Scores in the log are used if this configuration made them; otherwise the impression is scored when
    it is first seen. Rows without an impression are predicted just before they are learned.

    Parameters
    ----------
    pipeline : Pipeline
    builder : FeedbackBuilder
    measure : Measure or None
        Receives predictions and outcomes. None: nothing is measured.
    """

    def __init__(self, pipeline: Pipeline, builder: FeedbackBuilder, measure: Measure | None = None) -> None:
        self._pipeline, self._builder, self._measure = pipeline, builder, measure
        self._negatives = NegativeSampler(pipeline, pipeline.negatives)
        self._impressions = 0

    def joined(self, joined: JoinedBatch) -> Feedback | None:
        """Predict and learn a joiner's batch; return its rows in the order of ``joined.rows``, None if there are none."""
        self._builder.add_snapshots(joined.shown)
        if joined.shown:
            self._builder.note_shown(joined.shown)
            self._look(joined.shown)
        feedback = None
        if joined.rows:
            feedback = self._builder.from_rows(joined.rows)
            free = np.array([n for n, row in enumerate(joined.rows) if row.shown is None], np.int64)
            self._learn(feedback, joined.rows, free, choices_of_lists(self._pipeline, self._builder, joined.rows, feedback))
            if self._measure is not None:
                self._note_outcomes(self._measure, joined.rows, feedback.reward)
        if self._measure is not None:
            self._add_closed(self._measure, joined.closed)
        return feedback

    def block(self, block: Block) -> Feedback:
        """Predict and learn rows of a recorded file, and return them."""
        feedback = self._builder.from_block(block)
        self._learn(feedback, block, None)
        return feedback

    def _look(self, shown: Sequence[TrackedImpression]) -> None:
        """Store the predictions of new impressions, and let learners observe them."""
        measure = self._measure
        chosen = [] if measure is None else measure.choose_impressions([len(one.impression.items) for one in shown])
        if self._pipeline.observes:
            batch = self._builder.from_shown(shown)
            if chosen:
                rows = np.flatnonzero(np.isin(batch.request, chosen))
                self._keep([shown[n] for n in chosen], self._pipeline.predict(batch, rows))
            self._pipeline.observe(batch)
        elif chosen:
            some = [shown[n] for n in chosen]
            self._keep(some, self._pipeline.predict(self._builder.from_shown(some)))
        if measure is not None:
            for one in shown:
                self._put_logged(one)

    def _keep(self, shown: Sequence[TrackedImpression], predictions: dict[str, Floats]) -> None:
        at = 0
        for one in shown:
            rows = slice(at, at + len(one.impression.items))
            at = rows.stop
            kept = {name: said[rows] for name, said in predictions.items()}
            one.measured = _Measured(kept, np.full(rows.stop - rows.start, np.nan, np.float32))

    def _put_logged(self, shown: TrackedImpression) -> None:
        """Replace predictions by the scores in the log, if the service made them."""
        impression, pipeline = shown.impression, self._pipeline
        if shown.snapshot is None or not shown.snapshot.trusted or not impression.scores:
            return
        logged = np.array(impression.scores, np.float32)
        said: dict[str, Floats] = {}
        by_retriever = impression.source in pipeline.retrievers.named
        if not by_retriever:
            said[SERVING] = logged
        if impression.config == self._builder.config:
            if by_retriever:
                said[impression.source] = logged
            elif impression.source == pipeline.ranker_name:
                said[pipeline.last_name] = logged
                if pipeline.last_name != pipeline.ranker_name and len(impression.base) == 4 * logged.size:
                    said[pipeline.ranker_name] = np.frombuffer(impression.base, "<f4").astype(np.float32)
        if shown.measured is None:
            shown.measured = _Measured(said, np.full(logged.size, np.nan, np.float32))
        else:
            shown.measured.predictions |= said

    def _learn(self, feedback: Feedback, source: Source, free: Ids | None, listed: Choices | None = None) -> None:
        """Predict the rows at `free`, (n,) int64 or None for all. Then let all learners learn all rows."""
        measure, pipeline = self._measure, self._pipeline
        if measure is None:
            pipeline.prepare(feedback)
            pipeline.learn(feedback, with_negatives(pipeline, self._negatives, feedback), listed)
            return
        chosen = measure.choose_rows(feedback.rows if free is None else free.size)
        rows = free if chosen is None else chosen if free is None else free[chosen]
        predictions = pipeline.predict(feedback, rows)
        measure.before_learning(feedback)
        pipeline.learn(feedback, with_negatives(pipeline, self._negatives, feedback), listed)
        if predictions:
            user, reward = feedback.user[feedback.request], feedback.reward
            if rows is not None:
                user, reward = user[rows], reward[rows]
            measure.add(Scored(user, reward, None, predictions, source, rows))

    def _note_outcomes(self, measure: Measure, rows: Sequence[Outcome], reward: Floats) -> None:
        """Store the rewards of interactions. If a position has several, the highest reward counts, even if it is negative."""
        for row, worth in zip(rows, reward.tolist(), strict=True):
            measured = None if row.shown is None or not row.kind else row.shown.measured
            if measured is not None and not worth <= measured.reward[row.position]:
                measured.reward[row.position] = worth
                if measured.first >= 0:
                    measure.revise(measured.first + row.position, worth)

    def _add_closed(self, measure: Measure, closed: Sequence[TrackedImpression]) -> None:
        """Measure impressions whose outcome is known, grouped by the learners that predicted them."""
        grouped: dict[frozenset[str], list[TrackedImpression]] = {}
        for one in closed:
            if one.measured is not None and one.measured.predictions:
                grouped.setdefault(frozenset(one.measured.predictions), []).append(one)
        for some in grouped.values():
            sizes = [one.measured.reward.size for one in some]
            numbers = self._impressions + np.arange(len(some))
            self._impressions += len(some)
            first = measure.add(
                Scored(
                    np.repeat(hash_ids([one.impression.user for one in some]), sizes),
                    np.nan_to_num(np.concatenate([one.measured.reward for one in some])),
                    np.repeat(numbers, sizes),
                    {
                        name: np.concatenate([one.measured.predictions[name] for one in some])
                        for name in some[0].measured.predictions
                    },
                    some,
                )
            )
            for one, size in zip(some, sizes, strict=True):
                one.measured.first = first
                first += size


def choices_of_lists(
    pipeline: Pipeline, builder: FeedbackBuilder, rows: Sequence[Outcome], feedback: Feedback
) -> Choices | None:
    """What users chose of lists, each among all items of its list; None where nothing was, or nobody learns from it."""
    chosen = EvidenceCollector.listed(feedback) if pipeline.chooses else np.empty(0, np.int64)
    shown = [one for one in (rows[n].shown for n in chosen.tolist()) if one is not None]
    if not shown:
        return None
    batch = builder.from_shown(shown)
    start = np.searchsorted(batch.request, np.arange(chosen.size))
    return Choices(batch, start + feedback.position[chosen], feedback.reward[chosen])


def with_negatives(pipeline: Pipeline, negatives: NegativeSampler, feedback: Feedback) -> Feedback | None:
    """Prepared rows with their negatives; None if there are none, or if the ranker cannot score these."""
    extended = feedback if feedback.base is None else negatives.extended(feedback)
    if extended is feedback:
        return None
    pipeline.prepare(extended)
    return None if extended.base is None else extended
