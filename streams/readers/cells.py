"""From Arrow columns to dictionary-encoded text, numbers and times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.batch import Bools, Times
from streams.block import Codes, Column

__all__ = ["SEPARATOR", "Attribute", "is_number", "looks_numeric", "numbers", "texts", "times"]

SEPARATOR = "\x1f"
"""Between the entries of a list that is kept as one text."""

_SAMPLE = 1_000
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_EMPTY = {"", "nan", "NaN", "null", "None"}


@dataclass(slots=True)
class Attribute:
    """A column of attributes: text, numbers, or (`many`) lists of text, joined by `SEPARATOR`."""

    values: Column | Times
    many: bool = False

    def take(self, rows: Codes | Bools | slice) -> Attribute:
        """These rows of it."""
        values = self.values
        cut = Column(values.codes[rows], values.names) if isinstance(values, Column) else values[rows]
        return Attribute(cut, self.many)

    def cells(self) -> list[str | float | list[str] | None]:
        """Every row's value, None where it has none."""
        if not isinstance(self.values, Column):
            return [None if math.isnan(cell) else cell for cell in self.values.tolist()]
        cells = self.values.texts()
        if not self.many:
            return list(cells)
        return [None if cell is None else [part for part in cell.split(SEPARATOR) if part] for cell in cells]


def texts(column: pa.ChunkedArray[Any]) -> Column:
    """Dictionary-encode a column of any type; numbers without a fraction as ``123``, empty cells as code -1."""
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
    """Numbers of a column of numbers or of text.

    Returns
    -------
    (values (N,) float64, misfit (N,) bool or None)
        Values are finite, or NaN where the cell is empty or no finite number; misfit says which cells are not empty and yet no
        finite number (None: none of them).
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if is_number(kind) or pa.types.is_null(kind) or pa.types.is_boolean(kind):
        return _finite(column.cast(pa.float64(), safe=False).to_numpy())
    if pa.types.is_string(kind):
        try:
            return _finite(column.cast(pa.float64()).to_numpy())
        except pa.ArrowInvalid:
            pass
    return _parsed(texts(column), _number)


def times(column: pa.ChunkedArray[Any], unit: str) -> tuple[Times, Bools | None]:
    """Unix seconds of a column of numbers in `unit`, of dates or of text; as `numbers`."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_temporal(kind):
        return _seconds(column), None
    if not pa.types.is_string(kind):
        values, misfit = numbers(column)
        return values / _UNITS[unit], misfit
    for target in (pa.float64(), pa.timestamp("us", "UTC"), pa.timestamp("us")):
        try:
            read = column.cast(target)
        except pa.ArrowInvalid:
            continue
        if pa.types.is_temporal(target):
            return _seconds(read), None
        return _finite(read.to_numpy() / _UNITS[unit])
    return _parsed(texts(column), lambda text: _time(text, _UNITS[unit]))


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def looks_numeric(column: pa.ChunkedArray[Any]) -> bool:
    """Whether a column is of numbers, or of text that is all numbers."""
    kind = column.type
    if not pa.types.is_string(kind):
        return is_number(kind)
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


def _parsed(column: Column, parse: Callable[[str], float]) -> tuple[Times, Bools | None]:
    """Parse each distinct text once."""
    parsed = np.array([parse(name) for name in column.names] + [np.nan])
    wrong = np.array([name not in _EMPTY for name in column.names] + [False]) & np.isnan(parsed)
    misfit = wrong[column.codes]
    return parsed[column.codes], misfit if misfit.any() else None


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
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _seconds(column: pa.ChunkedArray[Any]) -> Times:
    micros = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
    seconds: Times = micros.cast(pa.float64(), safe=False).to_numpy() / 1e6
    return seconds
