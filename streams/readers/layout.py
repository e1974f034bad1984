"""Layout of a recorded file: the reader of its rows, the meaning of its columns, and its side files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streams.events import ItemUpdate, UserUpdate
from streams.readers.beside import suffix
from streams.readers.cleaning import Types
from streams.readers.lines import JsonReader
from streams.readers.mapping import BadRecording, BadRows, ColumnMap, Reader
from streams.readers.parquet import ParquetReader
from streams.readers.text import TextReader
from streams.readers.updates import side_updates

__all__ = ["Layout", "Options", "Side", "SideFile", "table", "table_side"]

Side = Callable[[BadRows, float], Iterator[UserUpdate | ItemUpdate]]
"""Reads a side file: takes the collector of bad rows and the time of the updates."""

SideFile = Path | bool | None
"""A side file (of users or items): its path, None for the one next to the recording if it exists, False for none."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a config says of a file besides its columns.

    Attributes
    ----------
    header : bool or tuple of str
        Whether the first row of a csv or tsv file has the names of the columns. False: they are named 1, 2, ... A tuple: the
        file has no header, and these are the names of all columns.
    encoding : str or None
        Encoding of the text; None: UTF-8.
    text : mapping of str to set of str
        Names of the attributes and context fields that are text even if they look like numbers, by side: ``user``, ``item``
        and ``context``.
    """

    header: bool | tuple[str, ...] = True
    encoding: str | None = None
    text: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def side(self, side: str) -> frozenset[str]:
        """Return the names of one side that are text."""
        return self.text.get(side, frozenset())

    def of(self, columns: ColumnMap) -> set[str]:
        """Return the mapped columns that are text."""
        named = {"user": columns.user_attributes, "item": columns.item_attributes, "context": columns.context}
        return {name for side, names in named.items() for name in names if name in self.side(side)}


@dataclass(frozen=True, slots=True)
class Layout:
    """How one recorded file is read.

    Attributes
    ----------
    reader : Reader
        Reader of the rows.
    columns : ColumnMap
        Meaning of the columns.
    types : Types
        Column types that the format declares.
    users, items : Side or None
        Readers of the side files.
    """

    reader: Reader
    columns: ColumnMap
    types: Types = field(default_factory=Types)
    users: Side | None = None
    items: Side | None = None


def table(path: Path, format: str, options: Options | None = None) -> Reader:
    """Return a reader of a table with named columns: ``csv``, ``tsv``, ``parquet`` or ``jsonl``."""
    options = options or Options()
    if format == "parquet":
        return ParquetReader(path)
    if format == "jsonl":
        return JsonReader(path, options.encoding)
    header, encoding = options.header, options.encoding
    names = None if isinstance(header, bool) else header
    if format == "tsv":
        return TextReader(path, "\t", names=names, header=header is True, encoding=encoding)
    return TextReader(path, ",", quote='"', names=names, header=header is True, encoding=encoding)


def table_side(side: str, path: SideFile, identity: str, options: Options) -> Side | None:
    """Return a reader of a table of users or items. Ids are in column `identity`, or else the first; the others are attributes.

    Raises
    ------
    BadRecording
        The file does not exist or has an unknown suffix.
    """
    if path is None or isinstance(path, bool):
        return None
    formats = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
    if suffix(path) not in formats:
        raise BadRecording(
            path,
            f"cannot tell the format of a file of {side}s from its name",
            f"end it in one of {', '.join(formats)}",
        )
    reader = table(path, formats[suffix(path)], Options(encoding=options.encoding))
    types = Types().with_text(options.side(side))
    found = identity if identity in reader.names else next((name for name in reader.names if name), identity)
    return lambda bad, timestamp: side_updates(side, reader, found, types, bad, timestamp)
