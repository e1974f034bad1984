"""Reader of delimited text: CSV, TSV, and the ``::`` files of MovieLens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv

from streams.readers.files import compressed, first_record, opened
from streams.readers.mapping import BadRecording, BadRows
from streams.readers.rows import RowNumbers, drop_undecodable

__all__ = ["TextReader"]

_BLOCK = 1 << 20
_MAX_COUNTED_BYTES = 1 << 30


class TextReader:
    """Reads delimited text. Every cell is read as text, so a bad cell costs only its row.

    Parameters
    ----------
    path : Path
        The file, possibly compressed (.gz, .bz2, .zst, .lz4).
    delimiter : str
        One character.
    quote : str or False
        Character that quotes cells. False: none.
    names : sequence of str or None
        Names of all columns. None: the first row has them; without a header, they are numbered from 1.
    header : bool
        Whether the first row holds names.
    rename : callable
        Maps a name in the header to the column's name.
    encoding : str or None
        Encoding of the text. None: UTF-8, and a cell that is not costs its row.

    Raises
    ------
    BadRecording
        The file cannot be opened, is empty, or has another number of columns than `names`.
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
        encoding: str | None = None,
    ) -> None:
        self.path = path
        self._delimiter, self._quote, self._header, self._encoding = delimiter, quote, header, encoding
        first, self._header_lines = first_record(path, delimiter, quote or None, encoding)
        if not first:
            raise BadRecording(path, "empty file", "give a file with rows")
        if names is not None and len(names) != len(first):
            raise BadRecording(path, f"{len(first)} columns, but {len(names)} names for them", "name all of its columns")
        numbered = [str(n) for n in range(1, len(first) + 1)]
        self.names = list(names) if names is not None else [rename(name) for name in first] if header else numbered
        self._numbers = RowNumbers(int(header))

    @property
    def rows(self) -> int | None:
        """See `Reader.rows`."""
        if compressed(self.path) or self.path.stat().st_size > _MAX_COUNTED_BYTES:
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
            use_threads=False,
            block_size=8 * _BLOCK,
            column_names=self.names,
            skip_rows=self._header_lines if self._header else 0,
            encoding=self._encoding or "utf8",
        )
        parse = pa.csv.ParseOptions(
            delimiter=self._delimiter,
            quote_char=self._quote,
            newlines_in_values=bool(self._quote),
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        )
        convert = pa.csv.ConvertOptions(include_columns=list(columns), column_types=dict.fromkeys(columns, pa.binary()))
        try:
            with opened(self.path) as file:
                found = [pa.csv.read_csv(file, read, parse, convert)] if whole else pa.csv.open_csv(file, read, parse, convert)
                for read_part in found:
                    table = read_part if isinstance(read_part, pa.Table) else pa.Table.from_batches([read_part])
                    self._report(failures, bad)
                    yield drop_undecodable(table, self.path, self._numbers, bad)
                self._report(failures, bad)
        except pa.ArrowInvalid as error:
            raise self._explain(str(error)) from error
        except UnicodeError as error:
            problem = f"text that is not {self._encoding} ({error})"
            raise BadRecording(self.path, problem, "correct encoding in [stream]") from error

    def _report(self, failures: list[tuple[int, str, str]], bad: BadRows) -> None:
        for number, problem, text in failures:
            if bad.more("wrong_fields"):
                bad.put(self.path, number, "wrong_fields", problem, partial(str, text))
            else:
                bad.count("wrong_fields", 1)
        failures.clear()

    def _explain(self, problem: str) -> BadRecording:
        if "straddl" in problem:
            return BadRecording(self.path, "a row longer than 8 MiB", "look for a quote that is never closed")
        if "Empty CSV" in problem or "skip initial" in problem:
            return BadRecording(self.path, "no rows", "give a file with rows")
        return BadRecording(self.path, problem, "check that the format and delimiter fit the file")
