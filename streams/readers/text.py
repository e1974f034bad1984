"""Reader of delimited text: CSV, TSV, and the ``::`` files of MovieLens."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv

from streams.readers.mapping import BadRecording, BadRows

__all__ = ["RowNumbers", "TextReader", "first_line", "read_text"]

_BLOCK = 1 << 20
_MAX_COUNTED_BYTES = 1 << 30
_COMPRESSED = {".gz", ".bz2", ".zst", ".lz4"}


class RowNumbers:
    """Maps the index of a row that was kept to its number in the file.

    Parameters
    ----------
    header : int
        Number of header rows.
    """

    def __init__(self, header: int) -> None:
        self._header = header
        self._skipped: list[int] = []

    def skip(self, number: int) -> None:
        """Note that row `number` of the file was skipped. Call this in file order."""
        # The number of kept rows before it: `row_number` searches for this.
        self._skipped.append(number - 1 - self._header - len(self._skipped))

    def row_number(self, index: int) -> int:
        """Return the number in the file of the index-th kept row."""
        return self._header + 1 + index + int(np.searchsorted(self._skipped, index, side="right"))


class TextReader:
    """Reads delimited text. Every cell is read as text, so a bad cell costs only its row.

    Parameters
    ----------
    path : Path
        File in UTF-8, possibly compressed (.gz, .bz2, .zst, .lz4).
    delimiter : str
        One character.
    quote : str or False
        Character that quotes cells. False: none.
    names : sequence of str or None
        Names of all columns. None: the first row has them.
    header : bool
        Whether the first row holds names.
    rename : callable
        Maps a name in the header to the column's name.
    """

    def __init__(
        self,
        path: Path,
        delimiter: str,
        *,
        quote: str | Literal[False] = False,
        names: Sequence[str] | None = None,
        header: bool = True,
        rename: Callable[[str], str] = str,
    ) -> None:
        self.path = path
        self._delimiter, self._quote, self._header = delimiter, quote, header
        self.names = list(names) if names is not None else [rename(name) for name in self._read_header()]
        self._numbers = RowNumbers(int(header))

    @property
    def rows(self) -> int | None:
        """See `Reader.rows`."""
        if self.path.suffix in _COMPRESSED or self.path.stat().st_size > _MAX_COUNTED_BYTES:
            return None
        lines, last = 0, b"\n"
        with self.path.open("rb") as file:
            while piece := file.read(_BLOCK):
                lines, last = lines + piece.count(b"\n"), piece[-1:]
        return max(lines + (last != b"\n") - self._header, 0)

    def row_number(self, index: int) -> int:
        """See `Reader.row_number`."""
        return self._numbers.row_number(index)

    def tables(self, columns: Sequence[str], bad: BadRows, *, whole: bool) -> Iterator[pa.Table]:
        """See `Reader.tables`."""
        self._numbers = RowNumbers(int(self._header))

        def skip(row: pa.csv.InvalidRow) -> Literal["skip"]:
            number = row.number or 0
            self._numbers.skip(number)
            failures.append((number, f"{row.actual_columns} fields instead of {row.expected_columns}", row.text))
            return "skip"

        failures: list[tuple[int, str, str]] = []
        # One thread: otherwise row numbers are unknown. The other cores are for the learners.
        read = pa.csv.ReadOptions(
            use_threads=False, block_size=8 * _BLOCK, column_names=self.names, skip_rows=int(self._header)
        )
        parse = pa.csv.ParseOptions(
            delimiter=self._delimiter, quote_char=self._quote, ignore_empty_lines=False, invalid_row_handler=skip
        )
        convert = pa.csv.ConvertOptions(include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string()))
        try:
            with pa.input_stream(str(self.path)) as stream:
                file = cast(IO[Any], stream)
                if whole:
                    table = pa.csv.read_csv(file, read, parse, convert)
                    self._report(failures, bad)
                    yield table
                    return
                for batch in pa.csv.open_csv(file, read, parse, convert):
                    self._report(failures, bad)
                    yield pa.Table.from_batches([batch])
                self._report(failures, bad)
        except pa.ArrowInvalid as error:
            raise self._explain(str(error)) from error

    def _report(self, failures: list[tuple[int, str, str]], bad: BadRows) -> None:
        for number, problem, text in failures:
            bad.put(self.path, number, "wrong_fields", problem, partial(str, text))
        failures.clear()

    def _read_header(self) -> list[str]:
        line = first_line(self.path)
        if not line:
            raise BadRecording(self.path, "empty file", "give a file with a header and rows")
        if not self._quote:
            return line.split(self._delimiter)
        return next(csv.reader([line], delimiter=self._delimiter, quotechar=self._quote))

    def _explain(self, problem: str) -> BadRecording:
        if "invalid UTF8" in problem:
            return BadRecording(self.path, f"text that is not UTF-8 ({problem})", "convert it: iconv -f latin1 -t utf-8")
        if "straddl" in problem:
            return BadRecording(self.path, "a row longer than 8 MiB", "look for a quote that is never closed")
        if "Empty CSV" in problem or "skip initial" in problem:
            return BadRecording(self.path, "no rows", "give a file with rows")
        return BadRecording(self.path, problem, "check that the format and delimiter fit the file")


def first_line(path: Path) -> str:
    """Return the first line without its line end; empty for an empty file.

    Raises
    ------
    BadRecording
        The file does not exist, cannot be opened, or does not start with UTF-8 text.
    """
    try:
        with pa.input_stream(str(path)) as file:
            line = file.read(_BLOCK).split(b"\n", 1)[0]
    except FileNotFoundError as error:
        raise BadRecording(path, "no such file", "give the path of a recorded file") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise BadRecording(path, f"cannot be read ({error})", "check its permissions, and that it is complete") from error
    try:
        return line.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError as error:
        raise BadRecording(path, f"its first line is not UTF-8 text ({error})", "set its format, or convert it") from error


def read_text(path: Path) -> list[str]:
    """Return the lines of a small file in UTF-8, or in Latin-1 as in MovieLens."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.split("\n")
