"""Recorded files as streams of events, for replay and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np

from streams.admission.limits import DEFAULT_LIMITS, TextLimits
from streams.block import Block
from streams.dead_letters import DeadLetters
from streams.events import Attribute, Event, ItemUpdate, UserUpdate
from streams.readers import lines
from streams.readers.beside import suffix
from streams.readers.cleaning import Cleaner, Rows, Types
from streams.readers.files import compressed, first_line
from streams.readers.layout import Layout, Options, SideFile, table, table_side
from streams.readers.mapping import Admission, BadRecording, BadRows, ColumnMap
from streams.readers.movielens import CSV_HEADER, movielens
from streams.readers.recbole import recbole
from streams.readers.report import Report, Tally
from streams.readers.updates import Updates

__all__ = ["FORMATS", "BadRecording", "ColumnMap", "Recording", "Report", "open_recording", "validate"]

FORMATS = ("movielens", "recbole", "csv", "tsv", "parquet", "jsonl", "events")
CHUNK = 65_536
"""Largest number of rows in a `Block`."""

_LETTERS = 1_000

_SUFFIXES = {
    ".csv": "csv",
    ".dat": "movielens",
    ".data": "movielens",
    ".inter": "recbole",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tsv": "tsv",
}
_IN_FOLDER = ("u.data", "ratings.csv", "ratings*.dat", "*.inter")


def open_recording(
    path: str | Path,
    *,
    format: str | None = None,
    columns: ColumnMap | None = None,
    kind: str = "rating",
    sorted: bool = False,
    users: str | Path | bool | None = None,
    items: str | Path | bool | None = None,
    strict: bool = False,
    limits: TextLimits = DEFAULT_LIMITS,
    header: bool | tuple[str, ...] = True,
    encoding: str | None = None,
    text: Mapping[str, frozenset[str]] | None = None,
    admission: Admission | None = None,
) -> Recording:
    """Open a recorded file.

    Parameters
    ----------
    path : path
        The file, or a folder that holds one in the layout of MovieLens or RecBole.
    format : str or None
        One of `FORMATS`: ``movielens`` (``u.data``, ``ratings.dat``, ``ratings.csv``), ``recbole`` (``.inter``), a table with
        `columns` (``csv``, ``tsv``, ``parquet``, ``jsonl``), or ``events`` (native events, one JSON object per line). None:
        chosen by the file's name.
    columns : ColumnMap or None
        Columns of a table. None: the defaults of `ColumnMap`, and the column ``rating`` or else ``label`` as value if there
        is one.
    kind : str
        Kind of the interactions where no column gives it.
    sorted : bool
        True: the rows are taken to be in time order, and are streamed in file order with constant memory. False: the whole
        file is read and sorted by time, with equal times in file order.
    users, items : path, None or False
        Files with attributes of users and items. None: the files next to the recording that its format defines. False: none.
        For a table: another table, whose ids are in the column of the same name, or else in the first.
    strict : bool
        True: the first bad row raises an error. False: bad rows are skipped and counted in ``Recording.dead``.
    limits : TextLimits
        How long texts may be; a row with a longer one is bad.
    header, encoding, text
        See `streams.readers.layout.Options`: whether a csv or tsv file has a header, the encoding of a file of text, and the
        names of the fields that keep all their digits.
    admission : Admission or None
        Decides which of the well-formed rows and events are good. None: all.

    Raises
    ------
    BadRecording
        The file does not exist, is empty, does not have its format, or lacks a mapped column.
    """
    file = _file(Path(path))
    options = Options(header, encoding, {} if text is None else text)
    chosen = _guess(file, columns, encoding) if format is None else format
    if chosen not in FORMATS:
        raise BadRecording(file, f"unknown format {chosen!r}", f"choose one of {', '.join(FORMATS)}")
    user_file, item_file = (Path(side) if isinstance(side, str) else side for side in (users, items))
    if chosen == "events":
        if not first_line(file):
            raise BadRecording(file, "empty file", "give a file with one event per line")
        if columns is not None or isinstance(user_file, Path) or isinstance(item_file, Path):
            raise BadRecording(file, "events need no columns, users or items", "leave them out, or set format = jsonl")
        if header is not True or encoding is not None:
            raise BadRecording(file, "events are JSON in UTF-8, without a header", "leave out header and encoding")
        return Recording(file, chosen, None, kind, sorted, strict, limits, admission)
    if header is not True and chosen not in ("csv", "tsv"):
        raise BadRecording(file, f"header is given, but it is for csv and tsv, not for {chosen}", "leave it out")
    if encoding is not None and chosen == "parquet":
        raise BadRecording(file, "encoding is given, but Parquet holds UTF-8", "leave it out")
    layout = _layout(file, chosen, columns, user_file, item_file, options)
    for name in layout.columns.names:
        if name not in layout.reader.names:
            raise BadRecording.missing_column(file, name, layout.reader.names, _remedy(chosen, layout.columns, name, header))
        if layout.reader.names.count(name) > 1:
            raise BadRecording(file, f"two columns {name!r}", "rename one", column=name)
    return Recording(file, chosen, layout, kind, sorted, strict, limits, admission)


class Recording:
    """A recorded file, opened by `open_recording`. `events` can be called many times.

    Attributes
    ----------
    path : Path
        The file.
    format : str
        One of `FORMATS`.
    rows : int or None
        Rows in the file, including bad ones. None where counting would read a large file.
    dead : DeadLetters
        Rows that the latest pass skipped: counts by reason, and the first with their row numbers.
    warnings : dict of str to None
        What was suspicious in the latest pass, but no error.
    out_of_order : int
        Rows of the latest pass with a time before that of the previous row in the file.
    has_users, has_items : bool
        Whether a pass starts with users or items from a side file.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        layout: Layout | None,
        kind: str,
        sorted: bool,
        strict: bool,
        limits: TextLimits,
        admission: Admission | None = None,
    ) -> None:
        self.path = path
        self.format = format
        self.rows = layout.reader.rows if layout else None
        self.dead = DeadLetters()
        self.warnings: dict[str, None] = {}
        self.out_of_order = 0
        self.has_users = layout is not None and layout.users is not None
        self.has_items = layout is not None and layout.items is not None
        self._layout, self._kind, self._sorted, self._strict = layout, kind, sorted, strict
        self._limits, self._admission = limits, admission

    def events(self) -> Iterator[Event | Block]:
        """Yield users and items of the side files, dated at the first row; then blocks of at most 65,536 rows.

        Where rows hold attributes of their user or item, updates come before the block in which an id is new or has changed.
        The first row of the id in that block counts for the whole block. Native events come one by one, not in blocks.

        Raises
        ------
        BadRecording
            The file is damaged or has no good row; with `strict`, also for the first bad row.
        """
        self.dead.clear()
        self.out_of_order = 0
        bad = BadRows(self.dead, self._strict, self._limits, self._admission)
        self.warnings = bad.warnings
        found = self._native(bad) if self._layout is None else self._tabular(self._layout, bad)
        first = next(found, None)
        if first is None:
            why = next((f" ({letter.reason})" for letter in self.dead.read(_LETTERS)), "")
            raise BadRecording(self.path, f"no good row{why}", "check that format and columns fit the file")
        yield from chain([first], found)

    def _native(self, bad: BadRows) -> Iterator[Event]:
        previous = 0.0
        read: list[tuple[float, Event]] = []
        for event in lines.events(self.path, bad):
            # An event without a time gets the time of the event before it.
            time = event.timestamp or previous
            self.out_of_order += time < previous
            previous = time
            if self._sorted:
                yield event
            else:
                read.append((time, event))
        read.sort(key=lambda timed: timed[0])
        yield from (event for _, event in read)

    def _tabular(self, layout: Layout, bad: BadRows) -> Iterator[Event | Block]:
        chunks = self._chunks(layout, bad)
        first = next(chunks, None)
        if first is None:
            return
        start = float(first.block.timestamp[0])
        known: dict[str, dict[str, dict[str, Attribute]]] = {"user": {}, "item": {}}
        for side in (layout.users, layout.items):
            for update in side(bad, start) if side else ():
                if not bad.admits(self.path, update):
                    continue
                if layout.columns.user_attributes or layout.columns.item_attributes:
                    _remember(known, update)
                yield update
        users, items = Updates("user", known["user"]), Updates("item", known["item"])
        for rows in chain([first], chunks):
            block = rows.block
            changes = chain(
                users.changes(block.user, rows.user_attributes, block.timestamp),
                items.changes(block.item, rows.item_attributes, block.timestamp),
            )
            yield from (update for update in changes if bad.admits(self.path, update))
            yield block

    def _chunks(self, layout: Layout, bad: BadRows) -> Iterator[Rows]:
        """Yield clean rows in the order of the replay."""
        cleaner = Cleaner(layout.reader, layout.columns, self._kind, layout.types, bad)
        last = -np.inf
        for read in layout.reader.tables(layout.columns.names, bad, whole=not self._sorted):
            rows = cleaner.rows(read)
            if not rows.block.rows:
                continue
            timestamp = rows.block.timestamp
            backwards = int((np.diff(timestamp) < 0).sum())
            self.out_of_order += backwards + int(timestamp[0] < last)
            last = timestamp[-1]
            if backwards and not self._sorted:
                rows = rows.take(np.argsort(timestamp, kind="stable"))
            for start in range(0, rows.block.rows, CHUNK):
                yield rows.take(slice(start, start + CHUNK))


def validate(recording: Recording, also: Callable[[Event | Block], None] | None = None) -> Report:
    """Read a whole recording and report its contents; `also` gets every event and block, too."""
    tally = Tally()
    for event in recording.events():
        tally.take(event)
        if also is not None:
            also(event)
    return tally.report(
        recording.path,
        recording.format,
        recording.dead,
        recording.warnings,
        recording.out_of_order,
        recording.has_users,
        recording.has_items,
    )


def _file(path: Path) -> Path:
    """Return the recorded file at a path, which may be a folder."""
    try:
        folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise BadRecording(path, f"no file can have this name ({error})", "give the path of a recorded file") from error
    if not folder:
        if not exists:
            raise BadRecording(path, "no such file", "give the path of a recorded file")
        return path
    found = [match for pattern in _IN_FOLDER for match in path.glob(pattern)]
    found += [match for pattern in _IN_FOLDER for match in path.glob(f"{pattern}.*") if compressed(match)]
    if len(found) == 1:
        return found[0]
    problem = (
        f"a folder with {', '.join(match.name for match in found)}" if found else f"a folder without {', '.join(_IN_FOLDER)}"
    )
    raise BadRecording(path, problem, "give the path of one file")


def _guess(path: Path, columns: ColumnMap | None, encoding: str | None) -> str:
    ending = suffix(path)
    if ending in (".jsonl", ".ndjson"):
        return "events" if columns is None else "jsonl"
    if ending == ".csv" and columns is None and first_line(path, encoding).split(",") == CSV_HEADER:
        return "movielens"
    if ending not in _SUFFIXES:
        raise BadRecording(path, "cannot tell its format from its name", f"set format to one of {', '.join(FORMATS)}")
    return _SUFFIXES[ending]


def _remedy(format: str, columns: ColumnMap, missing: str, header: bool | tuple[str, ...]) -> str:
    """Return what else to do about a column that the file does not have."""
    remedies = []
    if missing == columns.timestamp:
        remedies.append("if its rows are in time order and have no times, set timestamp = false in [stream.columns]")
    if format in ("csv", "tsv") and header is True:
        remedies.append("if it has no header line, set header = false in [stream] and map the columns by number, from 1")
    return "; ".join(remedies)


def _layout(path: Path, format: str, columns: ColumnMap | None, users: SideFile, items: SideFile, options: Options) -> Layout:
    known: dict[str, Callable[[Path, ColumnMap | None, SideFile, SideFile, Options], Layout]] = {
        "movielens": movielens,
        "recbole": recbole,
    }
    if format in known:
        return known[format](path, columns, users, items, options)
    reader = table(path, format, options)
    if columns is None:
        columns = ColumnMap(value=next((name for name in ("rating", "label") if name in reader.names), None))
    return Layout(
        reader,
        columns,
        Types().with_text(options.of(columns)),
        users=table_side("user", users, columns.user, options),
        items=table_side("item", items, columns.item, options),
    )


def _remember(known: dict[str, dict[str, dict[str, Attribute]]], update: UserUpdate | ItemUpdate) -> None:
    if isinstance(update, UserUpdate):
        known["user"][update.user] = dict(update.attributes)
    else:
        known["item"][update.item] = dict(update.attributes)
