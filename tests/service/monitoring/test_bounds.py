"""What clients say does not decide how much memory the metrics take."""

from __future__ import annotations

import numpy as np

from learners.contract.checks import world
from service.monitoring.click_through import MAX_OTHERS, SHOWN_ROWS
from service.monitoring.monitor import Monitor
from service.monitoring.timing import MAX_SAMPLES, MAX_SAMPLES_OF_A_BATCH, RECENT_SECONDS, Freshness


def test_of_100_000_sources_the_first_have_metrics_and_the_rest_is_other() -> None:
    monitor, feedback = Monitor(dict, sources=["fm"]), world(0, rows=1000)
    feedback.correction[:] = False
    for start in range(0, 100_000, 1000):
        monitor.learned(feedback, [f"s{n}" for n in range(start, start + 1000)], [])
    monitor.learned(feedback, ["fm"] * 1000, [])
    shown = monitor.snapshot()["sources"]
    assert set(shown) == {*(f"s{n}" for n in range(MAX_OTHERS)), "other", "fm"}
    assert shown["other"]["rows"] == 100_000 - MAX_OTHERS and shown["fm"]["rows"] == 1000
    assert monitor.metrics().count(b"\nfreshet_click_through{") == MAX_OTHERS + 2
    assert monitor.nbytes < (MAX_OTHERS + 2) * (8 * SHOWN_ROWS + 1024) + 10_000_000


def test_freshness_counts_all_rows_and_keeps_some_samples() -> None:
    freshness = Freshness()
    for n in range(50_000):
        freshness.add(RECENT_SECONDS * n / 50_000, 2, np.full(2, 0.01))
    recent = freshness.recent(RECENT_SECONDS - 1e-9)
    assert sum(rows for _, rows, _ in recent) == 100_000
    assert len(recent) <= MAX_SAMPLES
    freshness.add(RECENT_SECONDS + 1, 5000, np.full(5000, 0.02))
    assert freshness.recent(RECENT_SECONDS + 1)[-1][2].size == MAX_SAMPLES_OF_A_BATCH
