"""Conversion of Arrow columns to dictionary-encoded text, numbers and times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.batch import Bools, Ids, Times
from streams.block import Codes, Column

__all__ = ["SEPARATOR", "Attribute", "is_number", "looks_numeric", "numbers", "texts", "times"]

SEPARATOR = "\x1f"
"""Separates the entries of a list that is stored as one text."""

_SAMPLE = 1_000
_NUMBER = 24
"""Most characters of a number."""
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_EMPTY = {"", "nan", "NaN", "null", "None"}


@dataclass(slots=True)
class Attribute:
    """A column of attributes: text, numbers, or (with `many`) lists of text, joined by `SEPARATOR`."""

    values: Column | Times
    many: bool = False

    def take(self, rows: Codes | Bools | slice) -> Attribute:
        """Return these rows."""
        values = self.values
        cut = Column(values.codes[rows], values.names) if isinstance(values, Column) else values[rows]
        return Attribute(cut, self.many)

    @property
    def longest(self) -> int:
        """Length of the longest text in the column, `_NUMBER` for a column of numbers."""
        return max(map(len, self.values.names), default=0) if isinstance(self.values, Column) else _NUMBER

    def lengths(self) -> Ids:
        """Length of each row's text, (N,) int64: 0 where it has none, and `_NUMBER` for a column of numbers."""
        if not isinstance(self.values, Column):
            return np.full(len(self.values), _NUMBER)
        lengths: Ids = np.array([*map(len, self.values.names), 0], np.int64)[self.values.codes]
        return lengths

    def cells(self) -> list[str | float | list[str] | None]:
        """Return the value of every row, None where it has none."""
        if not isinstance(self.values, Column):
            return [None if math.isnan(cell) else cell for cell in self.values.tolist()]
        cells = self.values.texts()
        if not self.many:
            return list(cells)
        return [None if cell is None else [part for part in cell.split(SEPARATOR) if part] for cell in cells]


def texts(column: pa.ChunkedArray[Any]) -> Column:
    """Dictionary-encode a column of any type. Whole numbers become ``123``, empty cells code -1."""
    kind = column.type
    encoded: Any
    if pa.types.is_dictionary(kind):
        encoded = column.unify_dictionaries().combine_chunks()
    else:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            joined: Any = pc.binary_join(column.cast(pa.list_(pa.string())), SEPARATOR)
            column = joined
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind)):
            column = column.cast(pa.string())
        encoded = column.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # a column without any chunk
        return Column(np.empty(0, np.int32), [])
    names = _names(encoded.dictionary)
    indices = encoded.indices
    codes = np.asarray(indices.fill_null(-1) if indices.null_count else indices)
    if "" in names:
        codes = np.where(codes == names.index(""), -1, codes)
    return Column(codes.astype(np.int32, copy=False), names)


def numbers(column: pa.ChunkedArray[Any]) -> tuple[Times, Bools | None]:
    """Read a column of numbers or text as numbers.

    Returns
    -------
    (values (N,) float64, misfit (N,) bool or None)
        Values are finite, or NaN where the cell is empty or no finite number. Misfit marks cells that are neither empty nor a
        finite number (None: there are none).
    """
    column = _plain(column)
    if pa.types.is_string(column.type):
        return _parsed(column, pa.float64(), _number)
    return _finite(column.cast(pa.float64(), safe=False).to_numpy())


def times(column: pa.ChunkedArray[Any], unit: str) -> tuple[Times, Bools | None]:
    """Read a column of numbers in `unit`, dates or text as Unix seconds. Returns the same as `numbers`."""
    column = _plain(column)
    if pa.types.is_temporal(column.type):
        return _seconds(column), None
    if not pa.types.is_string(column.type):
        values, misfit = numbers(column)
        return values / _UNITS[unit], misfit
    # Numbers, dates with a time zone or dates without: most cells are of the same kind as the first.
    first = next((text for text in column.slice(0, _SAMPLE).to_pylist() if text), "")
    target: pa.DataType = pa.float64()
    if math.isnan(_number(first)):
        moment = _moment(first)
        target = pa.timestamp("us", "UTC" if moment and moment.tzinfo else None) if moment else target
    return _parsed(column, target, lambda text: _time(text, _UNITS[unit]), _UNITS[unit])


def is_number(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is numeric."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def looks_numeric(column: pa.ChunkedArray[Any]) -> bool:
    """Return whether a column holds numbers, or text that is all numbers."""
    if not pa.types.is_string(column.type):
        return is_number(column.type)
    sample = {text for text in column.slice(0, _SAMPLE).to_pylist() if text}
    if any(math.isnan(_number(text)) for text in sample - _EMPTY):
        return False
    values, misfit = numbers(column)
    return misfit is None and not bool(np.isnan(values).all())


def _names(dictionary: pa.Array[Any]) -> list[str]:
    if not pa.types.is_floating(dictionary.type):
        names: list[Any] = dictionary.cast(pa.string()).to_pylist()
        return names
    numbers: list[Any] = dictionary.to_pylist()
    return [str(int(number)) if number.is_integer() else repr(number) for number in numbers]


def _finite(values: Times) -> tuple[Times, Bools | None]:
    infinite = np.isinf(values)
    if not infinite.any():
        return values, None
    return np.where(infinite, np.nan, values), infinite


def _plain(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Return the column without dictionary encoding."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _parsed(
    column: pa.ChunkedArray[Any], target: pa.DataType, parse: Callable[[str], float], divisor: float = 1.0
) -> tuple[Times, Bools | None]:
    """Parse text: clean chunks by Arrow, others cell by cell with `parse`."""

    def cast(part: pa.ChunkedArray[Any]) -> Times:
        read = part.cast(target)
        return _seconds(read) if pa.types.is_temporal(target) else read.to_numpy() / divisor

    try:
        return _finite(cast(column))
    except pa.ArrowInvalid:
        pass
    filled: Any = pc.if_else(pc.is_in(column, pa.array(sorted(_EMPTY))), None, column)
    values = np.full(len(column), np.nan)
    misfit = np.zeros(len(column), np.bool_)
    for start in range(0, len(column), _SAMPLE):
        part, rows = filled.slice(start, _SAMPLE), slice(start, start + _SAMPLE)
        try:
            values[rows], infinite = _finite(cast(part))
            misfit[rows] = False if infinite is None else infinite
        except pa.ArrowInvalid:
            texts_here = part.to_pylist()
            values[rows] = [math.nan if text is None else parse(text) for text in texts_here]
            misfit[rows] = np.isnan(values[rows]) & np.array([text is not None for text in texts_here])
    return values, misfit if misfit.any() else None


def _number(text: str) -> float:
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _time(text: str, divisor: float) -> float:
    number = _number(text)
    if not math.isnan(number):
        return number / divisor
    moment = _moment(text)
    if moment is None:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        return None


def _seconds(column: pa.ChunkedArray[Any]) -> Times:
    micros = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
    seconds: Times = micros.cast(pa.float64(), safe=False).to_numpy() / 1e6
    return seconds
