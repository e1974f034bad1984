"""Click-through of each source of rankings."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from streams.batch import Feedback

__all__ = ["ClickThrough"]

SHOWN_ROWS = 2000
"""Rows per source in the sliding window: few enough to see a change within seconds."""


OTHER, MAX_OTHERS = "other", 32
"""Name for all further sources, and how many sources that the service does not know have metrics of their own: clients may send
any text as the source of their own rankings."""


class ClickThrough:
    """Share of the last shown rows with a positive reward, by source. Not thread-safe; the monitor's lock guards it.

    Parameters
    ----------
    known : iterable of str
        Sources that always have metrics of their own.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = frozenset(known)
        self._others = 0
        self._clicked: dict[str, deque[bool]] = {}
        self._rows: Counter[str] = Counter()

    def add(self, feedback: Feedback, sources: Iterable[str]) -> None:
        """Add N learned rows. `sources` (N) names the source of each row's ranking; empty for rows without one."""
        for source, positive, correction in zip(
            sources, (feedback.reward > 0).tolist(), feedback.correction.tolist(), strict=True
        ):
            if source and not correction:
                name = self._named(source)
                self._clicked.setdefault(name, deque(maxlen=SHOWN_ROWS)).append(positive)
                self._rows[name] += 1

    def _named(self, source: str) -> str:
        if source in self._clicked or source in self._known:
            return source
        if self._others >= MAX_OTHERS:
            return OTHER
        self._others += 1
        return source

    @property
    def nbytes(self) -> int:
        """Memory of the windows."""
        return sum(8 * len(rows) + 1024 for rows in self._clicked.values())

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Click-through and number of rows shown since the start, by source."""
        return {name: {"ctr": sum(rows) / len(rows), "rows": self._rows[name]} for name, rows in self._clicked.items()}
