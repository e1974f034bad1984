"""Users and items as events: from the attributes that rows carry, and from files beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from streams.batch import Ids, Times
from streams.block import Column
from streams.events import Attribute as Value
from streams.events import ItemUpdate, UserUpdate
from streams.readers.cells import Attribute
from streams.readers.cleaning import Cleaner, Types
from streams.readers.mapping import BadRecording, BadRows, ColumnMap, Reader

__all__ = ["Updates", "make_update", "side_updates"]

Update = UserUpdate | ItemUpdate


class Updates:
    """Finds, in rows that repeat their user's or item's attributes, where these are new or have changed.

    Parameters
    ----------
    side : {"user", "item"}
        Whose attributes.
    known : mapping of id to attributes
        What a file beside says, which the rows add to.
    """

    def __init__(self, side: str, known: Mapping[str, Mapping[str, Value]]) -> None:
        self._side, self._known = side, known
        self._ids = _Numbering()
        self._values: dict[str, _Numbering] = {}
        self._last = np.empty((0, 0))

    def ahead(self, ids: Column, attributes: Mapping[str, Attribute], timestamp: Times) -> Iterator[Update]:
        """Updates that come before a chunk of rows: the first row of an id in the chunk decides for the chunk.

        Parameters
        ----------
        ids : Column, (N,) rows
            Users or items of the rows.
        attributes : mapping of name to Attribute, (N,) rows each
            Their attributes.
        timestamp : (N,) float64
            Times of the rows.
        """
        if not attributes or not ids.codes.size:
            return
        codes, first = _first_rows(self._ids.numbers(ids), len(self._ids))
        chosen = {name: attribute.take(first) for name, attribute in attributes.items()}
        # One float per id and attribute: the number itself, or the number of its text; never inf, which means "not seen".
        now = np.stack([self._comparable(name, attribute) for name, attribute in chosen.items()], axis=1)
        if len(self._ids) > len(self._last):
            grown = np.full((2 * len(self._ids), now.shape[1]), np.inf)
            grown[: len(self._last)] = self._last.reshape(-1, now.shape[1])
            self._last = grown
        before = self._last[codes]
        changed = np.flatnonzero(((now != before) & ~(np.isnan(now) & np.isnan(before))).any(axis=1))
        self._last[codes] = now
        changed = changed[np.argsort(first[changed])]
        cells = {name: attribute.take(changed).cells() for name, attribute in chosen.items()}
        for place, row in enumerate(first[changed].tolist()):
            name = ids.names[ids.codes[row]]
            values = {attribute: column[place] for attribute, column in cells.items()}
            found = {attribute: value for attribute, value in values.items() if value is not None}
            yield make_update(self._side, name, {**self._known.get(name, {}), **found}, float(timestamp[row]))

    def _comparable(self, name: str, attribute: Attribute) -> Times:
        if not isinstance(attribute.values, Column):
            return attribute.values
        numbering = self._values.setdefault(name, _Numbering())
        return numbering.numbers(attribute.values).astype(np.float64)


class _Numbering:
    """Gives every text a number that lasts, whatever its code is in one table or the next."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str] | None = None
        self._of_code: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, column: Column) -> Ids:
        """(N,) int64; -1 where the row says nothing."""
        if column.names is not self._names:
            numbers = self._numbers
            found = [numbers.setdefault(name, len(numbers)) for name in column.names]
            self._names, self._of_code = column.names, np.array([*found, -1], np.int64)
        numbered: Ids = self._of_code[column.codes]
        return numbered


def _first_rows(numbers: Ids, count: int) -> tuple[Ids, Ids]:
    """The different `numbers` (N,), all below `count`, ascending, and the first row of each; without sorting the rows."""
    first = np.full(count, numbers.size)
    first[numbers[::-1]] = np.arange(numbers.size - 1, -1, -1)  # of several assignments to one place the last one stays
    codes = np.flatnonzero(first < numbers.size)
    return codes, first[codes]


def make_update(side: str, name: str, attributes: dict[str, Value], timestamp: float) -> Update:
    """An update of a user or an item."""
    if side == "user":
        return UserUpdate(user=name, attributes=attributes, timestamp=timestamp)
    return ItemUpdate(item=name, attributes=attributes, timestamp=timestamp)


def side_updates(side: str, reader: Reader, identity: str, types: Types, bad: BadRows, timestamp: float) -> Iterator[Update]:
    """Every row of a table of users or items as an update.

    Raises
    ------
    BadRecording
        Where there is no column `identity`.
    """
    if identity not in reader.names:
        raise BadRecording.without(reader.path, identity, reader.names)
    cleaner = Cleaner(reader, ColumnMap(), "", types, bad)
    # A column without a name is the row number that data frames write.
    for table in reader.tables([name for name in dict.fromkeys(reader.names) if name], bad, whole=True):
        ids, attributes = cleaner.attributes(table, identity)
        columns = {name: attribute.cells() for name, attribute in attributes.items()}
        for row, code in enumerate(ids.codes.tolist()):
            if code >= 0:
                values = {name: cells[row] for name, cells in columns.items()}
                found = {name: value for name, value in values.items() if value is not None}
                yield make_update(side, ids.names[code], found, timestamp)
