"""Cleaning of tables: valid rows become blocks to replay, bad rows become dead letters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from streams.batch import Bools, Times
from streams.block import Block, Codes, Column
from streams.codec import BadEvent
from streams.readers.cells import SEPARATOR, Attribute, is_list, looks_numeric, numbers, plain, texts
from streams.readers.mapping import BadRecording, BadRows, ColumnMap, Reader
from streams.readers.moments import MAX_TIME, date_notation, times, unit_of

__all__ = ["Cleaner", "Rows", "Types"]

_MAX_KIND = 64
_LONGEST_CHARACTER = 6
"""Most bytes of a character in JSON."""
_MAX_NUMBER = float(np.finfo(np.float32).max)
_TOO_LARGE = f"beyond {_MAX_NUMBER:.3g}, the largest number that learners use"
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True, slots=True)
class Types:
    """Column types that a format or a config declares. Other types are inferred from the cells.

    Attributes
    ----------
    numeric : mapping of str to bool
        Whether a column holds numbers, by name.
    lists : mapping of str to str
        Separator of the entries of each column that holds lists as text.
    """

    numeric: Mapping[str, bool] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)

    def with_text(self, names: Iterable[str]) -> Types:
        """Return these types, with some more columns as text: their cells keep all their digits."""
        return Types({**self.numeric, **dict.fromkeys(names, False)}, self.lists)


@dataclass(slots=True)
class Rows:
    """Clean rows: interactions, and the attributes of users and items in the same rows."""

    block: Block
    user_attributes: dict[str, Attribute]
    item_attributes: dict[str, Attribute]

    def take(self, rows: Codes | Bools | slice) -> Rows:
        """Return these rows, in this order."""
        block = self.block

        def cut(column: Column) -> Column:
            return Column(column.codes[rows], column.names)

        return Rows(
            Block(
                cut(block.user),
                cut(block.item),
                block.kind if isinstance(block.kind, str) else cut(block.kind),
                block.value[rows],
                block.timestamp[rows],
                {name: cut(c) if isinstance(c, Column) else c[rows] for name, c in block.context.items()},
            ),
            {name: attribute.take(rows) for name, attribute in self.user_attributes.items()},
            {name: attribute.take(rows) for name, attribute in self.item_attributes.items()},
        )


class Cleaner:
    """Cleans the tables of one file, in order.

    Parameters
    ----------
    reader : Reader
        Reader of the tables.
    columns : ColumnMap
        Meaning of the columns.
    kind : str
        Kind of every row, if `columns` has no column for it.
    types : Types
        Column types that the format declares.
    bad : BadRows
        Collects the bad rows.
    """

    def __init__(self, reader: Reader, columns: ColumnMap, kind: str, types: Types, bad: BadRows) -> None:
        self._reader, self._columns, self._kind, self._bad = reader, columns, kind, bad
        self._lists = types.lists
        # Set by the first table: a column keeps its type for the whole stream.
        self._numeric = dict(types.numeric)
        self._read = 0

    def rows(self, table: pa.Table) -> Rows:
        """Clean one table.

        Raises
        ------
        BadRecording
            A column has a type that cannot be used; with `strict`, also for the first bad row.
        """
        columns, count = self._columns, table.num_rows
        user, item = self._single(table, columns.user), self._single(table, columns.item)
        kind = self._kind if columns.kind is None else self._single(table, columns.kind)
        value = np.ones(count) if columns.value is None else self._cells(table, columns.value, numbers)[0]
        timestamp = self._read + 1.0 + np.arange(count, dtype=np.float64)
        if columns.timestamp is not None:
            timestamp = self._times(table, columns.timestamp)
        good, most = self._blank(table, (user.codes < 0) & (item.codes < 0)), self._bad.limits.id
        self._drop(good, table, columns.user, "no_user", _unusable(user, most), f"missing, or over {most} characters")
        self._drop(good, table, columns.item, "no_item", _unusable(item, most), f"missing, or over {most} characters")
        if isinstance(kind, Column):
            wrong = _unusable(kind, _MAX_KIND)
            self._drop(good, table, str(columns.kind), "no_kind", wrong, f"missing, or over {_MAX_KIND} characters")
        if columns.value is not None:
            self._drop(good, table, columns.value, "bad_value", np.isnan(value), "not a finite number")
            self._drop(good, table, columns.value, "bad_value", np.abs(value) > _MAX_NUMBER, _TOO_LARGE)
        if columns.timestamp is not None:
            self._drop(good, table, columns.timestamp, "bad_timestamp", np.isnan(timestamp), "not a time")
            outside = (timestamp < 0) | (timestamp > MAX_TIME)
            if outside.any():
                self._drop(good, table, columns.timestamp, "bad_timestamp", outside, self._outside(timestamp[outside]))
        contexts = {name: Attribute(self._scalar(good, table, name)) for name in columns.context}
        users = {name: self._mixed(good, table, name) for name in columns.user_attributes}
        items = {name: self._mixed(good, table, name) for name in columns.item_attributes}
        self._bound(good, table, "context", contexts)
        self._bound(good, table, "attributes", users)
        self._bound(good, table, "attributes", items)
        context = {name: cells.values for name, cells in contexts.items()}
        rows = Rows(Block(user, item, kind, value, timestamp, context), users, items)
        if not good.all():
            rows, kept = rows.take(good), np.flatnonzero(good)
        else:
            kept = np.arange(count)
        admitted = np.ones(kept.size, np.bool_)
        for refused, error in self._bad.admission.refused(rows.block):
            self._report(table, kept[refused], error.kind, repeat(str(error)))
            admitted[refused] = False
        self._read += count
        return rows if admitted.all() else rows.take(admitted)

    def attributes(self, table: pa.Table, identity: str) -> tuple[Column, dict[str, Attribute]]:
        """Read a table of users or items: its ids (code -1 where missing), and all other columns as attributes."""
        ids = self._text(table, identity)
        good, most = self._blank(table, ids.codes < 0), self._bad.limits.id
        self._drop(good, table, identity, "no_id", _unusable(ids, most), f"missing, or over {most} characters")
        others = {name: self._mixed(good, table, name) for name in table.column_names if name != identity}
        self._bound(good, table, "attributes", others)
        self._read += table.num_rows
        return Column(np.where(good, ids.codes, -1), ids.names), others

    def _times(self, table: pa.Table, name: str) -> Times:
        """Read times. Warn if they look like dates in digits, but would be read as Unix seconds."""
        columns = self._columns
        read = partial(times, unit=columns.timestamp_unit, layout=columns.timestamp_format)
        timestamp, _ = self._cells(table, name, read)
        if columns.timestamp_format is None and columns.timestamp_unit == "s" and not pa.types.is_temporal(table[name].type):
            notation = date_notation(timestamp)
            if notation is not None:
                first = timestamp[~np.isnan(timestamp)][0]
                self._bad.warnings[
                    f"{self._reader.path}: {name}: times such as {first:.0f} look like dates ({notation[1]}), but are read as "
                    f'Unix seconds; if they are dates, set timestamp_format = "{notation[0]}" in [stream.columns]'
                ] = None
        return timestamp

    def _outside(self, timestamp: Times) -> str:
        """Return the reason why times are out of range, with the unit that would explain them."""
        unit = unit_of(float(timestamp[0]), self._columns.timestamp_unit)
        hint = f'if it is in {_UNIT_NAMES[unit]}, set timestamp_unit = "{unit}"' if unit else "see timestamp_unit"
        return f"outside 0 to 1e11 Unix seconds ({hint})"

    def _single(self, table: pa.Table, name: str) -> Column:
        """Read a column of ids or kinds, which have one value per row."""
        if pa.types.is_nested(plain(table[name].slice(0, 0)).type):
            raise self._wrong_type(table, name)
        return self._text(table, name)

    def _scalar(self, good: Bools, table: pa.Table, name: str) -> Column | Times:
        """Read a column of the context."""
        if pa.types.is_nested(plain(table[name].slice(0, 0)).type):
            raise self._wrong_type(table, name)
        return self._mixed(good, table, name).values

    def _text(self, table: pa.Table, name: str) -> Column:
        try:
            return texts(table[name])
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise self._wrong_type(table, name) from error

    def _cells(
        self, table: pa.Table, name: str, read: Callable[[pa.ChunkedArray[Any]], tuple[Times, Bools | None]]
    ) -> tuple[Times, Bools | None]:
        try:
            return read(table[name])
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise self._wrong_type(table, name) from error

    def _mixed(self, good: Bools, table: pa.Table, name: str) -> Attribute:
        """Read a column as numbers if all cells of the first table are numbers, else as text."""
        column = table[name]
        if name not in self._numeric:
            self._numeric[name] = name not in self._lists and looks_numeric(column)
        if self._numeric[name]:
            values, misfit = self._cells(table, name, numbers)
            if misfit is not None:
                self._drop(good, table, name, "bad_cell", misfit, "not a number, in a column of numbers")
            self._drop(good, table, name, "bad_cell", np.abs(values) > _MAX_NUMBER, _TOO_LARGE)
            return Attribute(values)
        found = self._text(table, name)
        if name in self._lists:
            separator = self._lists[name]
            split = [SEPARATOR.join(part for part in text.split(separator) if part) for text in found.names]
            return Attribute(replace(found, names=split), many=True)
        return Attribute(found, many=is_list(column.type))

    def _blank(self, table: pa.Table, candidates: Bools) -> Bools:
        """Mark the rows that are not blank lines. Blank lines end many files; they are not counted as bad."""
        good = np.ones(table.num_rows, np.bool_)
        for row in np.flatnonzero(candidates).tolist():
            good[row] = any(table[name][row].as_py() not in (None, "") for name in table.column_names)
        return good

    def _bound(
        self, good: Bools, table: pa.Table, where: Literal["context", "attributes"], cells: Mapping[str, Attribute]
    ) -> None:
        """Report the rows whose context or attributes are too long. Only rows that could be are looked at one by one."""
        limits = self._bad.limits
        check, most = (
            (limits.check_context, limits.context) if where == "context" else (limits.check_attributes, limits.attributes)
        )
        bound = sum(_LONGEST_CHARACTER * (attribute.longest + len(name) + 2) for name, attribute in cells.items())
        if bound <= min(limits.text, most):
            return
        bounds = sum(_LONGEST_CHARACTER * (attribute.lengths() + len(name) + 2) for name, attribute in cells.items())
        suspects = np.flatnonzero(good & (bounds > min(limits.text, most)))
        columns = {name: attribute.take(suspects).cells() for name, attribute in cells.items()}
        for n, row in enumerate(suspects.tolist()):
            try:
                check({name: value for name, column in columns.items() if (value := column[n]) is not None})
            except BadEvent as error:
                number, text = self._reader.row_number(self._read + row), partial(_row_text, table, row)
                self._bad.put(self._reader.path, number, error.kind, str(error), text)
                good[row] = False

    def _drop(self, good: Bools, table: pa.Table, name: str, kind: str, wrong: Bools, reason: str) -> None:
        """Report the rows that are wrong and were good until now."""
        if wrong.any():
            rows = np.flatnonzero(wrong & good)
            self._report(
                table, rows, kind, (f"{name}: {_preview(table[name][row].as_py())} is {reason}" for row in rows.tolist())
            )
            good &= ~wrong

    def _report(self, table: pa.Table, rows: Codes, kind: str, reasons: Iterable[str]) -> None:
        """Report bad rows of a table, each with its reason. Those beyond the number that is stored are only counted."""
        for done, (row, reason) in enumerate(zip(rows.tolist(), reasons, strict=False)):
            if not self._bad.more(kind):
                self._bad.count(kind, rows.size - done)
                return
            number = self._reader.row_number(self._read + row)
            self._bad.put(self._reader.path, number, kind, reason, partial(_row_text, table, row))

    def _wrong_type(self, table: pa.Table, name: str) -> BadRecording:
        problem = f"column {name!r} is of type {table[name].type}"
        return BadRecording(self._reader.path, problem, "map a column of text or numbers", column=name)


def _unusable(column: Column, max_length: int) -> Bools:
    too_long = np.array([len(name) > max_length for name in column.names] + [True])
    wrong: Bools = too_long[column.codes]
    return wrong


def _preview(cell: object) -> str:
    text = "empty" if cell is None or cell == "" else repr(cell)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _row_text(table: pa.Table, row: int) -> str:
    cells: Iterable[object] = table.slice(row, 1).to_pylist()
    return json.dumps(next(iter(cells)), default=str, ensure_ascii=False)
