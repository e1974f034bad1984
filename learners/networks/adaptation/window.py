"""The last entries of several columns of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays
from memory.stateful import Stateful

__all__ = ["Window"]


class Window(Stateful):
    """Keeps the last entries of named columns. It is private: saved, and not sent to replicas.

    Parameters
    ----------
    capacity : int
        Entries kept.
    **columns : numpy type
        Type of each column.

    Examples
    --------
    >>> import numpy as np
    >>> window = Window(2, gain=np.float64)
    >>> window.add(gain=np.array([1.0, 2.0, 3.0]))
    >>> sorted(window["gain"].tolist())
    [2.0, 3.0]
    """

    def __init__(self, capacity: int, **columns: npt.DTypeLike) -> None:
        self.capacity = capacity
        self.entries = Arrays(private=list(columns), **{name: np.zeros(capacity, dtype) for name, dtype in columns.items()})
        self.count = Arrays(total=np.zeros(1, np.int64), private=["total"])

    def __len__(self) -> int:
        return min(int(self.count["total"][0]), self.capacity)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """The entries of a column, (len,), in no particular order. Read-only use."""
        return self.entries[name][: len(self)]

    def last(self, name: str, count: int) -> npt.NDArray[Any]:
        """Copy the newest entries of a column, oldest first; fewer if there are not so many."""
        count = min(count, len(self))
        at = (int(self.count["total"][0]) - count + np.arange(count)) % self.capacity
        column: npt.NDArray[Any] = self.entries[name][at]
        return column

    def add(self, **columns: npt.NDArray[Any]) -> None:
        """Add entries; all columns have the same length."""
        size = len(next(iter(columns.values())))
        total = int(self.count["total"][0])
        kept = min(size, self.capacity)
        at = (total + size - kept + np.arange(kept)) % self.capacity
        for name, column in columns.items():
            self.entries[name][at] = column[size - kept :]
        self.count["total"][0] = total + size
        self.entries.mark(at)
        self.count.mark()

    def clear(self) -> None:
        """Drop all entries."""
        for name in self.entries:
            self.entries[name][:] = 0
        self.count["total"][:] = 0
        self.entries.mark()
        self.count.mark()
