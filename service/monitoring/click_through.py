"""Click-through of each source of rankings."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from streams.batch import Feedback

__all__ = ["ClickThrough"]

SHOWN_ROWS = 2000
"""Rows per source in the sliding window: few enough to see a change within seconds."""


class ClickThrough:
    """Share of the last shown rows with a positive reward, by source. Not thread-safe; the monitor's lock guards it."""

    def __init__(self) -> None:
        self._clicked: dict[str, deque[bool]] = {}
        self._rows: Counter[str] = Counter()

    def add(self, feedback: Feedback, sources: Iterable[str]) -> None:
        """Add N learned rows. `sources` (N) names the source of each row's ranking; empty for rows without one."""
        for source, positive, correction in zip(
            sources, (feedback.reward > 0).tolist(), feedback.correction.tolist(), strict=True
        ):
            if source and not correction:
                self._clicked.setdefault(source, deque(maxlen=SHOWN_ROWS)).append(positive)
                self._rows[source] += 1

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Click-through and number of rows shown since the start, by source."""
        return {name: {"ctr": sum(rows) / len(rows), "rows": self._rows[name]} for name, rows in self._clicked.items()}
