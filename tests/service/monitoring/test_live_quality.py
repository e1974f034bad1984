"""Live quality on data with a known answer."""

from __future__ import annotations

import time

import numpy as np
import pytest

from service.monitoring.live_quality import SAMPLED_ROWS, SAMPLED_ROWS_PER_SECOND, WINDOW_ROWS, LiveQuality
from service.monitoring.measure import SERVING, Scored


def scored(reward: list[float], impression: list[int] | None = None, **predictions: list[float]) -> Scored:
    return Scored(
        np.ones(len(reward), np.int64),
        np.array(reward, np.float32),
        np.array([-1] * len(reward) if impression is None else impression),
        {name: np.array(learners, np.float32) for name, learners in predictions.items()},
    )


def test_rows_of_a_large_micro_batch_are_sampled_at_every_position() -> None:
    assert LiveQuality().choose_rows(SAMPLED_ROWS) is None
    drawn = np.stack([LiveQuality().choose_rows(10 * SAMPLED_ROWS) for _ in range(400)])
    assert (np.diff(drawn) > 0).all()
    by_place = np.bincount(drawn.ravel() % 10, minlength=10) / drawn.size
    assert by_place == pytest.approx(np.full(10, 0.1), abs=0.02)


def test_batches_are_skipped_when_rows_exceed_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    quality = LiveQuality()

    def seen(seconds: int, rows: int, batches: int) -> int:
        chosen = 0
        for _ in range(seconds * batches):
            now[0] += 1 / batches
            some = quality.choose_rows(rows)
            chosen += rows if some is None else some.size
        return chosen

    assert seen(5, rows=1, batches=100) == 500, "all of a few"
    seen(60, rows=64, batches=80)
    assert seen(10, rows=64, batches=80) == pytest.approx(10 * SAMPLED_ROWS_PER_SECOND, abs=SAMPLED_ROWS)
    assert seen(10, rows=1, batches=100) == 1000, "all of a few again"


def test_impressions_are_chosen_whole_and_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    quality = LiveQuality()
    assert list(quality.choose_impressions([5, 6, 7])) == [0, 1, 2], "all of a few"
    assert len(quality.choose_impressions([1000, 1000])) == 1, "at least one, however long"
    while quality.choose_impressions([100] * 20):
        pass
    rows = 0
    for _ in range(1000):
        now[0] += 0.1
        rows += sum(10 for _ in quality.choose_impressions([10] * 40))
    assert rows == pytest.approx(100 * SAMPLED_ROWS_PER_SECOND, rel=0.02)


def test_a_late_outcome_revises_the_row_and_no_other() -> None:
    quality = LiveQuality()
    quality.add(scored([1, 0], fm=[0.5, 0.5]))
    first = quality.add(scored([0, 0, 1], [0, 0, 0], fm=[0.9, 0.1, 0.2]))
    assert quality.snapshot({})["fm"]["impression_auc"] == 0.5
    quality.revise(first, 5.0)
    now = quality.snapshot({})["fm"]
    assert now["impression_auc"] == 1.0
    loss = -np.log([0.5, 0.5, 0.9, 0.9, 0.2])
    assert now["logloss"] == pytest.approx(np.average(loss, weights=[1, 1, 5, 1, 1])), "a reward of 5 weighs 5"


def test_a_gain_is_measured_on_the_rows_that_both_predicted() -> None:
    quality = LiveQuality()
    quality.add(scored([1, 1], base=[0.1, 0.1]))
    quality.add(scored([1, 0], base=[0.5, 0.5], better=[0.8, 0.2]))
    quality.add(scored([1], base=[0.2], serving=[0.2]))
    learners = quality.snapshot({"better": "base"})
    assert learners["better"]["gain"] == pytest.approx(np.log(0.8) - np.log(0.5))
    assert SERVING not in learners, "live, these are the scores of the last stage"


def test_rows_leave_the_window() -> None:
    quality = LiveQuality()
    quality.add(scored([1, 0], fm=[0.1, 0.9]))
    quality.add(scored([1, 0] * (WINDOW_ROWS // 2), fm=[0.9, 0.1] * (WINDOW_ROWS // 2)))
    assert quality.snapshot({})["fm"]["auc"] == 1.0
    quality.revise(0, 1.0)
    assert quality.snapshot({})["fm"]["auc"] == 1.0, "the window no longer holds it"
