"""What a demonstration's clicks say: click-through, clicks against a control group, and how soon it recovers from a shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LONGEST_PHASE", "Second", "against_control", "click_through", "recovery", "span"]

LONGEST_PHASE = 10.0
"""Seconds that click-through is summed over: before a shift, right after it, now."""

RECOVERED = 0.9
"""Share of the click-through before the shift at which it counts as recovered: less would be luck, more may never come."""

SHORTEST, FEWEST = 5.0, 1000
"""Seconds, and shown places, after a shift that recovery is judged by: fewer clicks say more of chance than of tastes."""


@dataclass(frozen=True)
class Second:
    """What visitors did in the second up to `time`.

    Attributes
    ----------
    time : float
        Unix seconds.
    visits : int
    shown, clicked : dict of source to int
        Places of the rankings that each learner made, and the clicks on them.
    next_shift : float
        When tastes shift next, Unix seconds.
    """

    time: float
    visits: int
    shown: dict[str, int]
    clicked: dict[str, int]
    next_shift: float


def span(seconds: Sequence[Second], until: float, length: float) -> list[Second]:
    """The seconds of the last `length` before `until`."""
    return [second for second in seconds if until - length < second.time <= until]


def click_through(seconds: Sequence[Second]) -> dict[str, float]:
    """Share of shown places that were clicked, by source."""
    sources = sorted({source for second in seconds for source in second.shown})
    return {source: _total(seconds, source)[1] / max(_total(seconds, source)[0], 1) for source in sources}


def against_control(rates: dict[str, float], control: str) -> float | None:
    """How much more is clicked than in the control group: 0.38 for 38 % more; None where one of them has no clicks to show.

    Parameters
    ----------
    rates : dict of source to float
        From `click_through`: of the control group and of one other.
    control : str
        Source of the control group's rankings.
    """
    others = [rate for source, rate in rates.items() if source != control]
    if len(others) != 1 or not rates.get(control):
        return None
    return others[0] / rates[control] - 1.0


def recovery(seconds: Sequence[Second], shift: float, until: float, source: str) -> float | None:
    """Seconds from a shift until click-through is near to what it was before; None: it was not, up to `until`.

    Parameters
    ----------
    seconds : sequence of Second
    shift, until : float
        Unix seconds.
    source : str
        Whose rankings.
    """
    before = click_through(span(seconds, shift, LONGEST_PHASE)).get(source)
    after = [second for second in seconds if shift < second.time <= until]
    if not before:
        return None
    for last in range(1, len(after) + 1):
        for first in range(last - 1, -1, -1):
            shown, clicked = _total(after[first:last], source)
            begin = after[first - 1].time if first else shift
            if after[last - 1].time - begin >= SHORTEST and shown >= FEWEST:
                if clicked / shown >= RECOVERED * before:
                    return after[last - 1].time - shift
                break
    return None


def _total(seconds: Sequence[Second], source: str) -> tuple[int, int]:
    shown = sum(second.shown.get(source, 0) for second in seconds)
    return shown, sum(second.clicked.get(source, 0) for second in seconds)
