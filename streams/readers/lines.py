"""JSON lines: native events, or objects with mapped columns."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from streams.codec import BadEvent, decode
from streams.events import Event
from streams.readers.mapping import BadRecording, BadRows
from streams.readers.text import RowNumbers, first_line

__all__ = ["JsonReader", "events"]

_CHUNK = 65_536
_SAMPLE_LINES = 100
_Cell = str | int | float | bool | list[str] | None


class JsonReader:
    """Rows of a file with one JSON object per line.

    Parameters
    ----------
    path : Path
        File in UTF-8, possibly compressed (.gz, .bz2, .zst, .lz4). Columns are the keys of the first 100 lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not first_line(path).startswith("{"):
            raise BadRecording(path, "does not start with a JSON object", "give one object per line, or set its format")
        names: dict[str, None] = {}
        for _, line in islice(lines(path), _SAMPLE_LINES):
            try:
                names |= dict.fromkeys(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        self.names = list(names)
        self.rows: int | None = None
        self._numbers = RowNumbers(0)

    def row_number(self, index: int) -> int:
        """See `Reader.row_number`."""
        return self._numbers.row_number(index)

    def tables(self, columns: Sequence[str], bad: BadRows, *, whole: bool) -> Iterator[pa.Table]:
        """See `Reader.tables`."""
        self._numbers = RowNumbers(0)
        rows = self._rows(columns, bad)
        while chunk := list(islice(rows, None if whole else _CHUNK)):
            cells = zip(*chunk, strict=True)
            yield pa.table({name: _array(list(column)) for name, column in zip(columns, cells, strict=True)})

    def _rows(self, columns: Sequence[str], bad: BadRows) -> Iterator[tuple[_Cell, ...]]:
        fields = [(f"c{n}", _Cell, None) for n in range(len(columns))]
        rename = {f"c{n}": column for n, column in enumerate(columns)}
        row_type = msgspec.defstruct("Row", fields, rename=rename)
        decoder = msgspec.json.Decoder(row_type)
        for number, line in lines(self.path):
            try:
                row = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                kind = "bad_cell" if isinstance(error, msgspec.ValidationError) else "not_json"
                self._numbers.skip(number)
                if line.strip():
                    bad.put(self.path, number, kind, str(error), partial(line.decode, "utf-8", "replace"))
                continue
            yield msgspec.structs.astuple(row)


def events(path: Path, bad: BadRows) -> Iterator[Event]:
    """Yield native events, one per line. Invalid lines go to the dead letters."""
    for number, line in lines(path):
        try:
            event = decode(line)
            bad.limits.check(event, len(line))
            yield event
        except BadEvent as error:
            if line.strip():
                bad.put(path, number, error.kind, str(error), partial(line.decode, "utf-8", "replace"))


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers, counted from 1."""
    number, rest = 0, b""
    with pa.input_stream(str(path)) as file:
        while piece := file.read(1 << 20):
            whole = (rest + piece).split(b"\n")
            rest = whole.pop()
            for line in whole:
                number += 1
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    if rest:
        yield number + 1, rest


def _array(cells: list[_Cell]) -> pa.Array[Any]:
    try:
        return pa.array(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        # Numbers mixed with text (mostly ids): all become text, as JSON writes them.
        return pa.array([_text(cell) for cell in cells], pa.string())


def _text(cell: _Cell) -> str | None:
    return cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
