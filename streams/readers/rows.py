"""Rows of a file as a reader keeps them: their numbers in the file, and the text that is no valid Unicode."""

from __future__ import annotations

from bisect import insort
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.batch import Bools
from streams.readers.mapping import BadRows

__all__ = ["RowNumbers", "drop_undecodable"]

_SLICE = 1_000


class RowNumbers:
    """Maps the index of a row that was kept to its number in the file.

    Parameters
    ----------
    header : int
        Number of header rows.

    Attributes
    ----------
    kept : int
        Rows in the tables so far.
    """

    def __init__(self, header: int) -> None:
        self.kept = 0
        self._header = header
        self._skipped: list[int] = []
        self._before: list[int] = []

    def skip(self, number: int) -> None:
        """Note that row `number` of the file was skipped."""
        insort(self._skipped, number)
        self._before.clear()

    def row_number(self, index: int) -> int:
        """Return the number in the file of the index-th kept row."""
        if len(self._before) != len(self._skipped):
            # The number of kept rows before each skipped one: the search needs this.
            self._before = [number - 1 - self._header - n for n, number in enumerate(self._skipped)]
        return self._header + 1 + index + int(np.searchsorted(self._before, index, side="right"))


def drop_undecodable(table: pa.Table, path: Path, numbers: RowNumbers, bad: BadRows) -> pa.Table:
    """Return a table with its bytes as text, without the rows in which a cell is not UTF-8. These are bad rows.

    Parameters
    ----------
    table : Table
        The next rows of a file. Columns of bytes become text; text is checked, too.
    path : Path
        The file.
    numbers : RowNumbers
        Takes note of the rows that are dropped and kept.
    bad : BadRows
    """
    wrong = np.zeros(table.num_rows, np.bool_)
    for index, name in enumerate(table.column_names):
        column: Any = table.column(index)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
            continue
        if pa.types.is_dictionary(column.type):
            if all(_decoded(chunk.dictionary) is not None for chunk in column.chunks):
                continue
            column = column.cast(kind)
        text = _decoded(column)
        if text is None:
            misfit = _undecodable(column)
            for row in np.flatnonzero(misfit & ~wrong).tolist():
                if not bad.more("not_utf8"):
                    bad.count("not_utf8", 1)
                    continue
                cell = column[row].cast(pa.binary()).as_py()
                shown = repr(cell) if len(cell) <= 60 else f"{cell[:60]!r}..."
                reason = f'{name}: {shown} is not UTF-8 (if the file is in another encoding: encoding = "latin-1" in [stream])'
                bad.put(path, numbers.row_number(numbers.kept + row), "not_utf8", reason, partial(_latin, cell))
            wrong |= misfit
            text = _decoded(_without(column, misfit))
        table = table.set_column(index, name, text)
    if wrong.any():
        for number in [numbers.row_number(numbers.kept + row) for row in np.flatnonzero(wrong).tolist()]:
            numbers.skip(number)
        table = table.filter(pa.array(~wrong))
    numbers.kept += table.num_rows
    return table


def _decoded(values: Any) -> Any:
    """Return bytes or text as checked text; None if they are not UTF-8."""
    try:
        # Arrow checks bytes that are cast to text, but not text.
        return values.cast(pa.large_binary() if pa.types.is_large_string(values.type) else pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return None


def _undecodable(column: Any) -> Bools:
    wrong = np.zeros(len(column), np.bool_)
    for start in range(0, len(column), _SLICE):
        part = column.slice(start, _SLICE)
        if _decoded(part) is None:
            wrong[start : start + len(part)] = [_decoded(part.slice(row, 1)) is None for row in range(len(part))]
    return wrong


def _without(column: Any, misfit: Bools) -> Any:
    """Return a column without the cells that are not UTF-8."""
    return pc.if_else(pa.array(misfit), pa.scalar(None, column.type), column)


def _latin(cell: bytes) -> str:
    return cell.decode("latin-1")
