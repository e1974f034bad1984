"""Times in recorded files: numbers in a unit, dates, or text in several notations, as Unix seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.batch import Bools, Times
from streams.readers.cells import number, numbers, parsed, plain

__all__ = ["MAX_TIME", "date_notation", "times", "unit_of"]

MAX_TIME = 1e11
"""Largest time, Unix seconds."""

_SAMPLE = 1_000
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_ZONE = re.compile(r"\s*(?:Z|UTC|GMT)$|\s+(?=[+-]\d\d(?::?\d\d)?$)", re.IGNORECASE)
_ARROW_ZONE = r"(?i)\s*(?:Z|UTC|GMT)$"
_ARROW_SPACE = r"\s+([+-]\d\d(?::?\d\d)?)$"
_DATES = {8: (("%Y%m%d", "YYYYMMDD"), ("%y%m%d%H", "YYMMDDHH")), 10: (("%Y%m%d%H", "YYYYMMDDHH"), ("%y%m%d%H%M", "YYMMDDHHMM"))}


def times(column: pa.ChunkedArray[Any], unit: str, layout: str | None = None) -> tuple[Times, Bools | None]:
    """Read a column of numbers in `unit`, dates or text as Unix seconds.

    Parameters
    ----------
    column : ChunkedArray, N cells
    unit : {"s", "ms", "us", "ns"}
        Unit of numbers.
    layout : str or None
        Format of all cells, as for ``strptime``. None: numbers, dates, or text in ISO 8601; ``UTC``, ``GMT`` or an offset may
        follow after a space.

    Returns
    -------
    (values (N,) float64, misfit (N,) bool or None)
        As `streams.readers.cells.numbers`.
    """
    column = plain(column)
    if pa.types.is_temporal(column.type):
        return _seconds(column), None
    if layout is not None:
        return _in_layout(column, layout)
    if not pa.types.is_string(column.type):
        values, misfit = numbers(column)
        return values / _UNITS[unit], misfit
    return parsed(column, _cast(column, _UNITS[unit]), lambda text: _time(text, _UNITS[unit]))


def unit_of(value: float, unit: str) -> str | None:
    """Return the unit in which a time that is too large for `unit` would be one of our days; None if there is none."""
    given = value * _UNITS[unit]
    return next((name for name, factor in _UNITS.items() if 1e8 < given / factor < 4e9 and name != unit), None)


def date_notation(values: Times) -> tuple[str, str] | None:
    """Return how numbers are written if all of them are dates and times in digits, such as 14102100.

    Parameters
    ----------
    values : (N,) float64
        Times as the file has them. Empty cells are NaN.

    Returns
    -------
    (format, notation) or None
        As for ``strptime``, and in letters: ``%y%m%d%H`` and ``YYMMDDHH``.
    """
    values = values[:_SAMPLE]
    found = np.unique(values[~np.isnan(values)])
    if not found.size or found[0] < 1e7 or (found % 1).any() or len(str(int(found[0]))) != len(str(int(found[-1]))):
        return None
    digits = [str(int(value)) for value in found.tolist()]
    for layout, notation in _DATES.get(len(digits[0]), ()):
        # Some Unix seconds of our days look like YYMMDDHHMM by chance; several that all do are none.
        if all(_is_date(text, layout) for text in digits) and (layout != "%y%m%d%H%M" or len(digits) >= 5):
            return layout, notation
    return None


def _is_date(digits: str, layout: str) -> bool:
    try:
        return 1970 <= datetime.strptime(digits, layout).replace(tzinfo=UTC).year < 2100
    except ValueError:
        return False


def _in_layout(column: pa.ChunkedArray[Any], layout: str) -> tuple[Times, Bools | None]:
    text = column.cast(pa.string())
    filled: Any = pc.if_else(pc.equal(text, pa.scalar("")), None, text)
    moments: Any = pc.strptime(filled, format=layout, unit="us", error_is_null=True)
    values = _seconds(moments)
    misfit: Any = np.isnan(values) & filled.is_valid().to_numpy()
    return values, misfit if misfit.any() else None


def _cast(column: pa.ChunkedArray[Any], divisor: float) -> Callable[[pa.ChunkedArray[Any]], Times]:
    """Return Arrow's parser for the notation of the first cell: most cells are of the same kind."""
    first = next((text for text in column.slice(0, _SAMPLE).to_pylist() if text), "")
    moment = None if not math.isnan(number(first)) else _moment(first)
    if moment is None:
        return lambda part: part.cast(pa.float64()).to_numpy() / divisor
    fraction = re.search(r"\.(\d+)", first)
    target = pa.timestamp("ns" if fraction and len(fraction[1]) > 6 else "us", "UTC" if moment.tzinfo else None)
    tidy = bool(_ZONE.search(first)) and not first.endswith("Z")

    def dates(part: pa.ChunkedArray[Any]) -> Times:
        if tidy:
            replaced: Any = pc.replace_substring_regex(part, _ARROW_ZONE, "Z")
            part = replaced
            replaced = pc.replace_substring_regex(part, _ARROW_SPACE, r"\1")
            part = replaced
        return _seconds(part.cast(target))

    return dates


def _time(text: str, divisor: float) -> float:
    value = number(text)
    if not math.isnan(value):
        return value / divisor
    moment = _moment(text)
    if moment is None:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _moment(text: str) -> datetime | None:
    text = text.strip()
    zone = _ZONE.search(text)
    if zone:
        text = text[: zone.start()] + (text[zone.end() :] or "+00:00")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _seconds(column: pa.ChunkedArray[Any]) -> Times:
    micros = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
    seconds: Times = micros.cast(pa.float64(), safe=False).to_numpy() / 1e6
    return seconds
