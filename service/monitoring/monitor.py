"""What the service knows about itself: quality of each learner as it learns, freshness, rates, drift alarms, Prometheus."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.live_quality import LiveQuality
from streams.batch import Feedback, Times

__all__ = ["Monitor"]

SHOWN_ROWS = 2000
"""Rows of each source that its click-through is the share of: few enough to see a change within seconds."""

RECENT_SECONDS = 10.0
"""Span of the rates and quantiles that are shown."""

LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Monitor:
    """Collects what happens; thread-safe.

    Parameters
    ----------
    gauges : callable returning a mapping
        Numbers that others keep (``lag``, ``memory_bytes``, ``skipped``, ``dead``, ``joiner``, ...), read when asked for.
        ``bases`` names, for each reranker, the ranker over which its gain is taken.

    Attributes
    ----------
    quality : LiveQuality
        To be told what was predicted and what came of it.
    """

    def __init__(self, gauges: Callable[[], Mapping[str, Any]]) -> None:
        self._gauges = [gauges]
        self._lock = threading.Lock()
        self.quality = LiveQuality()
        self._clicked: dict[str, deque[bool]] = {}
        self._impressions: Counter[str] = Counter()
        self._learned: deque[tuple[float, int, Times]] = deque()
        self._latency: deque[tuple[float, float]] = deque(maxlen=20_000)
        self._marks: deque[dict[str, Any]] = deque(maxlen=50)
        self._refused: Counter[str] = Counter()
        self.events = 0
        self.corrections = 0
        self._registry = CollectorRegistry()
        self._latency_histogram = Histogram(
            "freshet_request_seconds",
            "Time from a request's arrival to its answer",
            registry=self._registry,
            buckets=LATENCY_BUCKETS,
        )
        self._fresh_counts = np.zeros(len(LATENCY_BUCKETS) + 1, np.int64)
        self._fresh_sum = 0.0
        self._registry.register(_Families(self))

    def learned(self, feedback: Feedback, sources: Iterable[str], appended: Iterable[float]) -> None:
        """Note a micro-batch that has just been learned.

        Parameters
        ----------
        feedback : Feedback
            N rows.
        sources : iterable of str
            Who ordered each row's impression; empty for rows without one. Length N.
        appended : iterable of float
            When the records behind the batch were appended, Unix seconds.
        """
        now = time.time()
        with self._lock:
            for source, positive, correction in zip(
                sources, (feedback.reward > 0).tolist(), feedback.correction.tolist(), strict=True
            ):
                if source and not correction:
                    self._clicked.setdefault(source, deque(maxlen=SHOWN_ROWS)).append(positive)
                    self._impressions[source] += 1
            self.events += feedback.rows
            self.corrections += int(feedback.correction.sum())
            fresh = np.maximum(now - np.fromiter(appended, np.float64), 0.0)
            self._learned.append((now, feedback.rows, fresh))
            while self._learned[0][0] < now - RECENT_SECONDS:
                self._learned.popleft()
            # Counted by the batch: the client library's own histogram costs more per observation than learning the row.
            np.add.at(self._fresh_counts, np.searchsorted(LATENCY_BUCKETS, fresh), 1)
            self._fresh_sum += float(fresh.sum())

    def request(self, seconds: float) -> None:
        """Note how long a request took."""
        self._latency_histogram.observe(seconds)
        now = time.time()
        with self._lock:
            self._latency.append((now, seconds))
            while self._latency[0][0] < now - RECENT_SECONDS:
                self._latency.popleft()

    def refuse(self, status: int) -> None:
        """Count a request that was not granted, by its HTTP status."""
        with self._lock:
            self._refused[str(status)] += 1

    def watch(self, gauges: Callable[[], Mapping[str, Any]]) -> None:
        """Take in numbers that somebody else keeps, beside those given at the construction."""
        self._gauges.append(gauges)

    def mark(self, text: str) -> None:
        """Put a mark on the time line."""
        with self._lock:
            self._marks.append({"time": time.time(), "text": text})

    def snapshot(self) -> dict[str, Any]:
        """Everything as of now, ready for JSON (numbers that do not exist are None)."""
        gauges: dict[str, Any] = {}
        for one in self._gauges:
            for name, value in one().items():
                gauges[name] = gauges.get(name, {}) | value if isinstance(value, dict) else value
        now = time.time()
        # Whoever learns waits for the lock: under it everything is only copied.
        with self._lock:
            sources = {
                name: {"ctr": sum(rows) / len(rows), "rows": self._impressions[name]} for name, rows in self._clicked.items()
            }
            learned = [batch for batch in self._learned if batch[0] > now - RECENT_SECONDS]
            latency, marks, refused = list(self._latency), list(self._marks), dict(self._refused)
        return {
            "time": now,
            "events": self.events,
            "corrections": self.corrections,
            "learn_rate": sum(rows for _, rows, _ in learned) / RECENT_SECONDS,
            "freshness": _quantiles(np.concatenate([np.empty(0), *(fresh for _, _, fresh in learned)])),
            "latency": _quantiles(_recent(latency, now)),
            "learners": self.quality.snapshot(gauges.pop("bases", {})),
            "sources": sources,
            "marks": marks,
            "refused": refused,
            **gauges,
        }

    def freshness(self) -> HistogramMetricFamily:
        """Histogram of the seconds from an event's append to its visibility in scores, since the start."""
        with self._lock:
            cumulative, total = np.cumsum(self._fresh_counts).tolist(), self._fresh_sum
        bounds = [*map(str, LATENCY_BUCKETS), "+Inf"]
        help_text = "Time from an event's append to its visibility in scores"
        return HistogramMetricFamily(
            "freshet_freshness_seconds", help_text, list(zip(bounds, cumulative, strict=True)), sum_value=total
        )

    def metrics(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Families(Collector):
    """Prometheus families made from a snapshot when they are scraped."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        now = self._monitor.snapshot()
        yield self._monitor.freshness()
        yield CounterMetricFamily("freshet_learned_rows", "Rows learned by this process", value=now["events"])
        yield CounterMetricFamily("freshet_corrections", "Rows that revised an earlier outcome", value=now["corrections"])
        yield GaugeMetricFamily("freshet_learn_rate", "Rows learned per second", value=now["learn_rate"])
        for name, help_text in _GAUGES.items():
            if now.get(name) is not None:
                yield GaugeMetricFamily(f"freshet_{name}", help_text, value=now[name])
        figures = GaugeMetricFamily("freshet_learner", "What a learner tells of itself", labels=["learner", "figure"])
        for learner, told in now.get("figures", {}).items():
            for figure, value in told.items():
                figures.add_metric([learner, figure], value)
        yield figures
        for name, (label, help_text) in _LABELLED.items():
            counter = CounterMetricFamily(f"freshet_{name}", help_text, labels=[label])
            gauge = GaugeMetricFamily(f"freshet_{name}", help_text, labels=[label])
            family = gauge if name == "memory_bytes" else counter
            for key, value in now.get(name, {}).items():
                family.add_metric([key], value)
            yield family
        for name, help_text in _QUALITIES.items():
            gauge = GaugeMetricFamily(f"freshet_{name}", help_text, labels=["learner"])
            for learner, quality in now["learners"].items():
                if quality.get(name) is not None:
                    gauge.add_metric([learner], quality[name])
            yield gauge
        alarms = CounterMetricFamily("freshet_drift_alarms", "Drift alarms (ADWIN) on the squared error", labels=["learner"])
        for learner, quality in now["learners"].items():
            alarms.add_metric([learner], quality["alarms"])
        yield alarms
        clicks = GaugeMetricFamily("freshet_click_through", "Share of the last shown rows with a reward", labels=["source"])
        for source, shown in now["sources"].items():
            clicks.add_metric([source], shown["ctr"])
        yield clicks


_QUALITIES = {
    "auc": "AUC over the last rows",
    "impression_auc": "Mean AUC of the impressions among the last rows",
    "logloss": "Logistic loss over the last rows",
    "gain": "How much lower a reranker's logistic loss is than the ranker's, over the last rows",
    "gain_margin": "Half the width of the 95 % confidence interval of the gain",
}
_GAUGES = {
    "version": "Micro-batches learned since the first event",
    "lag": "Records of the log not learned yet",
    "lag_seconds": "Age of the oldest record not learned yet",
    "waiting": "Requests that wait to be scored",
}
_LABELLED = {
    "engine_seconds": ("work", "Time that the thread of the models spent: serve, learn"),
    "refused": ("status", "Requests that were not granted"),
    "dead": ("reason", "Dead letters"),
    "skipped": ("stage", "Optional stages that failed and were left out of an answer"),
    "poisoned": ("learner", "Batches, and changes of items and users, that a learner could not take"),
    "joiner": ("outcome", "What the joiner met"),
    "failures": (
        "what",
        "What could not be written or read: ticks, checkpoints, dead letters, events put off, the log, records missing in it",
    ),
    "evictions": ("store", "Entries that gave way for want of capacity"),
    "memory_bytes": ("store", "Memory of each store"),
}


def _recent(samples: list[tuple[float, float]], now: float) -> Times:
    times, values = np.array(samples, np.float64).reshape(-1, 2).T
    recent: Times = values[times >= now - RECENT_SECONDS]
    return recent


def _quantiles(values: Times) -> dict[str, float | None]:
    if not values.size:
        return {"p50": None, "p99": None}
    p50, p99 = np.quantile(values, [0.5, 0.99]).tolist()
    return {"p50": p50, "p99": p99}
