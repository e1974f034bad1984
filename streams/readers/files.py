"""Recorded files as bytes and lines: decompressed and decoded, with errors that name the file."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from streams.readers.mapping import BadRecording

__all__ = ["compressed", "first_line", "first_record", "opened", "read_text", "source"]

_HEAD = 1 << 20
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINE_END = re.compile(r"\r\n|\n|\r")


def compressed(path: Path) -> bool:
    """Return whether the name ends like that of a compressed file."""
    return path.suffix.lower() in _COMPRESSIONS


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read its content, decompressed.

    Raises
    ------
    BadRecording
        The file does not exist or cannot be opened; or, while it is read, it turns out to be damaged or cut.
    """
    try:
        # Opened by Python: Arrow takes only paths that are valid Unicode.
        compression: Any = _COMPRESSIONS.get(path.suffix.lower())
        with path.open("rb") as raw, pa.input_stream(raw, compression=compression) as file:
            yield cast(IO[bytes], file)
    except FileNotFoundError as error:
        raise BadRecording(path, "no such file", "give the path of a recorded file") from error
    except IsADirectoryError as error:
        raise BadRecording(path, "a folder", "give the path of a file") from error
    except PermissionError as error:
        raise BadRecording(path, "no permission to read it", "allow this user to read it") from error
    except OSError as error:
        problem = f"it cannot be read to its end ({error})"
        raise BadRecording(path, problem, "is it whole? Copy, download or create it again") from error


@contextmanager
def source(path: Path) -> Iterator[Path | IO[bytes]]:
    """Give what Arrow can open: the path, or an open file if its name is not valid Unicode."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield file
    else:
        yield path


def first_line(path: Path, encoding: str | None = None) -> str:
    """Return the first line without its line end; empty for an empty file.

    Raises
    ------
    BadRecording
        The file does not exist, cannot be opened, or does not start with text.
    """
    return _LINE_END.split(_head(path, encoding), 1)[0]


def first_record(path: Path, delimiter: str, quote: str | None, encoding: str | None = None) -> tuple[list[str], int]:
    """Return the cells of the first row, and the number of lines that it takes; no cells for an empty file.

    Raises
    ------
    BadRecording
        As `first_line`; or the first row is longer than the largest header.
    """
    text = _head(path, encoding)
    line = _LINE_END.split(text, 1)[0]
    if not quote or quote not in line:
        return line.split(delimiter) if line else [], 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quotechar=quote)
    try:
        return next(reader), reader.line_num
    except csv.Error as error:
        problem = f"its first row cannot be read ({error})"
        raise BadRecording(path, problem, "look for a quote that is never closed, or shorten the header") from error


def read_text(path: Path) -> list[str]:
    """Return the lines of a small file in UTF-8, or in Latin-1 as in MovieLens."""
    with opened(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.split("\n")


def _head(path: Path, encoding: str | None) -> str:
    """Return the start of the file as text. In UTF-8, only the first line is sure to be decoded correctly."""
    with opened(path) as file:
        data: Any = file.read(_HEAD)
    if encoding is not None:
        return codecs.getincrementaldecoder(encoding)("replace").decode(data).removeprefix("\ufeff")
    if data.startswith(_UTF_16):
        raise BadRecording(path, "text in UTF-16", 'set encoding = "utf-16" in [stream]')
    line = re.split(rb"\r\n|\n|\r", data, maxsplit=1)[0]
    try:
        line.decode()
    except UnicodeDecodeError as error:
        remedy = 'set its format, or encoding in [stream], as in encoding = "latin-1"'
        raise BadRecording(path, f"its first line is not UTF-8 text ({error})", remedy) from error
    return data.decode("utf-8-sig", "replace") if data else ""
