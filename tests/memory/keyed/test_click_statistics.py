"""Click statistics against their formulas, on every row of random streams."""

from __future__ import annotations

import numpy as np
import pytest

from memory.keyed.click_statistics import LEAST, PRIOR_SHOWS, ClickStatistics

START = 1.6e9
HALF_LIVES = (60.0, 3600.0)


def log_odds(rate: float) -> float:
    return float(np.log(rate / (1.0 - rate)))


class Naive:
    """All rows of the past."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, bool]] = []

    def counts(self, key: int | None, now: float, half_life: float) -> tuple[float, float]:
        rows = [(time, clicked) for mine, time, clicked in self.rows if key in (None, mine)]
        weights = [(2.0 ** (-max(now - time, 0.0) / half_life), clicked) for time, clicked in rows]
        return sum(weight for weight, _ in weights), sum(weight for weight, clicked in weights if clicked)

    def describe(self, key: int, now: float) -> list[float]:
        rates, clicks = [], []
        for half_life in HALF_LIVES:
            shows_of_all, clicks_of_all = self.counts(None, max((time for _, time, _ in self.rows), default=now), half_life)
            rate = (clicks_of_all + 0.5) / (shows_of_all + 1.0)
            shows, clicked = self.counts(key, now, half_life)
            rates.append(log_odds((clicked + PRIOR_SHOWS * rate) / (shows + PRIOR_SHOWS)) - log_odds(rate))
            clicks.append(np.log(clicked + LEAST))
        mine = [time for other, time, _ in self.rows if other == key]
        return [*rates, *clicks, np.log1p((now - mine[0]) / 60.0) if mine else 0.0]


def stream(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 12, rows), START + np.sort(rng.uniform(0, 9000, rows)), rng.random(rows) < 0.3


def test_rows_in_order_follow_the_formulas_however_they_are_cut() -> None:
    key, time, clicked = stream(300)
    naive, expected = Naive(), []
    for row in zip(key.tolist(), time.tolist(), clicked.tolist(), strict=True):
        expected.append(naive.describe(*row[:2]))
        naive.rows.append(row)
    for cut in (1, 7, 300):
        store, found = ClickStatistics(20, HALF_LIVES), []
        for start in range(0, 300, cut):
            rows = slice(start, start + cut)
            found.append(store.describe_in_order(key[rows], time[rows], clicked[rows]))
            alone = store.describe(key[rows][:1], time[rows][:1])
            assert alone[0].tolist() == found[-1][0].tolist(), "the first row knows nothing of the others"
            store.add(key[rows], time[rows], clicked[rows], np.ones(key[rows].size, np.bool_))
        assert np.concatenate(found) == pytest.approx(np.array(expected), rel=1e-4, abs=1e-4)


def test_describing_in_order_changes_no_numbers() -> None:
    key, time, clicked = stream(100)
    store = ClickStatistics(20, HALF_LIVES)
    store.add(key, time, clicked, np.ones(100, np.bool_))
    later = time + 9000.0
    before = store.describe(key, later)
    store.describe_in_order(key, later, clicked)
    assert store.describe(key, later).tolist() == before.tolist()


def test_a_late_click_is_no_second_show() -> None:
    late, at_once = ClickStatistics(5, [3600.0]), ClickStatistics(5, [3600.0])
    one, now, yes, no = np.array([1]), np.array([START]), np.array([True]), np.array([False])
    late.add(one, now, no, yes)
    late.add(one, now, yes, no)
    at_once.add(one, now, yes, yes)
    assert late.describe(one, now).tolist() == at_once.describe(one, now).tolist()


def test_forgotten_and_unknown_keys_have_no_record() -> None:
    key, time, clicked = stream(100)
    store = ClickStatistics(20, HALF_LIVES)
    store.add(key, time, clicked, np.ones(100, np.bool_))
    store.forget(np.array([3]))
    described = store.describe(np.array([3, 999, 0]), np.full(3, time[-1]))
    nothing = [0.0, 0.0, np.log(LEAST), np.log(LEAST), 0.0]
    assert described == pytest.approx(np.array([nothing] * 3), abs=1e-6)


@pytest.mark.parametrize("half_lives", [[], [0.0], [60.0, 60.0]])
def test_half_lives_must_differ_and_be_positive(half_lives: list[float]) -> None:
    with pytest.raises(ValueError, match="half_lives"):
        ClickStatistics(5, half_lives)
