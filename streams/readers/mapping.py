"""The interface of readers: column mapping, bad rows and errors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from streams.admission.limits import DEFAULT_LIMITS, TextLimits
from streams.block import Block, Codes
from streams.codec import BadEvent
from streams.dead_letters import DeadLetters
from streams.events import Event

__all__ = ["Admission", "AdmitAll", "BadRecording", "BadRows", "ColumnMap", "Reader"]

_MAX_VALUES = 100
_MAX_LETTERS = 1_000
_MAX_NAMES, _MAX_NAME = 30, 40


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
    def missing_column(cls, path: Path, column: str, names: Sequence[str], remedy: str = "") -> BadRecording:
        """Return the error for a mapped column that the file does not have; `remedy` is added to its names."""
        names = [name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..." for name in names]
        close = difflib.get_close_matches(column, names, 1, 0.5)
        lowered = [name for name in names if name.lower() == column.lower()] or close
        hint = f"did you mean {lowered[0]!r}? " if lowered else ""
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        return cls(
            path,
            f"no column {column!r}",
            f"{hint}it has {', '.join(map(repr, names[:_MAX_NAMES])) or 'none'}{more}{remedy and '; '}{remedy}",
            column=column,
        )


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Maps the columns of a table to the fields of interactions.

    Attributes
    ----------
    user, item : str
        Columns of the ids.
    timestamp : str or None
        Column of the time: numbers, dates, or text such as ``2019-11-24 00:03:13+00:00``, ``2019-11-24 00:03:13 UTC`` or
        ``2019-11-24T00:03:13.5Z`` (UTC without a time zone). None: the rows are in time order, and the time of a row is its
        number.
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
    timestamp_format : str or None
        Format of times that are none of the above, as for ``strptime``: ``%y%m%d%H`` for 14102100, ``%m/%d/%Y %I:%M:%S %p``
        for 11/11/2019 9:05:58 AM. They are taken as UTC.
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
    timestamp_format: str | None = None

    def __post_init__(self) -> None:
        if self.timestamp_unit not in ("s", "ms", "us", "ns"):
            raise ValueError(f"timestamp_unit: {self.timestamp_unit!r} is not a unit; choose one of s, ms, us, ns")

    @property
    def names(self) -> list[str]:
        """The needed columns, without repetition."""
        single = [self.user, self.item, self.timestamp, self.value, self.kind]
        groups = [*self.context, *self.user_attributes, *self.item_attributes]
        return list(dict.fromkeys(name for name in (*single, *groups) if name is not None))


class Admission(Protocol):
    """Decides which events and rows may be learned from, as the service decides for what is posted to it."""

    def check(self, event: Event) -> None:
        """Raise `BadEvent` if an event may not be learned from."""

    def refused(self, block: Block) -> Iterable[tuple[Codes, BadEvent]]:
        """Return the rows of a block that may not be learned from, as indices, with the reason for each group of them."""


class AdmitAll:
    """Admits everything that is well-formed."""

    def check(self, event: Event) -> None:
        """See `Admission.check`."""

    def refused(self, block: Block) -> Iterable[tuple[Codes, BadEvent]]:
        """See `Admission.refused`."""
        return ()


class BadRows:
    """Collects the rows that readers skip, and what they warn of.

    Parameters
    ----------
    dead : DeadLetters
        Stores the rows: the first 1,000 of each kind. All are counted.
    strict : bool
        Whether the first bad row raises an error.
    limits : TextLimits
        How long texts may be; a row with a longer one is bad.
    admission : Admission
        Decides which of the well-formed rows are good.

    Attributes
    ----------
    warnings : dict of str to None
        What is suspicious but no error, each once, in the order in which it was found.
    """

    def __init__(
        self, dead: DeadLetters, strict: bool, limits: TextLimits = DEFAULT_LIMITS, admission: Admission | None = None
    ) -> None:
        self.dead = dead
        self.strict, self.limits = strict, limits
        self.admission: Admission = AdmitAll() if admission is None else admission
        self.warnings: dict[str, None] = {}

    def admits(self, path: Path, event: Event, row: int | None = None, value: Callable[[], str] = str) -> bool:
        """Return whether an event may be learned from; if not, it is a bad row. See `put`."""
        try:
            self.admission.check(event)
        except BadEvent as error:
            self.put(path, row, error.kind, str(error), value)
            return False
        return True

    def more(self, kind: str) -> bool:
        """Return whether further bad rows of a kind are stored, not only counted."""
        return self.strict or self.dead.counts[kind] < _MAX_LETTERS

    def count(self, kind: str, rows: int) -> None:
        """Count further bad rows of a kind without storing them; see `more`."""
        self.dead.counts[kind] += rows

    def put(self, path: Path, row: int | None, kind: str, reason: str, value: Callable[[], str]) -> None:
        """Report a bad row.

        Parameters
        ----------
        path : Path
            The file.
        row : int or None
            Number of the row in the file, counted from 1, including a header; None if it is not known.
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
        reason = reason if row is None else f"row {row}: {reason}"
        if self.strict:
            raise BadRecording(path, reason, "correct it, or skip bad rows (strict = false)")
        kept = self.dead.counts[kind] < _MAX_VALUES
        self.dead.put(kind, reason, value() if kept else "", source=str(path), offset=-1 if row is None else row)


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
