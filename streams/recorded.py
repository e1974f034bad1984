"""Recorded files as streams of events, for replay and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from streams.admission.limits import DEFAULT_LIMITS, TextLimits
from streams.block import Block
from streams.dead_letters import DeadLetters
from streams.events import Attribute, Event, ItemUpdate, UserUpdate
from streams.readers import lines
from streams.readers.cleaning import Cleaner, Rows
from streams.readers.layout import Layout, SideFile, suffix, table, table_side
from streams.readers.mapping import BadRecording, BadRows, ColumnMap
from streams.readers.movielens import CSV_HEADER, movielens
from streams.readers.recbole import recbole
from streams.readers.report import Report, Tally
from streams.readers.text import first_line
from streams.readers.updates import Updates

__all__ = ["FORMATS", "BadRecording", "ColumnMap", "Recording", "Report", "open_recording", "validate"]

FORMATS = ("movielens", "recbole", "csv", "tsv", "parquet", "jsonl", "events")
CHUNK = 65_536
"""Largest number of rows in a `Block`."""

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
        Columns of a table. None: the defaults of `ColumnMap`.
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

    Raises
    ------
    BadRecording
        The file does not exist, is empty, does not have its format, or lacks a mapped column.
    """
    file = _file(Path(path))
    chosen = _guess(file, columns) if format is None else format
    if chosen not in FORMATS:
        raise BadRecording(file, f"unknown format {chosen!r}", f"choose one of {', '.join(FORMATS)}")
    side_files = [Path(side) if isinstance(side, str) else side for side in (users, items)]
    if chosen == "events":
        if not first_line(file):
            raise BadRecording(file, "empty file", "give a file with one event per line")
        if columns is not None or any(isinstance(side, Path) for side in side_files):
            raise BadRecording(file, "events need no columns, users or items", "leave them out, or set format = jsonl")
        return Recording(file, chosen, None, kind, sorted, strict, limits)
    layout = _layout(file, chosen, columns, *side_files)
    for name in layout.columns.names:
        if name not in layout.reader.names:
            raise BadRecording.missing_column(file, name, layout.reader.names)
        if layout.reader.names.count(name) > 1:
            raise BadRecording(file, f"two columns {name!r}", "rename one", column=name)
    return Recording(file, chosen, layout, kind, sorted, strict, limits)


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
        Rows that the latest pass skipped: counts by reason, and the last 1,000 with their row numbers.
    out_of_order : int
        Rows of the latest pass with a time before that of the previous row in the file.
    has_users, has_items : bool
        Whether a pass starts with users or items from a side file.
    """

    def __init__(
        self, path: Path, format: str, layout: Layout | None, kind: str, sorted: bool, strict: bool, limits: TextLimits
    ) -> None:
        self.path = path
        self.format = format
        self.rows = layout.reader.rows if layout else None
        self.dead = DeadLetters()
        self.out_of_order = 0
        self.has_users = layout is not None and layout.users is not None
        self.has_items = layout is not None and layout.items is not None
        self._layout, self._kind, self._sorted, self._strict, self._limits = layout, kind, sorted, strict, limits

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
        bad = BadRows(self.dead, self._strict, self._limits)
        found = self._native(bad) if self._layout is None else self._tabular(self._layout, bad)
        first = next(found, None)
        if first is None:
            why = next((f" ({letter.reason})" for letter in self.dead.read(1)), "")
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
                if layout.columns.user_attributes or layout.columns.item_attributes:
                    _remember(known, update)
                yield update
        users, items = Updates("user", known["user"]), Updates("item", known["item"])
        for rows in chain([first], chunks):
            block = rows.block
            yield from users.changes(block.user, rows.user_attributes, block.timestamp)
            yield from items.changes(block.item, rows.item_attributes, block.timestamp)
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


def validate(recording: Recording) -> Report:
    """Read a whole recording and report its contents."""
    tally = Tally()
    for event in recording.events():
        tally.take(event)
    return tally.report(
        recording.path, recording.format, recording.dead, recording.out_of_order, recording.has_users, recording.has_items
    )


def _file(path: Path) -> Path:
    """Return the recorded file at a path, which may be a folder."""
    if not path.is_dir():
        if not path.exists():
            raise BadRecording(path, "no such file", "give the path of a recorded file")
        return path
    found = [match for pattern in _IN_FOLDER for match in path.glob(pattern)]
    if len(found) == 1:
        return found[0]
    problem = (
        f"a folder with {', '.join(match.name for match in found)}" if found else f"a folder without {', '.join(_IN_FOLDER)}"
    )
    raise BadRecording(path, problem, "give the path of one file")


def _guess(path: Path, columns: ColumnMap | None) -> str:
    ending = suffix(path)
    if ending in (".jsonl", ".ndjson"):
        return "events" if columns is None else "jsonl"
    if ending == ".csv" and columns is None and first_line(path).split(",") == CSV_HEADER:
        return "movielens"
    if ending not in _SUFFIXES:
        raise BadRecording(path, "cannot tell its format from its name", f"set format to one of {', '.join(FORMATS)}")
    return _SUFFIXES[ending]


def _layout(path: Path, format: str, columns: ColumnMap | None, users: SideFile, items: SideFile) -> Layout:
    known: dict[str, Callable[[Path, ColumnMap | None, SideFile, SideFile], Layout]] = {
        "movielens": movielens,
        "recbole": recbole,
    }
    if format in known:
        return known[format](path, columns, users, items)
    columns = columns or ColumnMap()
    return Layout(
        table(path, format),
        columns,
        users=table_side("user", users, columns.user),
        items=table_side("item", items, columns.item),
    )


def _remember(known: dict[str, dict[str, dict[str, Attribute]]], update: UserUpdate | ItemUpdate) -> None:
    if isinstance(update, UserUpdate):
        known["user"][update.user] = dict(update.attributes)
    else:
        known["item"][update.item] = dict(update.attributes)
