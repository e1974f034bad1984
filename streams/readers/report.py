"""The report on a recorded file, for ``freshet validate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streams.block import Block, Column
from streams.dead_letters import DeadLetters
from streams.events import Event, Impression, Interaction, ItemUpdate, UserUpdate

__all__ = ["Report", "Tally"]

_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The contents of a recorded file.

    Attributes
    ----------
    path, format : str
        Path and format of the file.
    rows : int
        Number of interactions.
    events : dict
        Other events, by type: updates of users and items, impressions, ...
    users, items : int
        Distinct users and items in the interactions.
    kinds : dict
        Interactions by kind.
    start, end : float or None
        Times of the earliest and latest interaction, Unix seconds.
    out_of_order : int
        Rows with a time before that of the previous row in the file.
    bad : dict
        Skipped rows, by reason.
    warnings : list of str
        What is suspicious, but no error.
    examples : dict
        Messages of a few skipped rows, by reason.
    unknown_users, unknown_items : int or None
        Interactions whose user or item is not in the side file; None without that file.
    """

    path: str
    format: str
    rows: int
    events: dict[str, int]
    users: int
    items: int
    kinds: dict[str, int]
    start: float | None
    end: float | None
    out_of_order: int
    bad: dict[str, int]
    warnings: list[str]
    examples: dict[str, list[str]]
    unknown_users: int | None
    unknown_items: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict for JSON."""
        return asdict(self)


class Tally:
    """Counts the events and blocks of a recording."""

    def __init__(self) -> None:
        self._rows = 0
        self._events: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._users, self._items = _Ids(), _Ids()
        self._start, self._end = np.inf, -np.inf

    def take(self, event: Event | Block) -> None:
        """Count an event or a block."""
        if isinstance(event, Block):
            self._take_block(event)
        elif isinstance(event, Interaction):
            self._rows += 1
            self._kinds[event.kind] += 1
            self._users.add(event.user)
            self._items.add(event.item)
            self._span(event.timestamp, event.timestamp)
        else:
            self._events[str(event.__struct_config__.tag)] += 1
            match event:
                case UserUpdate():
                    self._users.known.add(event.user)
                case ItemUpdate():
                    self._items.known.add(event.item)
                case Impression():
                    self._users.add(event.user, rows=0)

    def report(
        self,
        path: Path,
        format: str,
        dead: DeadLetters,
        warnings: Iterable[str],
        out_of_order: int,
        has_users: bool,
        has_items: bool,
    ) -> Report:
        """Return the report on all that was counted, with the rows that the reader skipped and what it warned of."""
        examples: dict[str, list[str]] = {}
        for letter in dead.read(1_000):
            if len(examples.setdefault(letter.kind, [])) < _EXAMPLES:
                examples[letter.kind].append(f"{Path(letter.source).name} {letter.reason}")
        return Report(
            path=str(path),
            format=format,
            rows=self._rows,
            events=dict(self._events),
            users=len(self._users.rows),
            items=len(self._items.rows),
            kinds=dict(self._kinds),
            start=self._start if self._rows else None,
            end=self._end if self._rows else None,
            out_of_order=out_of_order,
            bad=dict(dead.counts),
            warnings=list(warnings),
            examples=examples,
            unknown_users=self._users.unknown() if has_users else None,
            unknown_items=self._items.unknown() if has_items else None,
        )

    def _take_block(self, block: Block) -> None:
        self._rows += block.rows
        self._users.add_column(block.user)
        self._items.add_column(block.item)
        if isinstance(block.kind, str):
            self._kinds[block.kind] += block.rows
        else:
            counts = np.bincount(block.kind.codes, minlength=len(block.kind.names)).tolist()
            self._kinds.update({name: count for name, count in zip(block.kind.names, counts, strict=True) if count})
        self._span(float(block.timestamp.min()), float(block.timestamp.max()))

    def _span(self, start: float, end: float) -> None:
        self._start, self._end = min(self._start, start), max(self._end, end)


class _Ids:
    """Counts rows by id, and stores the ids of the side file."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.known: set[str] = set()

    def add(self, name: str, rows: int = 1) -> None:
        self.rows[name] += rows

    def add_column(self, column: Column) -> None:
        codes, counts = np.unique(column.codes, return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            self.rows[column.names[code]] += count

    def unknown(self) -> int:
        return sum(count for name, count in self.rows.items() if name not in self.known)
