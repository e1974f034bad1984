"""Metrics of the demonstration's clicks, where the answer is known."""

from __future__ import annotations

import pytest

from service.demo.clicks import Second, click_through, control_lift, recovery, window


def seconds(rates: list[float], start: float = 100.0, shown: int = 1000) -> list[Second]:
    """A second for each click-through of ``fm``; ``popularity`` has half of the visits and a tenth of them click."""
    return [
        Second(
            start + n + 1, 2, {"fm": shown, "popularity": shown}, {"fm": round(rate * shown), "popularity": shown // 10}, 0.0
        )
        for n, rate in enumerate(rates)
    ]


def test_click_through_is_the_share_of_shown_items_by_source() -> None:
    assert click_through(seconds([0.2, 0.4])) == {"fm": pytest.approx(0.3), "popularity": 0.1}
    assert click_through([]) == {}


def test_lift_is_the_relative_gain_over_the_control_group() -> None:
    assert control_lift({"fm": 0.138, "popularity": 0.1}, "popularity") == pytest.approx(0.38)
    assert control_lift({"fm": 0.05, "popularity": 0.1}, "popularity") == pytest.approx(-0.5)


@pytest.mark.parametrize("rates", [{}, {"fm": 0.1}, {"popularity": 0.1}, {"fm": 0.1, "popularity": 0.0}])
def test_without_clicks_in_both_groups_there_is_no_lift(rates: dict[str, float]) -> None:
    assert control_lift(rates, "popularity") is None


def test_a_phase_is_the_seconds_before_its_end() -> None:
    assert [second.time for second in window(seconds([0.1] * 10), until=105.0, length=2.0)] == [104.0, 105.0]


def test_recovery_needs_five_seconds_near_the_click_through_before_the_shift() -> None:
    # Before the shift at 110: 0.3. After it 0.1 for seven seconds, then 0.3: five seconds of that are needed for 0.27.
    world = seconds([0.3] * 10 + [0.1] * 7 + [0.3] * 10)
    assert recovery(world, shift=110.0, until=1e9, source="fm") == 12.0
    assert recovery(world, shift=110.0, until=121.0, source="fm") is None


def test_a_harmless_shift_is_recovered_from_after_the_least_time() -> None:
    assert recovery(seconds([0.3] * 20), shift=110.0, until=1e9, source="fm") == 5.0


def test_seconds_before_the_shift_do_not_count_as_recovery() -> None:
    assert recovery(seconds([0.3] * 10 + [0.1] * 30), shift=110.0, until=1e9, source="fm") is None


def test_few_visits_are_measured_over_more_seconds() -> None:
    # 100 shown items a second: 1,000 take ten seconds.
    assert recovery(seconds([0.3] * 10 + [0.3] * 20, shown=100), shift=110.0, until=1e9, source="fm") == 10.0


def test_a_source_without_rankings_before_the_shift_has_no_recovery() -> None:
    assert recovery(seconds([0.3] * 20), shift=100.0, until=1e9, source="fm") is None
