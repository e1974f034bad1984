"""Collects the metrics of the running service: quality of each learner, freshness, latency, rates, drift alarms."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily

from service.monitoring.click_through import ClickThrough
from service.monitoring.live_quality import LiveQuality
from service.monitoring.prometheus import Families
from service.monitoring.timing import RECENT_SECONDS, Freshness, Latency, quantiles
from streams.batch import Feedback

__all__ = ["Monitor"]


class Monitor:
    """Collects metrics; thread-safe.

    Parameters
    ----------
    gauges : callable returning a mapping
        Metrics of other components (``lag``, ``memory_bytes``, ``skipped``, ``dead``, ``joiner``, ...), called for each
        snapshot. ``bases`` names, for each reranker, the ranker that its gain is measured against.
    sources : iterable of str
        Sources of rankings that always have metrics of their own; of others, only the first ones have.

    Attributes
    ----------
    quality : LiveQuality
        Receives predictions and outcomes.
    """

    def __init__(self, gauges: Callable[[], Mapping[str, Any]], sources: Iterable[str] = ()) -> None:
        self._gauges = [gauges]
        self._lock = threading.Lock()
        self.quality = LiveQuality()
        self._marks: deque[dict[str, Any]] = deque(maxlen=50)
        self._refused: Counter[str] = Counter()
        self.events = 0
        self.corrections = 0
        self._registry = CollectorRegistry()
        self._click_through, self._freshness, self._latency = ClickThrough(sources), Freshness(), Latency(self._registry)
        self._registry.register(Families(self.snapshot, self.freshness))

    def learned(self, feedback: Feedback, sources: Iterable[str], appended: Iterable[float]) -> None:
        """Add a micro-batch that has just been learned.

        Parameters
        ----------
        feedback : Feedback
            N rows.
        sources : iterable of str
            Source of each row's ranking, length N; empty for rows without one.
        appended : iterable of float
            Append times of the records in the batch, Unix seconds.
        """
        now = time.time()
        with self._lock:
            self._click_through.add(feedback, sources)
            self.events += feedback.rows
            self.corrections += int(feedback.correction.sum())
            self._freshness.add(now, feedback.rows, np.maximum(now - np.fromiter(appended, np.float64), 0.0))

    def request(self, seconds: float) -> None:
        """Add the latency of a request."""
        now = time.time()
        with self._lock:
            self._latency.add(now, seconds)

    def refuse(self, status: int) -> None:
        """Count a refused request, by HTTP status."""
        with self._lock:
            self._refused[str(status)] += 1

    @property
    def nbytes(self) -> int:
        """Approximate memory of the windows and samples."""
        with self._lock:
            return self._click_through.nbytes + self._freshness.nbytes + self._latency.nbytes + self.quality.nbytes

    def watch(self, gauges: Callable[[], Mapping[str, Any]]) -> None:
        """Add a source of metrics to those given to the constructor."""
        self._gauges.append(gauges)

    def mark(self, text: str) -> None:
        """Add a mark to the time line."""
        with self._lock:
            self._marks.append({"time": time.time(), "text": text})

    def snapshot(self) -> dict[str, Any]:
        """Current metrics, ready for JSON (undefined numbers are None)."""
        gauges: dict[str, Any] = {}
        for gauge in self._gauges:
            for name, value in gauge().items():
                gauges[name] = gauges.get(name, {}) | value if isinstance(value, dict) else value
        now = time.time()
        # Learning waits for this lock, so only copies are made under it.
        with self._lock:
            sources, learned = self._click_through.snapshot(), self._freshness.recent(now)
            latency, marks, refused = self._latency.copy(), list(self._marks), dict(self._refused)
        return {
            "time": now,
            "events": self.events,
            "corrections": self.corrections,
            "learn_rate": sum(rows for _, rows, _ in learned) / RECENT_SECONDS,
            "freshness": quantiles(np.concatenate([np.empty(0), *(fresh for _, _, fresh in learned)])),
            "latency": quantiles(Latency.recent(latency, now)),
            "learners": self.quality.snapshot(gauges.pop("bases", {})),
            "sources": sources,
            "marks": marks,
            "refused": refused,
            **gauges,
        }

    def freshness(self) -> HistogramMetricFamily:
        """Histogram of the seconds from an event's append to its effect on scores, since the start."""
        with self._lock:
            return self._freshness.histogram()

    def metrics(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)
