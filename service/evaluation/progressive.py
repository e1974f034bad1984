"""Progressive validation: every row is predicted when it is ranked, before any learner learns from its outcome."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from learners.base import Exclusion
from service.evaluation.event_clock import EventClock
from service.evaluation.predictions import Predictions, RowIds
from service.monitoring.measure import Scored
from service.monitoring.quality import auc, gain, grouped_auc, impression_auc, losses, top_reward
from service.ranking.pipeline import Pipeline
from service.ranking.requests import CANDIDATES
from streams.batch import Feedback, Floats, Ids, Requests

__all__ = ["SERVED", "Curve", "Evaluation", "Quality", "TopN"]

POINTS_PER_WINDOW = 5

SERVED = "recommend"
"""Name of what the service would recommend, beside the retrievers' own orders."""


@dataclass(slots=True)
class Curve:
    """A sliding-window metric: `value[i]` after `row[i]` rows, at event time `time[i]` in Unix seconds."""

    row: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    time: list[float] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Quality:
    """Quality of the scores of one learner, or of the served scores.

    Attributes
    ----------
    rows : int
        Measured rows.
    auc, gauc, impression_auc, log_loss : float
        Over these rows. gAUC is the mean AUC of the users, weighted by their rows. Impression AUC is the unweighted mean AUC of
        the impressions, NaN if there are none. Log loss is NaN for a retriever: its scores are not probabilities. Its rows have
        the labels and weights that logistic rankers learn from; see `learners.bounds.graded`.
    top_reward : float
        Mean over the impressions of the reward that the log has for the row with the highest score; NaN if there are none.
    gain, margin : float
        For a reranker: the ranker's log loss minus its own, and half the width of the 95 % confidence interval. NaN for others.
    auc_curve, log_loss_curve : Curve
        Over sliding windows.
    """

    rows: int
    auc: float
    gauc: float
    impression_auc: float
    log_loss: float
    top_reward: float
    gain: float
    margin: float
    auc_curve: Curve
    log_loss_curve: Curve


@dataclass(slots=True, kw_only=True)
class TopN:
    """How often one ranking of the whole catalogue has the next item near the top.

    Attributes
    ----------
    tests : int
        Rows with a positive reward whose item is new to the user.
    hit_rate, ndcg : float
        At k: share of tests with the item among the first k, and mean of 1 / log2(1 + rank) for these, 0 for others.
    reward : float
        Reward a request: mean over tests of the row's reward if its item is among the first k, of 0 if not.
    hit_rate_curve, ndcg_curve : Curve
        Over sliding windows of tests.
    """

    tests: int
    hit_rate: float
    ndcg: float
    reward: float
    hit_rate_curve: Curve
    ndcg_curve: Curve


class Evaluation:
    """Collects the predictions and outcomes of one replay.

    Parameters
    ----------
    pipeline : Pipeline
    k : int
        Length of the lists for hit rate and NDCG; 0: these are not computed.
    window : int
        Rows of a sliding window.
    keep_rows : bool
        Whether to keep what each row is, for `predictions`.

    Attributes
    ----------
    rows : int
        Measured rows.
    unexplained : int
        Positive rows without an impression.

    Notes
    -----
    Hit rate and NDCG: for each row with a positive reward, before learning, every retriever ranks the whole catalogue without
    the items that the user has touched (``[seen]``). ``recommend`` is the answer of the service: the candidates of all
    retrievers, in the order of the last reranker or of the ranker. All predictions are kept until the end: 20 bytes per row,
    plus 4 per learner.

    Rows of an impression are added when it has closed, with the highest reward at each position. A later outcome
    revises it.
    """

    def __init__(self, pipeline: Pipeline, k: int = 10, window: int = 10_000, keep_rows: bool = False) -> None:
        self._pipeline, self._window = pipeline, window
        self._row_ids: list[RowIds] | None = [] if keep_rows else None
        self._k = k if pipeline.retrievers.named else 0
        self._chunks: list[Scored] = []
        self._starts: list[int] = []
        self._gain: dict[str, list[Floats]] = {}
        self._tested = [np.empty(0, np.float32)]
        self._tests = self._learned = 0
        self._row_clock, self._test_clock = EventClock(), EventClock()
        self.rows = 0
        self.unexplained = 0

    def choose_impressions(self, sizes: Sequence[int]) -> Sequence[int]:
        """All of them."""
        return range(len(sizes))

    def choose_rows(self, rows: int) -> Ids | None:
        """All of them."""
        return None

    def before_learning(self, feedback: Feedback) -> None:
        """Measure hit rate and NDCG on the batch."""
        self.unexplained += int(np.count_nonzero((feedback.reward > 0) & (feedback.position < 0)))
        if not feedback.rows:
            return
        now = float(feedback.outcome_time.max())
        self._learned += feedback.rows
        self._row_clock.add(self._learned, now)
        if self._k:
            self._measure_top_n(feedback)
            self._test_clock.add(self._tests, now)

    def add(self, scored: Scored) -> int:
        """Add predicted rows with their outcomes; see `service.monitoring.measure.Measure`."""
        first = self.rows
        if self._row_ids is not None:
            self._row_ids.append(RowIds.of(scored))
        # The chunks are kept to the end; the events that they were made from would fill the memory.
        scored.source, scored.rows = (), None
        self._chunks.append(scored)
        self._starts.append(first)
        self.rows += scored.user.size
        return first

    def revise(self, number: int, reward: float) -> None:
        """Replace the reward of a row."""
        at = bisect_right(self._starts, number) - 1
        self._chunks[at].reward[number - self._starts[at]] = reward

    def recent(self) -> dict[str, float]:
        """AUC and log loss of the last stage over about one window of the last rows, for a progress bar."""
        name, rows = self._pipeline.last_name, 0
        score, reward = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
        for chunk in reversed(self._chunks):
            if name in chunk.predictions:
                score.append(chunk.predictions[name])
                reward.append(chunk.reward)
                rows += chunk.reward.size
            if rows >= self._window:
                break
        scores, rewards = np.concatenate(score), np.concatenate(reward)
        loss, weight = losses(scores, rewards)
        return {"auc": auc(scores, rewards > 0), "logloss": float(np.average(loss, weights=weight)) if rows else math.nan}

    def positives(self) -> int:
        """Number of rows with a positive reward."""
        return sum(int((chunk.reward > 0).sum()) for chunk in self._chunks)

    def graded(self) -> bool:
        """Whether any reward is neither 0 nor 1. If not, a reward is a click."""
        return any(bool(((chunk.reward != 0) & (chunk.reward != 1)).any()) for chunk in self._chunks)

    def logged_reward(self) -> float:
        """Mean reward of the first item of an impression, in the order of the log; NaN without impressions."""
        ranked = [chunk for chunk in self._chunks if chunk.impression is not None]
        first = [chunk.reward[np.flatnonzero(np.diff(_impressions(chunk), prepend=-1))] for chunk in ranked]
        return float(np.concatenate(first).mean()) if first else math.nan

    def predictions(self) -> Predictions:
        """All measured rows with their predictions, in order; only with `keep_rows`."""
        assert self._row_ids is not None, "keep_rows: is False"
        return Predictions(self._row_ids, self._chunks)

    def quality(self) -> dict[str, Quality]:
        """Quality of the scores by learner, and of the served scores if the log has them."""
        names = dict.fromkeys(name for chunk in self._chunks for name in chunk.predictions)
        return {name: self._quality(name) for name in names}

    def top_n(self) -> dict[str, TopN]:
        """Hit rate and NDCG of each ranking of the catalogue, by name."""
        reward = np.concatenate(self._tested)
        return {name: self._top_n(np.concatenate(gain), reward) for name, gain in self._gain.items()}

    def _quality(self, name: str) -> Quality:
        chunks = [chunk for chunk in self._chunks if name in chunk.predictions]
        score = np.concatenate([chunk.predictions[name] for chunk in chunks])
        reward = np.concatenate([chunk.reward for chunk in chunks])
        impression, positive = np.concatenate([_impressions(chunk) for chunk in chunks]), reward > 0
        loss, weight = losses(score, reward)
        if name in self._pipeline.retrievers.named:
            loss[:] = np.nan
        mean = margin = math.nan
        if name in self._pipeline.rerankers.named:
            mean, margin = gain(
                score, np.concatenate([chunk.predictions[self._pipeline.ranker_name] for chunk in chunks]), reward
            )
        return Quality(
            rows=score.size,
            auc=auc(score, positive),
            gauc=grouped_auc(np.concatenate([chunk.user for chunk in chunks]), score, positive),
            impression_auc=impression_auc(impression, score, positive),
            log_loss=float(np.average(loss, weights=weight)),
            top_reward=top_reward(impression, score, reward),
            gain=mean,
            margin=margin,
            auc_curve=self._curve(score.size, self._row_clock, lambda part: auc(score[part], positive[part])),
            log_loss_curve=self._curve(
                score.size, self._row_clock, lambda part: float(np.average(loss[part], weights=weight[part]))
            ),
        )

    def _top_n(self, gain: Floats, reward: Floats) -> TopN:
        hit = gain > 0
        return TopN(
            tests=gain.size,
            hit_rate=float(hit.mean()) if gain.size else math.nan,
            ndcg=float(gain.mean()) if gain.size else math.nan,
            reward=float((hit * reward).mean(dtype=np.float64)) if gain.size else math.nan,
            hit_rate_curve=self._curve(gain.size, self._test_clock, lambda part: float(hit[part].mean())),
            ndcg_curve=self._curve(gain.size, self._test_clock, lambda part: float(gain[part].mean())),
        )

    def _curve(self, rows: int, clock: EventClock, metric: Any) -> Curve:
        curve = Curve()
        window = max(min(self._window, rows), 1)
        for end in range(window, rows + 1, max(window // POINTS_PER_WINDOW, 1)):
            curve.row.append(end)
            curve.value.append(metric(slice(end - window, end)))
        curve.time = clock.at(curve.row).tolist()
        return curve

    def _measure_top_n(self, feedback: Feedback) -> None:
        user = feedback.user[feedback.request]
        tests = np.flatnonzero(feedback.reward > 0)
        tests = tests[~self._pipeline.seen.has(user[tests], feedback.item[tests])]
        if tests.size:
            self._tested.append(feedback.reward[tests])
            self._tests += tests.size
            self._rank(feedback, tests, Exclusion(*self._pipeline.seen.of(user[tests])))

    def _rank(self, feedback: Feedback, tests: Ids, exclude: Exclusion) -> None:
        pipeline, request = self._pipeline, feedback.request[tests]
        requests = Requests(**feedback.columns(request))
        target = feedback.item[tests]
        found_item, found_request = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for name, retriever in pipeline.retrievers:
            found = retriever.retrieve(requests, max(self._k, CANDIDATES), exclude)
            self._gain.setdefault(name, []).append(_discounted_gains(found.item, found.request, target, self._k))
            found_item.append(found.item)
            found_request.append(found.request)
        pairs = np.unique(np.stack([np.concatenate(found_request), np.concatenate(found_item)], 1), axis=0)
        batch = pipeline.rows.batch(requests, pairs[:, 0].copy(), pairs[:, 1].copy())
        pipeline.score(batch, np.ones(tests.size, np.bool_))
        best = np.lexsort((-batch.score, batch.request))
        self._gain.setdefault(SERVED, []).append(_discounted_gains(batch.item[best], batch.request[best], target, self._k))


def _impressions(chunk: Scored) -> Ids:
    return np.full(chunk.user.size, -1) if chunk.impression is None else chunk.impression


def _discounted_gains(item: Ids, request: Ids, target: Ids, k: int) -> Floats:
    """1 / log2(1 + rank) of each request's target among its first k items, 0 if it is not there; (tests,) float32."""
    gain = np.zeros(target.size, np.float32)
    start = np.searchsorted(request, np.arange(target.size))
    position = np.arange(item.size) - start[request]
    hit = (item == target[request]) & (position < k)
    gain[request[hit]] = 1.0 / np.log2(2.0 + position[hit])
    return gain
