"""Updates of users and items, from attributes in the rows and from side files."""

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
    """Makes updates from rows that repeat the attributes of their user or item, where these are new or have changed.

    Parameters
    ----------
    side : {"user", "item"}
        Whether the attributes are of users or items.
    known : mapping of str to mapping
        Attributes from the side file, by id. The rows add to them.
    """

    def __init__(self, side: str, known: Mapping[str, Mapping[str, Value]]) -> None:
        self._side, self._known = side, known
        self._ids = _Numbering()
        self._values: dict[str, _Numbering] = {}
        self._last = np.empty((0, 0))

    def changes(self, ids: Column, attributes: Mapping[str, Attribute], timestamp: Times) -> Iterator[Update]:
        """Yield the updates to send before a chunk of rows. The first row of an id counts for the whole chunk.

        Parameters
        ----------
        ids : Column, N rows
            Users or items of the rows.
        attributes : mapping of str to Attribute, N rows each
            Their attributes, by name.
        timestamp : (N,) float64
            Times of the rows, Unix seconds.
        """
        if not attributes or not ids.codes.size:
            return
        codes, first = _first_rows(self._ids.numbers(ids), len(self._ids))
        chosen = {name: attribute.take(first) for name, attribute in attributes.items()}
        # One float per id and attribute: the number, or the code of the text. Never inf, which means "not seen yet".
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
        for index, row in enumerate(first[changed].tolist()):
            name = ids.names[ids.codes[row]]
            values = {attribute: column[index] for attribute, column in cells.items()}
            found = {attribute: value for attribute, value in values.items() if value is not None}
            yield make_update(self._side, name, {**self._known.get(name, {}), **found}, float(timestamp[row]))

    def _comparable(self, name: str, attribute: Attribute) -> Times:
        if not isinstance(attribute.values, Column):
            return attribute.values
        numbering = self._values.setdefault(name, _Numbering())
        return numbering.numbers(attribute.values).astype(np.float64)


class _Numbering:
    """Gives every text a permanent number. Its code can differ from table to table."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str] | None = None
        self._of_code: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, column: Column) -> Ids:
        """Return the number of each row's text, (N,) int64; -1 where the row has no value."""
        if column.names is not self._names:
            numbers = self._numbers
            found = [numbers.setdefault(name, len(numbers)) for name in column.names]
            self._names, self._of_code = column.names, np.array([*found, -1], np.int64)
        numbered: Ids = self._of_code[column.codes]
        return numbered


def _first_rows(numbers: Ids, count: int) -> tuple[Ids, Ids]:
    """Return the distinct `numbers` (N,), all below `count`, in ascending order, and the first row of each; without a sort."""
    first = np.full(count, numbers.size)
    first[numbers[::-1]] = np.arange(numbers.size - 1, -1, -1)  # of several assignments to one index, the last one wins
    codes = np.flatnonzero(first < numbers.size)
    return codes, first[codes]


def make_update(side: str, name: str, attributes: dict[str, Value], timestamp: float) -> Update:
    """Return an update of a user or an item."""
    if side == "user":
        return UserUpdate(user=name, attributes=attributes, timestamp=timestamp)
    return ItemUpdate(item=name, attributes=attributes, timestamp=timestamp)


def side_updates(side: str, reader: Reader, identity: str, types: Types, bad: BadRows, timestamp: float) -> Iterator[Update]:
    """Yield an update for every row of a table of users or items.

    Raises
    ------
    BadRecording
        The table has no column `identity`.
    """
    if identity not in reader.names:
        raise BadRecording.missing_column(reader.path, identity, reader.names)
    cleaner = Cleaner(reader, ColumnMap(), "", types, bad)
    # A column without a name holds the row numbers that data frames write.
    for table in reader.tables([name for name in dict.fromkeys(reader.names) if name], bad, whole=True):
        ids, attributes = cleaner.attributes(table, identity)
        columns = {name: attribute.cells() for name, attribute in attributes.items()}
        for row, code in enumerate(ids.codes.tolist()):
            if code >= 0:
                values = {name: cells[row] for name, cells in columns.items()}
                found = {name: value for name, value in values.items() if value is not None}
                yield make_update(side, ids.names[code], found, timestamp)
