"""Latency of requests, and freshness: the time from an event's append to its effect on scores.

Nothing here is thread-safe; the monitor's lock guards it.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import HistogramMetricFamily

from streams.batch import Times

__all__ = ["LATENCY", "RECENT_SECONDS", "Freshness", "Latency", "quantiles"]

RECENT_SECONDS = 10.0
"""Seconds that the shown rates and quantiles cover."""

MAX_SAMPLES, MAX_SAMPLES_OF_A_BATCH = 20_000, 256
"""Most samples of requests, and of micro-batches, that are kept; most events of a micro-batch among them."""

BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds of both histograms, in seconds."""

LATENCY = ("freshet_request_seconds", "Time from the arrival of a request to its response")
"""Name and help text of the histogram of latencies."""


class Latency:
    """Seconds from the arrival of a request to its response.

    Parameters
    ----------
    registry : CollectorRegistry
        Registers the histogram.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)
        self._histogram = Histogram(*LATENCY, registry=registry, buckets=BUCKETS)

    def add(self, now: float, seconds: float) -> None:
        """Add a request that was answered at `now`."""
        self._histogram.observe(seconds)
        self._samples.append((now, seconds))
        while self._samples[0][0] < now - RECENT_SECONDS:
            self._samples.popleft()

    @property
    def nbytes(self) -> int:
        """Memory of the samples."""
        return 120 * len(self._samples)

    def copy(self) -> list[tuple[float, float]]:
        """Copy of the (time, seconds) pairs of the last requests."""
        return list(self._samples)

    @staticmethod
    def recent(samples: list[tuple[float, float]], now: float) -> Times:
        """Seconds of the recent samples, (n,)."""
        times, values = np.array(samples, np.float64).reshape(-1, 2).T
        recent: Times = values[times >= now - RECENT_SECONDS]
        return recent


class Freshness:
    """Seconds from an event's append to its effect on scores, and rows learned."""

    def __init__(self) -> None:
        self._batches: deque[tuple[float, int, Times]] = deque()
        self._sampled = 0
        self._counts = np.zeros(len(BUCKETS) + 1, np.int64)
        self._sum = 0.0

    def add(self, now: float, rows: int, seconds: Times) -> None:
        """Add a micro-batch that was learned at `now`, `seconds` (n,) after its records were appended."""
        last = self._batches[-1] if self._batches else None
        if last is not None and now - last[0] < RECENT_SECONDS / MAX_SAMPLES:
            # Very many small batches: the rows of all count, the seconds of one are sampled.
            self._batches[-1] = last[0], last[1] + rows, last[2]
        else:
            sample = seconds[:MAX_SAMPLES_OF_A_BATCH].copy()
            self._batches.append((now, rows, sample))
            self._sampled += sample.size
        while self._batches[0][0] < now - RECENT_SECONDS:
            self._sampled -= self._batches.popleft()[2].size
        # Counted per batch: the client library's histogram costs more per observation than learning the row.
        np.add.at(self._counts, np.searchsorted(BUCKETS, seconds), 1)
        self._sum += float(seconds.sum())

    @property
    def nbytes(self) -> int:
        """Memory of the samples."""
        return 8 * self._sampled + 250 * len(self._batches)

    def recent(self, now: float) -> list[tuple[float, int, Times]]:
        """(time, rows, seconds) of the recent micro-batches."""
        return [batch for batch in self._batches if batch[0] > now - RECENT_SECONDS]

    def histogram(self) -> HistogramMetricFamily:
        """Histogram since the start."""
        bounds = [*map(str, BUCKETS), "+Inf"]
        help_text = "Time from an event's append to its effect on scores"
        cumulative = np.cumsum(self._counts).tolist()
        return HistogramMetricFamily(
            "freshet_freshness_seconds", help_text, list(zip(bounds, cumulative, strict=True)), sum_value=self._sum
        )


def quantiles(values: Times) -> dict[str, float | None]:
    """Median and 99th percentile of (n,) values; None if n is 0."""
    if not values.size:
        return {"p50": None, "p99": None}
    p50, p99 = np.quantile(values, [0.5, 0.99]).tolist()
    return {"p50": p50, "p99": p99}
