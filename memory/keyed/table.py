"""Table of rows under 64-bit keys, with LRU eviction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Bools, Ids
from memory.jit import njit
from memory.keyed.keyed_store import KeyedStore

__all__ = ["Column", "Table"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a `Table`.

    Attributes
    ----------
    width : int or None
        Values per row. The array is (capacity, width); None makes it (capacity,).
    dtype : numpy type
        Type of the values.
    fill : number
        Value of a row before it is written.
    private : bool
        Whether only learning reads it. It is saved but not shipped.
    """

    width: int | None = 1
    dtype: npt.DTypeLike = np.float32
    fill: float = 0
    private: bool = False


class Table(KeyedStore):
    """A `KeyIndex` and its rows.

    Parameters
    ----------
    capacity : int
        Maximum number of rows.
    **columns : Column
        At least one.

    Examples
    --------
    >>> table = Table(1000, total=Column(None), vector=Column(8))
    >>> slots = table.insert(np.array([42, 7]))
    >>> table["total"][slots] += 1
    """

    def __init__(self, capacity: int, **columns: Column) -> None:
        super().__init__(capacity, {name: column.fill for name, column in columns.items()})
        self.rows = Arrays(
            private=[name for name, column in columns.items() if column.private],
            **{
                name: np.full(capacity if column.width is None else (capacity, column.width), column.fill, column.dtype)
                for name, column in columns.items()
            },
        )
        self._fill = [(self.rows[name], column.fill) for name, column in columns.items()]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """The live column: (capacity,) if its width is None, else (capacity, width). It is always the same object."""
        return self.rows[name]

    @property
    def keys(self) -> Ids:
        """Key of each row, (capacity,) int64, 0 if free. Live and read-only."""
        return self.index.keys

    @property
    def dirty(self) -> Bools:
        """Rows to ship, (capacity,) bool. `insert` and `delete` set it. After `find`, whoever writes to the rows sets it."""
        return self.rows.dirty

    def find(self, keys: Ids) -> Ids:
        """Rows of `keys` (N,) as (N,) int64, -1 if unknown. It does not touch the keys."""
        return self.index.find(keys)

    def insert(self, keys: Ids) -> Ids:
        """Find or create the rows of `keys` (N,), as (N,) int64. All become the newest and are marked as changed.

        New rows hold the fill values. Key 0 gets -1: drop it before indexing, because for numpy -1 is the last row. Give at
        most `capacity` different keys at a time. With more, keys of one batch share a row and its values.
        """
        slots, fresh = self.index.insert(keys)
        if fresh.any():
            self._reset(slots[fresh])
        _mark(self.rows.dirty, slots)
        return slots

    def delete(self, keys: Ids) -> Ids:
        """Free the rows of `keys` (N,) and reset their values. Return the rows as (N,) int64, -1 if unknown."""
        slots = self.index.delete(keys)
        freed = slots[slots >= 0]
        self._reset(freed)
        self.rows.dirty[freed] = True
        return slots

    def slots(self) -> Ids:
        """Used rows from the least recently touched to the newest, (len,) int64."""
        return self.index.slots()

    def _reset(self, slots: Ids) -> None:
        for array, fill in self._fill:
            array[slots] = fill


@njit(cache=True, nogil=True)
def _mark(dirty: Bools, slots: Ids) -> None:
    """Mark rows except -1, which would be the last row."""
    for slot in slots:
        if slot >= 0:
            dirty[slot] = True
