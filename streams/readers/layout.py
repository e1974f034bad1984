"""Layout of a recorded file: the reader of its rows, the meaning of its columns, and its side files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from streams.events import ItemUpdate, UserUpdate
from streams.readers.cleaning import Types
from streams.readers.lines import JsonReader
from streams.readers.mapping import BadRecording, BadRows, ColumnMap, Reader
from streams.readers.parquet import ParquetReader
from streams.readers.text import TextReader
from streams.readers.updates import side_updates

__all__ = ["Layout", "Side", "SideFile", "suffix", "table", "table_side"]

Side = Callable[[BadRows, float], Iterator[UserUpdate | ItemUpdate]]
"""Reads a side file: takes the collector of bad rows and the time of the updates."""

SideFile = Path | bool | None
"""A side file (of users or items): its path, None for the one next to the recording if it exists, False for none."""

_COMPRESSED = {".gz", ".bz2", ".zst", ".lz4"}


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


def suffix(path: Path) -> str:
    """Return the file's suffix, without that of a compression."""
    return (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix.lower()


def table(path: Path, format: str) -> Reader:
    """Return a reader of a table with named columns: ``csv``, ``tsv``, ``parquet`` or ``jsonl``."""
    if format == "parquet":
        return ParquetReader(path)
    if format == "jsonl":
        return JsonReader(path)
    return TextReader(path, "\t") if format == "tsv" else TextReader(path, ",", quote='"')


def table_side(side: str, path: SideFile, identity: str) -> Side | None:
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
    reader = table(path, formats[suffix(path)])
    found = identity if identity in reader.names else next(name for name in reader.names if name)
    return lambda bad, timestamp: side_updates(side, reader, found, Types(), bad, timestamp)
