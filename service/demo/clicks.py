"""Metrics of a demonstration: click-through, lift over a control group, and recovery time after a shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MAX_PHASE", "Second", "click_through", "control_lift", "recovery", "window"]

MAX_PHASE = 10.0
"""Longest phase, in seconds: click-through is measured before a shift, right after it, and now."""

RECOVERED = 0.9
"""Share of the click-through before the shift that counts as recovered. A higher share may never be reached."""

MIN_SECONDS, MIN_SHOWN = 5.0, 1000
"""Least seconds and shown items that recovery is measured on: with fewer clicks, chance dominates."""


@dataclass(frozen=True)
class Second:
    """Counts of the second that ended at `time`.

    Attributes
    ----------
    time : float
        Unix time.
    visits : int
    shown, clicked : dict of source to int
        Shown items and clicks, by the learner that ranked them.
    next_shift : float
        Unix time of the next shift of tastes.
    """

    time: float
    visits: int
    shown: dict[str, int]
    clicked: dict[str, int]
    next_shift: float


def window(seconds: Sequence[Second], until: float, length: float) -> list[Second]:
    """Seconds within `length` before `until`."""
    return [second for second in seconds if until - length < second.time <= until]


def click_through(seconds: Sequence[Second]) -> dict[str, float]:
    """Share of shown items that were clicked, by source."""
    sources = sorted({source for second in seconds for source in second.shown})
    return {source: _total(seconds, source)[1] / max(_total(seconds, source)[0], 1) for source in sources}


def control_lift(rates: dict[str, float], control: str) -> float | None:
    """Lift of the click-through over the control group: 0.38 for 38 % more; None if a group is missing or has no clicks.

    Parameters
    ----------
    rates : dict of source to float
        From `click_through`, for the control group and one other source.
    control : str
        Source of the control group's rankings.
    """
    others = [rate for source, rate in rates.items() if source != control]
    if len(others) != 1 or not rates.get(control):
        return None
    return others[0] / rates[control] - 1.0


def recovery(seconds: Sequence[Second], shift: float, until: float, source: str) -> float | None:
    """Seconds from a shift until click-through is near its value before; None: not reached by `until`.

    Parameters
    ----------
    seconds : sequence of Second
    shift, until : float
        Unix times.
    source : str
        Learner whose rankings count.
    """
    before = click_through(window(seconds, shift, MAX_PHASE)).get(source)
    after = [second for second in seconds if shift < second.time <= until]
    if not before:
        return None
    for last in range(1, len(after) + 1):
        for first in range(last - 1, -1, -1):
            shown, clicked = _total(after[first:last], source)
            begin = after[first - 1].time if first else shift
            if after[last - 1].time - begin >= MIN_SECONDS and shown >= MIN_SHOWN:
                if clicked / shown >= RECOVERED * before:
                    return after[last - 1].time - shift
                break
    return None


def _total(seconds: Sequence[Second], source: str) -> tuple[int, int]:
    shown = sum(second.shown.get(source, 0) for second in seconds)
    return shown, sum(second.clicked.get(source, 0) for second in seconds)
