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
from streams.readers.files import first_line, opened
from streams.readers.mapping import BadRecording, BadRows
from streams.readers.rows import RowNumbers

__all__ = ["JsonReader", "events", "lines", "not_json_hint"]

_CHUNK = 65_536
_SAMPLE_LINES = 100
_MAX_LINE = 64 << 20
_Cell = str | int | float | bool | list[str | int | float | bool | None] | None
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class JsonReader:
    """Rows of a file with one JSON object per line.

    Parameters
    ----------
    path : Path
        The file, possibly compressed (.gz, .bz2, .zst, .lz4). Columns are the keys of the first 100 lines.
    encoding : str or None
        Encoding of the text; None: UTF-8.

    Raises
    ------
    BadRecording
        The file cannot be opened, or does not have one JSON object per line.
    """

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self.path, self._encoding = path, encoding
        start = first_line(path, encoding)
        if not start:
            raise BadRecording(path, "empty file", "give a file with one JSON object per line")
        if not start.lstrip().startswith("{"):
            raise BadRecording(path, "does not start with a JSON object", "give one object per line, or set its format")
        names: dict[str, None] = {}
        problem = ""
        for number, line in islice(lines(path, encoding), _SAMPLE_LINES):
            try:
                names |= dict.fromkeys(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))
            except _NOT_JSON as error:
                problem = problem or f"row {number} is not JSON ({error}){not_json_hint(line)}"
        if not names:
            raise BadRecording(path, problem or "no keys in its objects", "give one JSON object per line")
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
        for number, line in lines(self.path, self._encoding):
            try:
                row = decoder.decode(line)
            except _NOT_JSON as error:
                kind = "bad_cell" if isinstance(error, msgspec.ValidationError) else "not_json"
                hint = not_json_hint(line) if kind == "not_json" else f" (columns: {', '.join(columns)})"
                self._numbers.skip(number)
                if line.strip():
                    bad.put(self.path, number, kind, f"{error}{hint}", partial(line.decode, "utf-8", "replace"))
                continue
            yield msgspec.structs.astuple(row)


def events(path: Path, bad: BadRows) -> Iterator[Event]:
    """Yield native events, one per line. Invalid lines, and events that are not admitted, go to the dead letters."""
    for number, line in lines(path):
        text = partial(line.decode, "utf-8", "replace")
        try:
            event = decode(line)
            bad.limits.check(event, len(line))
        except BadEvent as error:
            if line.strip():
                hint = not_json_hint(line) if error.kind == "not_json" else ""
                bad.put(path, number, error.kind, f"{error}{hint}", text)
            continue
        if bad.admits(path, event, number, text):
            yield event


def lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield the lines in UTF-8 with their numbers, counted from 1.

    Raises
    ------
    BadRecording
        The file cannot be read to its end, has a line over 64 MiB, or is not in this encoding.
    """
    number, rest = 0, b""
    decoder = None if encoding is None else codecs.getincrementaldecoder(encoding)()
    try:
        with opened(path) as file:
            while piece := bytes(file.read(1 << 20)):
                whole = (rest + (piece if decoder is None else decoder.decode(piece).encode())).split(b"\n")
                rest = whole.pop()
                if len(rest) > _MAX_LINE:
                    raise BadRecording(path, f"row {number + 1} is longer than 64 MiB", "give one JSON object per line")
                for line in whole:
                    number += 1
                    yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except UnicodeError as error:
        raise BadRecording(path, f"text that is not {encoding} ({error})", "correct encoding in [stream]") from error
    if rest:
        yield number + 1, rest.removeprefix(codecs.BOM_UTF8) if number == 0 else rest


def not_json_hint(line: bytes) -> str:
    """Return what a line is that looks like JSON to people, with the remedy; empty if it does not."""
    if line.lstrip().startswith((b"{'", b'{u"', b"{u'")):
        return "; it is a Python dict: JSON needs double quotes, so convert each line with json.dumps(ast.literal_eval(line))"
    return ""


def _array(cells: list[_Cell]) -> pa.Array[Any]:
    try:
        found: pa.Array[Any] = pa.array(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        if any(isinstance(cell, list) for cell in cells):
            return pa.array([_texts(cell) for cell in cells], pa.list_(pa.string()))
        # Numbers mixed with text (mostly ids): all become text, as JSON writes them.
        return pa.array([_text(cell) for cell in cells if not isinstance(cell, list)], pa.string())
    return found


def _texts(cell: _Cell) -> list[str | None] | None:
    """Return a cell of a column in which some cells are lists."""
    return None if cell is None else [_text(entry) for entry in cell] if isinstance(cell, list) else [_text(cell)]


def _text(cell: str | float | bool | None) -> str | None:
    return cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
