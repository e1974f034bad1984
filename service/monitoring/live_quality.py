"""Quality of each learner while the service runs: sliding windows of predictions and outcomes, and drift alarms."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.monitoring.measure import SERVING, Scored
from service.monitoring.quality import Window
from streams.batch import Feedback, Floats, Ids

__all__ = ["LiveQuality"]

WINDOW_ROWS = 5000
"""Rows of the sliding windows: half a minute to some minutes of a busy site."""

SAMPLED_ROWS = 32
"""Approximate rows per micro-batch that all learners predict: a reranker's prediction costs as much as in a request."""

SAMPLED_ROWS_PER_SECOND = 320
"""Rows per second that all learners predict in the long run. If fewer rows arrive, they predict all."""

ALARM_SECONDS = 30.0
"""Seconds for which an alarm counts as recent."""


class _Quality:
    """Quality of one learner over the last rows, and its drift alarm."""

    def __init__(self) -> None:
        # Loaded here, because river loads scikit-learn where that is installed, and most commands have no use for it.
        from river.drift import ADWIN

        self.window = Window(WINDOW_ROWS)
        self.detector = ADWIN()  # type: ignore[no-untyped-call]
        self.alarms = 0
        self.last_alarm = float("-inf")

    def add(self, score: Floats, reward: Floats, impression: Ids | None, number: int) -> None:
        self.window.add(score, reward, impression, number)
        label = np.clip(reward, 0.0, 1.0)
        # ADWIN wants a bounded loss; its mean over a micro-batch keeps the detector off the hot path's per-row cost.
        self.detector.update(float(np.square(np.clip(score, 0.0, 1.0) - label).mean()))  # type: ignore[no-untyped-call]
        if self.detector.drift_detected:
            self.alarms += 1
            self.last_alarm = time.time()


class LiveQuality:
    """Measures predictions while a service runs; thread-safe. See `service.monitoring.measure.Measure`.

    Served scores are free, so all of them are measured. Other learners predict only a sample of the rows.

    Notes
    -----
    Quality is prequential: rows are scored before any learner learns from their outcome. The alarm is ADWIN (A. Bifet,
    R. Gavalda, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007) on the squared error of the labels, which
    are the rewards clipped to [0, 1].
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_learner: dict[str, _Quality] = {}
        self._rng = np.random.default_rng()
        self._budget, self._budget_at = float(WINDOW_ROWS), time.monotonic()
        self._rows = 0

    def choose_impressions(self, sizes: Sequence[int]) -> Sequence[int]:
        """Sample some impressions; at least one while the budget lasts."""
        self._refill_budget()
        chosen, rows = [], 0
        for n in self._rng.permutation(len(sizes)).tolist():
            if rows >= SAMPLED_ROWS or self._budget <= 0:
                break
            chosen.append(n)
            rows += sizes[n]
            self._budget -= sizes[n]
        return sorted(chosen)

    def choose_rows(self, rows: int) -> Ids | None:
        """Sample some rows at random, so that every position of a list can be chosen."""
        self._refill_budget()
        sample = min(rows, SAMPLED_ROWS)
        if self._budget < sample:
            return np.empty(0, np.int64)
        self._budget -= sample
        return None if sample == rows else np.sort(self._rng.choice(rows, sample, replace=False))

    def before_learning(self, feedback: Feedback) -> None:
        """Do nothing: nothing here depends on the batch before learning."""

    def add(self, scored: Scored) -> int:
        """Add predicted rows with their outcomes."""
        first = self._rows
        self._rows += scored.reward.size
        with self._lock:
            for name, score in scored.predictions.items():
                if name == SERVING:  # live, these are the scores of the last stage
                    continue
                self._by_learner.setdefault(name, _Quality()).add(score, scored.reward, scored.impression, first)
        return first

    def revise(self, number: int, reward: float) -> None:
        """Replace the outcome of a row, if the row is still in the window."""
        with self._lock:
            for quality in self._by_learner.values():
                quality.window.revise(number, reward)

    @property
    def nbytes(self) -> int:
        """Approximate memory of the windows."""
        return len(self._by_learner) * WINDOW_ROWS * 40

    def snapshot(self, bases: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Current quality by learner, ready for JSON (undefined numbers are None).

        Parameters
        ----------
        bases : mapping of reranker to ranker
            Ranker that a reranker's gain is measured against.
        """
        now = time.time()
        # Learning waits for this lock, so only copies are made under it.
        with self._lock:
            windows = {name: quality.window.copy() for name, quality in self._by_learner.items()}
            alarms = {
                name: {"alarms": quality.alarms, "alarm": now - quality.last_alarm < ALARM_SECONDS}
                for name, quality in self._by_learner.items()
            }
        learners = {
            name: {
                "auc": _finite_or_none(window.auc()),
                "impression_auc": _finite_or_none(window.impression_auc()),
                "logloss": _finite_or_none(window.log_loss()),
                **alarms[name],
            }
            for name, window in windows.items()
        }
        for name, base in bases.items():
            if name in windows and base in windows:
                mean, margin = windows[name].gain(windows[base])
                learners[name] |= {"gain": _finite_or_none(mean), "gain_margin": _finite_or_none(margin)}
        return learners

    def _refill_budget(self) -> None:
        now = time.monotonic()
        self._budget = min(self._budget + (now - self._budget_at) * SAMPLED_ROWS_PER_SECOND, float(WINDOW_ROWS))
        self._budget_at = now


def _finite_or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
