"""Conversion of Arrow columns to dictionary-encoded text and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.batch import Bools, Ids, Times
from streams.block import Codes, Column

__all__ = ["SEPARATOR", "Attribute", "is_list", "is_number", "looks_numeric", "number", "numbers", "parsed", "plain", "texts"]

SEPARATOR = "\x1f"
"""Separates the entries of a list that is stored as one text."""

_SAMPLE = 1_000
_NUMBER = 24
"""Most characters of a number."""
_EXACT = 1 << 53
_DIGITS = r"^[+-]?(0[0-9]|[0-9]{16})"
"""Text whose digits a number would not keep: leading zeros, and whole numbers beyond float64's precision."""
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
    """Dictionary-encode a column of any type. Whole numbers become ``123``; empty cells, NaN and infinities become code -1.

    Entries of lists are joined by `SEPARATOR`, without those that are null.
    """
    kind = column.type
    encoded: Any
    if is_list(kind):
        lists: Any = column.cast(pa.list_(pa.string()))
        joined: Any = pc.binary_join(pa.chunked_array(map(_filled, lists.chunks), lists.type), SEPARATOR)
        found = texts(joined)
        return replace(found, names=[SEPARATOR.join(part for part in name.split(SEPARATOR) if part) for name in found.names])
    if pa.types.is_dictionary(kind):
        encoded = column.unify_dictionaries().combine_chunks()
    else:
        if pa.types.is_floating(kind):
            finite: Any = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
            column = finite
        elif not (pa.types.is_integer(kind) or pa.types.is_string(kind)):
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
    column = plain(column)
    if pa.types.is_string(column.type):
        return parsed(column, lambda part: part.cast(pa.float64()).to_numpy(), number)
    return _finite(column.cast(pa.float64(), safe=False).to_numpy())


def is_list(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is some kind of list."""
    found = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
    return any(is_kind(kind) for is_kind in (*found, pa.types.is_large_list_view))


def is_number(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is numeric."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def looks_numeric(column: pa.ChunkedArray[Any]) -> bool:
    """Return whether a column holds numbers, or text that is all numbers; and float64 keeps all their digits."""
    if pa.types.is_integer(column.type):
        extremes: Any = pc.min_max(column)
        return all(abs(extreme) <= _EXACT for extreme in extremes.as_py().values() if extreme is not None)
    column = _as_string(column)
    if not pa.types.is_string(column.type):
        return is_number(column.type)
    sample = {text for text in column.slice(0, _SAMPLE).to_pylist() if text}
    if any(math.isnan(number(text)) for text in sample - _EMPTY):
        return False
    exact: Any = pc.any(pc.match_substring_regex(column, _DIGITS))
    if exact.as_py():
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


def plain(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Return the column without dictionary encoding, and text of any Arrow type as string."""
    return _as_string(column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column)


def parsed(
    column: pa.ChunkedArray[Any], cast: Callable[[pa.ChunkedArray[Any]], Times], parse: Callable[[str], float]
) -> tuple[Times, Bools | None]:
    """Parse a column of text.

    Parameters
    ----------
    column : ChunkedArray of string, N cells
    cast : callable
        Parses cells by Arrow, or raises ``ArrowInvalid``.
    parse : callable
        Parses one cell; NaN for a misfit. Used for slices that `cast` cannot parse.

    Returns
    -------
    (values (N,) float64, misfit (N,) bool or None)
        As `numbers`.
    """
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


def number(text: str) -> float:
    """Return the finite number that a text is; NaN if it is none."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _as_string(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    kind = column.type
    return column.cast(pa.string()) if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else column


def _filled(lists: pa.ListArray[Any]) -> pa.ListArray[Any]:
    """Return lists of text with empty text in place of null entries."""
    entries: Any = lists.values
    if not entries.null_count:
        return lists
    filled: pa.ListArray[Any] = pa.ListArray.from_arrays(lists.offsets, entries.fill_null(""), mask=lists.is_null())
    return filled
