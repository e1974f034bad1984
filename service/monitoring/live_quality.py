"""Quality of each learner while the service runs: sliding windows of predictions and outcomes, and drift alarms."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from river.drift import ADWIN

from service.monitoring.measure import SERVING, Scored
from service.monitoring.quality import Window
from streams.batch import Feedback, Floats, Ids

__all__ = ["LiveQuality"]

WINDOW_ROWS = 5000
"""Rows of the sliding windows of quality: half a minute to some minutes of a busy site."""

WATCHED = 32
"""Rows of a micro-batch, about, that all learners are asked about: what a reranker says costs as much as in a request."""

WATCHED_PER_SECOND = 320
"""Rows that all learners are asked about in the long run; of fewer, all."""

ALARM_SECONDS = 30.0
"""How long an alarm counts as recent."""


class _Quality:
    """Quality of one learner over the last rows, and its drift alarm."""

    def __init__(self) -> None:
        self.window = Window(WINDOW_ROWS)
        self.detector = ADWIN()  # type: ignore[no-untyped-call]
        self.alarms = 0
        self.last_alarm = float("-inf")

    def add(self, score: Floats, label: Floats, impression: Ids | None, number: int) -> None:
        self.window.add(score, label, impression, number)
        # ADWIN wants a bounded loss; its mean over a micro-batch keeps the detector off the hot path's per-row cost.
        self.detector.update(float(np.square(np.clip(score, 0.0, 1.0) - label).mean()))  # type: ignore[no-untyped-call]
        if self.detector.drift_detected:
            self.alarms += 1
            self.last_alarm = time.time()


class LiveQuality:
    """Measures predictions while a service runs; thread-safe. See `service.monitoring.measure.Measure`.

    The scores that a ranking was served with cost nothing and are all measured; about other learners it asks for some rows.

    Notes
    -----
    Quality is prequential: rows are scored before any learner learns from their outcome. The alarm is ADWIN (A. Bifet,
    R. Gavalda, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007) on the squared error.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, _Quality] = {}
        self._chance = np.random.default_rng()
        self._allowed, self._asked = float(WINDOW_ROWS), time.monotonic()
        self._rows = 0

    def choose_impressions(self, sizes: Sequence[int]) -> Sequence[int]:
        """Some impressions, drawn by chance, of some rows together; at least one while the budget lasts."""
        self._earn()
        chosen, rows = [], 0
        for n in self._chance.permutation(len(sizes)).tolist():
            if rows >= WATCHED or self._allowed <= 0:
                break
            chosen.append(n)
            rows += sizes[n]
            self._allowed -= sizes[n]
        return sorted(chosen)

    def choose_rows(self, rows: int) -> Ids | None:
        """Some rows, drawn by chance: of lists of ten, say, every position must have its turn."""
        self._earn()
        wanted = min(rows, WATCHED)
        if self._allowed < wanted:
            return np.empty(0, np.int64)
        self._allowed -= wanted
        return None if wanted == rows else np.sort(self._chance.choice(rows, wanted, replace=False))

    def before_learning(self, feedback: Feedback) -> None:
        """Nothing is looked at here."""

    def add(self, scored: Scored) -> int:
        """Take rows that were predicted, with their outcome."""
        label = np.clip(scored.reward, 0.0, 1.0)
        first = self._rows
        self._rows += label.size
        with self._lock:
            for name, score in scored.predictions.items():
                if name == SERVING:  # here, these are the scores of the last stage
                    continue
                self._of.setdefault(name, _Quality()).add(score, label, scored.impression, first)
        return first

    def revise(self, number: int, reward: float) -> None:
        """Let another outcome of a row count, if it is among the last ones."""
        label = min(max(reward, 0.0), 1.0)
        with self._lock:
            for quality in self._of.values():
                quality.window.revise(number, label)

    def snapshot(self, bases: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Quality as of now by learner, ready for JSON (numbers that do not exist are None).

        Parameters
        ----------
        bases : mapping of reranker to ranker
            Over whose scores its gain is taken.
        """
        now = time.time()
        # Whoever learns waits for the lock: under it everything is only copied.
        with self._lock:
            windows = {name: quality.window.copy() for name, quality in self._of.items()}
            alarms = {
                name: {"alarms": quality.alarms, "alarm": now - quality.last_alarm < ALARM_SECONDS}
                for name, quality in self._of.items()
            }
        learners = {
            name: {
                "auc": _number(window.auc()),
                "impression_auc": _number(window.impression_auc()),
                "logloss": _number(window.log_loss()),
                **alarms[name],
            }
            for name, window in windows.items()
        }
        for name, base in bases.items():
            if name in windows and base in windows:
                mean, margin = windows[name].gain(windows[base])
                learners[name] |= {"gain": _number(mean), "gain_margin": _number(margin)}
        return learners

    def _earn(self) -> None:
        now = time.monotonic()
        self._allowed = min(self._allowed + (now - self._asked) * WATCHED_PER_SECOND, float(WINDOW_ROWS))
        self._asked = now


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
