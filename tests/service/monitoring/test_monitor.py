"""Metrics of the service on data with a known answer."""

from __future__ import annotations

import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from learners.contract.checks import world
from service.monitoring.measure import Scored
from service.monitoring.monitor import Monitor
from streams.batch import Feedback


def batch(rng: np.random.Generator, accuracy: float, rows: int = 64) -> tuple[Feedback, dict[str, np.ndarray]]:
    """Coin flips, and a learner that predicts each with this accuracy."""
    feedback = world(int(rng.integers(1 << 30)), rows=rows)
    feedback.reward = rng.integers(0, 2, rows).astype(np.float32)
    right = rng.random(rows) < accuracy
    return feedback, {"oracle": np.where(right == (feedback.reward > 0), 0.9, 0.1).astype(np.float32)}


def scored(feedback: Feedback, predictions: dict[str, np.ndarray]) -> Scored:
    return Scored(feedback.user[feedback.request], feedback.reward, np.full(feedback.rows, -1), predictions)


def samples(monitor: Monitor) -> dict[tuple[str, str], float]:
    """Every exported sample by name and last label."""
    found = {}
    for family in text_string_to_metric_families(monitor.metrics().decode()):
        for sample in family.samples:
            found[sample.name, next(iter(sample.labels.values()), "")] = sample.value
    return found


def test_an_alarm_rings_when_a_learner_gets_worse_and_not_before() -> None:
    monitor, rng = Monitor(dict), np.random.default_rng(0)
    for _ in range(150):
        feedback, predictions = batch(rng, 0.9)
        monitor.quality.add(scored(feedback, predictions))
    before = monitor.snapshot()["learners"]["oracle"]
    assert before["alarms"] == 0
    assert before["auc"] == pytest.approx(0.9, abs=0.03)
    for _ in range(100):
        feedback, predictions = batch(rng, 0.5)
        monitor.quality.add(scored(feedback, predictions))
    after = monitor.snapshot()["learners"]["oracle"]
    assert after["alarms"] >= 1
    assert after["alarm"]
    assert after["auc"] == pytest.approx(0.5, abs=0.03)


def test_click_through_is_of_rows_that_were_shown_and_counts_each_once() -> None:
    monitor, feedback = Monitor(dict), world(0, rows=6)
    feedback.reward = np.array([1, 0, 0, 0, 1, 1], np.float32)
    feedback.correction = np.array([0, 0, 0, 0, 0, 1], np.bool_)
    monitor.learned(feedback, ["fm", "fm", "fm", "fm", "", "fm"], [])
    shown = monitor.snapshot()
    assert shown["sources"] == {"fm": {"ctr": 0.25, "rows": 4}}
    assert shown["events"] == 6
    assert shown["corrections"] == 1


def test_freshness_is_the_age_of_events_when_they_become_visible() -> None:
    monitor, now = Monitor(dict), time.time()
    monitor.learned(world(0, rows=2), ["", ""], [now - 0.5, now - 0.5, now - 40.0])
    fresh = monitor.snapshot()["freshness"]
    assert 0.5 <= fresh["p50"] < 30
    assert fresh["p99"] > 30
    exported = samples(monitor)
    assert exported["freshet_freshness_seconds_bucket", "0.25"] == 0
    assert exported["freshet_freshness_seconds_bucket", "+Inf"] == 3
    assert exported["freshet_freshness_seconds_count", ""] == 3
    assert exported["freshet_freshness_seconds_sum", ""] > 41


def test_gauges_of_other_components_are_exported_by_name() -> None:
    gauges = {
        "version": 7,
        "lag": 3,
        "lag_seconds": 1.5,
        "dead": {"not_json": 2},
        "skipped": {"sar": 1},
        "failures": {"tick": 4},
        "memory_bytes": {"ranker.rows": 100},
    }
    monitor = Monitor(lambda: gauges)
    monitor.request(0.004)
    exported = samples(monitor)
    assert exported["freshet_version", ""] == 7
    assert exported["freshet_lag", ""] == 3
    assert exported["freshet_lag_seconds", ""] == 1.5
    assert exported["freshet_dead_total", "not_json"] == 2
    assert exported["freshet_skipped_total", "sar"] == 1
    assert exported["freshet_failures_total", "tick"] == 4
    assert exported["freshet_memory_bytes", "ranker.rows"] == 100
    assert exported["freshet_request_seconds_bucket", "0.003"] == 0
    assert exported["freshet_request_seconds_bucket", "0.005"] == 1


def test_a_rerankers_gain_and_the_metrics_of_learners_are_exported() -> None:
    told = {"bases": {"better": "base"}, "metrics": {"better": {"fill": 0.25, "reads": 7.0}}}
    monitor, rng = Monitor(lambda: told), np.random.default_rng(0)
    for _ in range(20):
        feedback, predictions = batch(rng, 0.9)
        coin = np.full(feedback.rows, 0.5, np.float32)
        monitor.quality.add(scored(feedback, {"base": coin, "better": predictions["oracle"]}))
    learners = monitor.snapshot()["learners"]
    assert learners["better"]["gain"] == pytest.approx(learners["base"]["logloss"] - learners["better"]["logloss"])
    assert 0 < learners["better"]["gain_margin"] < learners["better"]["gain"]
    assert "gain" not in learners["base"]
    found = samples(monitor)
    assert found["freshet_gain", "better"] == pytest.approx(learners["better"]["gain"])
    assert ("freshet_gain", "base") not in found
    assert {value for (name, _), value in found.items() if name == "freshet_learner"} & {7.0, 0.25}
