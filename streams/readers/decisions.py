"""Recorded decisions: what was shown among what, with which probability, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from streams.dead_letters import DeadLetters
from streams.events import ItemUpdate
from streams.readers.dsjson import dsjson
from streams.readers.layout import suffix
from streams.readers.mapping import BadRecording, BadRows
from streams.readers.open_bandit import open_bandit
from streams.readers.shown import Decision
from streams.readers.text import first_line

__all__ = ["DECISION_FORMATS", "Decision", "DecisionLog", "open_decisions"]

DECISION_FORMATS = ("open_bandit", "dsjson")

_Reader = Callable[[Path, BadRows], Iterator[ItemUpdate | Decision]]
_READERS: dict[str, _Reader] = {"open_bandit": open_bandit, "dsjson": dsjson}


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """A file of recorded decisions, made by `open_decisions`.

    Attributes
    ----------
    path : Path
        The file.
    format : str
        One of `DECISION_FORMATS`.
    strict : bool
        Whether a line that is not understood ends the reading.
    dead : DeadLetters
        What the latest pass left out: counts by reason, and the last 1,000 with their line numbers.
    """

    path: Path
    format: str
    strict: bool
    dead: DeadLetters

    def read(self) -> Iterator[ItemUpdate | Decision]:
        """Decisions in the order of the file; an item's attributes come before the first decision that has them.

        Raises
        ------
        BadRecording
            For a file without a single decision, and, when strict, for the first line that is not understood.
        """
        self.dead.clear()
        found = _READERS[self.format](self.path, BadRows(self.dead, self.strict))
        start: list[ItemUpdate | Decision] = []
        for one in found:
            start.append(one)
            if isinstance(one, Decision):
                yield from chain(start, found)
                return
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.dead.counts.items())
        raise BadRecording(
            self.path, f"not one decision ({counts or 'no lines'})", "see whether the format is what the file has"
        )


def open_decisions(path: str | Path, *, format: str | None = None, strict: bool = False) -> DecisionLog:
    """Open a file of recorded decisions.

    Parameters
    ----------
    path : path
        The file, possibly compressed (.gz, .bz2, .zst, .lz4).
    format : str or None
        ``open_bandit`` (Open Bandit Dataset) or ``dsjson`` (Vowpal Wabbit's decision service). None: by the name.
    strict : bool
        Whether a line that is not understood ends the reading; else it is left out, counted, and named in ``dead``.

    Raises
    ------
    BadRecording
        For a file that is not there, is empty, or is of no known format.
    """
    path = Path(path)
    if path.is_dir():
        raise BadRecording(path, "a folder", "give the path of one file")
    known = {".csv": "open_bandit", ".json": "dsjson", ".dsjson": "dsjson"}
    chosen = known.get(suffix(path)) if format is None else format
    if chosen not in DECISION_FORMATS:
        formats = ", ".join(DECISION_FORMATS)
        problem = "cannot tell its format from its name" if format is None else f"unknown format {format!r}"
        raise BadRecording(path, problem, f"say one of {formats}, or give the url of a log of the service")
    if not first_line(path):
        raise BadRecording(path, "empty file", "give a file with decisions")
    return DecisionLog(path, chosen, strict, DeadLetters())
