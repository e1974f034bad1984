"""Rows of fixed width under 64-bit keys, bounded: the longest untouched row gives way."""

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
        Values per row, giving a live array (capacity, width); None gives (capacity,).
    dtype : numpy type
        Of the values.
    fill : number
        What a row holds before anyone has written to it.
    private : bool
        Whether only learning reads it: it is saved, and never shipped.
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
        Rows at most.
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
        """The live column: (capacity,) where its width is None, else (capacity, width); the same object for ever."""
        return self.rows[name]

    @property
    def keys(self) -> Ids:
        """Key of each row, (capacity,) int64, 0 where free. Live: not to be written to."""
        return self.index.keys

    @property
    def dirty(self) -> Bools:
        """Rows to ship, (capacity,) bool. `insert` and `delete` set it; whoever writes to rows got by `find` sets it too."""
        return self.rows.dirty

    def find(self, keys: Ids) -> Ids:
        """Rows of `keys` (N,), -1 where unknown, as (N,) int64. Touches nothing."""
        return self.index.find(keys)

    def insert(self, keys: Ids) -> Ids:
        """Rows of `keys` (N,) as (N,) int64, made where unknown; all become the newest and count as changed.

        New rows hold the columns' fill. Key 0 gets -1: leave such rows out, numpy takes -1 for the last row. Give at most
        `capacity` different keys at a time: with more, keys of the same batch share a row, which then holds what was
        written under all of them.
        """
        slots, fresh = self.index.insert(keys)
        if fresh.any():
            self._reset(slots[fresh])
        _mark(self.rows.dirty, slots)
        return slots

    def delete(self, keys: Ids) -> Ids:
        """Free the rows of `keys` (N,) and refill them; returns those rows, -1 where unknown, as (N,) int64."""
        slots = self.index.delete(keys)
        freed = slots[slots >= 0]
        self._reset(freed)
        self.rows.dirty[freed] = True
        return slots

    def slots(self) -> Ids:
        """Used rows from the longest untouched to the newest, (len,) int64."""
        return self.index.slots()

    def _reset(self, slots: Ids) -> None:
        for array, fill in self._fill:
            array[slots] = fill


@njit(cache=True, nogil=True)
def _mark(dirty: Bools, slots: Ids) -> None:
    """Mark rows, but not -1: numpy would take that for the last."""
    for slot in slots:
        if slot >= 0:
            dirty[slot] = True
