"""The metrics as Prometheus families: names, labels and help texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["GAUGES", "LABELLED", "QUALITIES", "Families"]


class Families(Collector):
    """Builds the metric families from a snapshot at every scrape.

    Parameters
    ----------
    snapshot : callable returning a dict
        As `service.monitoring.monitor.Monitor.snapshot`.
    freshness : callable returning a metric
        Histogram of the freshness of scores.
    """

    def __init__(self, snapshot: Callable[[], dict[str, Any]], freshness: Callable[[], Metric]) -> None:
        self._snapshot, self._freshness = snapshot, freshness

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration does not check the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family with its current values."""
        now = self._snapshot()
        yield self._freshness()
        yield CounterMetricFamily("freshet_learned_rows", "Rows learned by this process", value=now["events"])
        yield CounterMetricFamily("freshet_corrections", "Rows that revised an earlier outcome", value=now["corrections"])
        yield GaugeMetricFamily("freshet_learn_rate", "Rows learned per second", value=now["learn_rate"])
        for name, help_text in GAUGES.items():
            if now.get(name) is not None:
                yield GaugeMetricFamily(f"freshet_{name}", help_text, value=now[name])
        metrics = GaugeMetricFamily("freshet_learner", "Metrics reported by a learner", labels=["learner", "metric"])
        for learner, reported in now.get("metrics", {}).items():
            for metric, value in reported.items():
                metrics.add_metric([learner, metric], value)
        yield metrics
        for name, (label, help_text) in LABELLED.items():
            counter = CounterMetricFamily(f"freshet_{name}", help_text, labels=[label])
            gauge = GaugeMetricFamily(f"freshet_{name}", help_text, labels=[label])
            family = gauge if name == "memory_bytes" else counter
            for key, value in now.get(name, {}).items():
                family.add_metric([key], value)
            yield family
        for name, help_text in QUALITIES.items():
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


QUALITIES = {
    "auc": "AUC over the last rows",
    "impression_auc": "Mean AUC of the impressions among the last rows",
    "logloss": "Logistic loss over the last rows",
    "gain": "Logistic loss of the ranker minus that of the reranker, over the last rows",
    "gain_margin": "Half the width of the 95 % confidence interval of the gain",
}
GAUGES = {
    "version": "Micro-batches learned since the first event",
    "lag": "Records of the log not learned yet",
    "lag_seconds": "Age of the oldest record not learned yet",
    "waiting": "Requests waiting to be scored",
    "compiled_functions": "Functions compiled or loaded, by types of arguments; a request that adds one has waited for it",
    "clock_stuck_seconds": "Time for which a partition's clock has stood still although impressions are open",
    "clock_lead_seconds": "Time by which a partition's clock, which follows the records, is ahead of this machine's",
}
LABELLED = {
    "engine_seconds": ("work", "Time of the engine thread by work: serve, learn"),
    "held": ("end", "Requests that waited for their user's own events, by how that ended: learned, timed_out"),
    "refused": ("status", "Refused requests"),
    "denied": ("reason", "Requests refused for their key: missing, wrong, scope"),
    "dead": ("reason", "Dead letters"),
    "skipped": ("stage", "Optional stages that failed and were left out of a response"),
    "poisoned": ("learner", "Batches, and changes of items and users, on which a learner failed"),
    "joiner": ("outcome", "Events and rows counted by the joiner"),
    "failures": (
        "what",
        "Failed reads and writes: ticks, checkpoints, dead letters, queued events, the log, missing records, keys",
    ),
    "evictions": ("store", "Entries evicted because a store, or the log of dead letters, was full"),
    "memory_bytes": ("store", "Memory of each store"),
}
