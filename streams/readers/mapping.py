"""The interface of readers: column mapping, bad rows and errors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from streams.admission.limits import DEFAULT_LIMITS, TextLimits
from streams.dead_letters import DeadLetters

__all__ = ["BadRecording", "BadRows", "ColumnMap", "Reader"]

_MAX_VALUES = 100


class BadRecording(ValueError):
    """A recorded file that cannot be read with the given format and columns.

    Attributes
    ----------
    path : Path
        The file.
    column : str or None
        The column with the problem, if there is one.
    """

    def __init__(self, path: Path, problem: str, remedy: str, *, column: str | None = None) -> None:
        super().__init__(f"{path}: {problem}; {remedy}")
        self.path = path
        self.column = column

    @classmethod
    def missing_column(cls, path: Path, column: str, names: Sequence[str]) -> BadRecording:
        """Return the error for a mapped column that the file does not have."""
        close = difflib.get_close_matches(column, names, 1, 0.5)
        lowered = [name for name in names if name.lower() == column.lower()] or close
        hint = f"did you mean {lowered[0]!r}? " if lowered else ""
        return cls(path, f"no column {column!r}", f"{hint}it has {', '.join(map(repr, names))}", column=column)


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Maps the columns of a table to the fields of interactions.

    Attributes
    ----------
    user, item : str
        Columns of the ids.
    timestamp : str or None
        Column of the time: numbers, dates, or text such as ``2019-11-24 00:03:13+00:00`` (UTC without a time zone). None: the
        rows are in time order, and the time of a row is its number.
    value : str or None
        Column of the strength. None: 1 for all rows.
    kind : str or None
        Column of the kind. None: one kind for the whole file.
    context : tuple of str
        Columns of the context. A column is numeric if all its cells are numbers, else text.
    user_attributes, item_attributes : tuple of str
        Columns that describe the user or the item of the row.
    timestamp_unit : {"s", "ms", "us", "ns"}
        Unit of numeric times.
    """

    user: str = "user"
    item: str = "item"
    timestamp: str | None = "timestamp"
    value: str | None = None
    kind: str | None = None
    context: tuple[str, ...] = ()
    user_attributes: tuple[str, ...] = ()
    item_attributes: tuple[str, ...] = ()
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"

    def __post_init__(self) -> None:
        if self.timestamp_unit not in ("s", "ms", "us", "ns"):
            raise ValueError(f"timestamp_unit: {self.timestamp_unit!r} is not a unit; choose one of s, ms, us, ns")

    @property
    def names(self) -> list[str]:
        """The needed columns, without repetition."""
        single = [self.user, self.item, self.timestamp, self.value, self.kind]
        groups = [*self.context, *self.user_attributes, *self.item_attributes]
        return list(dict.fromkeys(name for name in (*single, *groups) if name is not None))


class BadRows:
    """Collects the rows that readers skip.

    Parameters
    ----------
    dead : DeadLetters
        Stores the rows.
    strict : bool
        Whether the first bad row raises an error.
    limits : TextLimits
        How long texts may be; a row with a longer one is bad.
    """

    def __init__(self, dead: DeadLetters, strict: bool, limits: TextLimits = DEFAULT_LIMITS) -> None:
        self.dead = dead
        self.strict = strict
        self.limits = limits

    def put(self, path: Path, row: int, kind: str, reason: str, value: Callable[[], str]) -> None:
        """Report a bad row.

        Parameters
        ----------
        path : Path
            The file.
        row : int
            Number of the row in the file, counted from 1, including a header.
        kind : str
            Short reason, for counters.
        reason : str
            The reason in words.
        value : callable
            Returns the text of the row. Called only for the first rows of a kind, because every row of a file can be bad.

        Raises
        ------
        BadRecording
            With `strict`.
        """
        if self.strict:
            raise BadRecording(path, f"row {row}: {reason}", "correct it, or skip bad rows (strict = false)")
        kept = self.dead.counts[kind] < _MAX_VALUES
        self.dead.put(kind, f"row {row}: {reason}", value() if kept else "", source=str(path), offset=row)


class Reader(Protocol):
    """Reads the rows of a file as columns."""

    path: Path
    names: list[str]

    @property
    def rows(self) -> int | None:
        """Rows in the file, including bad ones; None where counting is slow."""

    def tables(self, columns: Sequence[str], bad: BadRows, *, whole: bool) -> Iterator[pa.Table]:
        """Read these columns. With `whole`: as one table; otherwise table by table while the file is read."""

    def row_number(self, index: int) -> int:
        """Return the number in the file (see `BadRows.put`) of the index-th row of the tables so far."""
