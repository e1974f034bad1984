"""The micro-batch that a joiner fills: outcomes and impressions, until a row count or a tick closes it."""

from __future__ import annotations

from itertools import pairwise

from streams.joined import JoinedBatch, Outcome, TrackedImpression

__all__ = ["OpenBatch"]


class OpenBatch:
    """Rows that have not left the joiner yet, and the batches that are complete.

    Parameters
    ----------
    size : int
        Outcomes plus impressions in a batch.

    Attributes
    ----------
    rows : list of Outcome
    shown : list of TrackedImpression
    cutting : bool
        Whether a full batch is closed. Not while a joiner is restored: then all rows are collected first.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.rows: list[Outcome] = []
        self.shown: list[TrackedImpression] = []
        self.cutting = True
        self._ended: list[TrackedImpression] = []  # impressions that have closed since the last batch
        self._ready: list[JoinedBatch] = []

    @property
    def pending(self) -> bool:
        """Whether rows or impressions wait."""
        return bool(self.rows or self.shown)

    @property
    def room(self) -> int:
        """Number of rows until the batch is full."""
        return self._size - len(self.rows) - len(self.shown)

    def add_row(self, row: Outcome) -> bool:
        """Add an outcome. Return whether that completed the batch."""
        self.rows.append(row)
        return self._added()

    def add_shown(self, shown: TrackedImpression) -> bool:
        """Add an impression that has arrived. Return whether that completed the batch."""
        self.shown.append(shown)
        return self._added()

    def add_ended(self, shown: TrackedImpression) -> None:
        """Add an impression that has closed."""
        self._ended.append(shown)

    def keep_last(self, rows: int, shown: int) -> None:
        """Keep only the last outcomes and impressions: the earlier ones were in batches that are learned already."""
        del self.rows[: len(self.rows) - rows]
        del self.shown[: len(self.shown) - shown]
        self._ended.clear()

    def cut(self) -> None:
        """Close the batch, whatever it holds."""
        self._ready.append(JoinedBatch(self.shown, _group_by_impression(self.rows), self._ended))
        self.shown, self.rows, self._ended = [], [], []

    def flush(self) -> None:
        """Close the batch at the end of a stream, if it holds anything."""
        if self.pending or self._ended:
            self.cut()

    def take(self) -> list[JoinedBatch]:
        """Return the batches completed since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _added(self) -> bool:
        full = self.cutting and len(self.rows) + len(self.shown) >= self._size
        if full:
            self.cut()
        return full


def _group_by_impression(rows: list[Outcome]) -> list[Outcome]:
    """Reorder the rows so that those of one impression are adjacent: they become one request."""
    first: dict[int, int] = {}
    order = [n if row.shown is None else first.setdefault(id(row.shown), n) for n, row in enumerate(rows)]
    if all(left <= right for left, right in pairwise(order)):
        return rows
    return [rows[n] for n in sorted(range(len(rows)), key=order.__getitem__)]
