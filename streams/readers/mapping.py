"""What a recorded file is asked for, and how it is said that it cannot give it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from streams.dead_letters import DeadLetters

__all__ = ["BadRecording", "BadRows", "ColumnMap", "Reader"]

_VALUES_KEPT = 100


class BadRecording(ValueError):
    """A recorded file that cannot be used as it is said to be.

    Attributes
    ----------
    path : Path
        The file.
    column : str or None
        The column that is the trouble, if one is.
    """

    def __init__(self, path: Path, problem: str, remedy: str, *, column: str | None = None) -> None:
        super().__init__(f"{path}: {problem}; {remedy}")
        self.path = path
        self.column = column

    @classmethod
    def without(cls, path: Path, column: str, names: Sequence[str]) -> BadRecording:
        """A mapped column is not there."""
        close = difflib.get_close_matches(column, names, 1, 0.5)
        lowered = [name for name in names if name.lower() == column.lower()] or close
        hint = f"did you mean {lowered[0]!r}? " if lowered else ""
        return cls(path, f"no column {column!r}", f"{hint}it has {', '.join(map(repr, names))}", column=column)


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Which columns of a table say what.

    Attributes
    ----------
    user, item : str
        Ids.
    timestamp : str or None
        Time: numbers, dates, or text such as ``2019-11-24 00:03:13+00:00`` (UTC where it names no zone). None: the order of the
        rows is time, and a row's time is its number.
    value : str or None
        Strength of the interaction; None: 1.
    kind : str or None
        Kind of the interaction; None: one kind for the whole file.
    context : tuple of str
        Columns that go into the context. A column is numbers where all its cells are, else text.
    user_attributes, item_attributes : tuple of str
        Columns that describe the user or the item of the row rather than the row.
    timestamp_unit : {"s", "ms", "us", "ns"}
        Unit of times that are numbers.
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
            raise ValueError(f"timestamp_unit: {self.timestamp_unit!r} is no unit; choose one of s, ms, us, ns")

    @property
    def names(self) -> list[str]:
        """Every column that is needed, once."""
        one = [self.user, self.item, self.timestamp, self.value, self.kind]
        many = [*self.context, *self.user_attributes, *self.item_attributes]
        return list(dict.fromkeys(name for name in (*one, *many) if name is not None))


class BadRows:
    """Where readers report the rows that they leave out.

    Parameters
    ----------
    dead : DeadLetters
        Takes them.
    strict : bool
        Whether the first one ends the reading.
    """

    def __init__(self, dead: DeadLetters, strict: bool) -> None:
        self.dead = dead
        self.strict = strict

    def put(self, path: Path, row: int, kind: str, reason: str, value: Callable[[], str]) -> None:
        """Leave out a row.

        Parameters
        ----------
        path : Path
            The file.
        row : int
            Number of the row in it, counted from 1, a header included.
        kind : str
            Short stable reason.
        reason : str
            The reason in words.
        value : callable
            Gives the row's text; asked for the first rows of a kind only, because a file can be bad from end to end.

        Raises
        ------
        BadRecording
            When strict.
        """
        if self.strict:
            raise BadRecording(path, f"row {row}: {reason}", "correct it, or leave bad rows out (strict = false)")
        kept = self.dead.counts[kind] < _VALUES_KEPT
        self.dead.put(kind, f"row {row}: {reason}", value() if kept else "", source=str(path), offset=row)


class Reader(Protocol):
    """A file of rows as columns."""

    path: Path
    names: list[str]

    @property
    def rows(self) -> int | None:
        """Rows in the file, bad ones included, where that is cheap to know."""

    def tables(self, columns: Sequence[str], bad: BadRows, *, whole: bool) -> Iterator[pa.Table]:
        """Read these columns: one table, or one after the other as the file is read."""

    def row_number(self, index: int) -> int:
        """Number in the file, see `BadRows.put`, of the index-th row of the tables so far."""
