"""Recorded decisions: items shown with their propensities, the other candidates, and the rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from streams.dead_letters import DeadLetters
from streams.events import ItemUpdate
from streams.readers.beside import suffix
from streams.readers.decision import Decision
from streams.readers.dsjson import dsjson
from streams.readers.files import first_line
from streams.readers.mapping import Admission, BadRecording, BadRows
from streams.readers.open_bandit import open_bandit

__all__ = ["DECISION_FORMATS", "Decision", "DecisionLog", "open_decisions"]

DECISION_FORMATS = ("open_bandit", "dsjson")

_LETTERS = 1_000

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
        Whether an invalid line raises an error.
    admission : Admission or None
        Decides which decisions and items may be learned from. None: all.
    dead : DeadLetters
        Lines that the latest pass skipped: counts by reason, and the last 1,000 with their line numbers.
    """

    path: Path
    format: str
    strict: bool
    admission: Admission | None
    dead: DeadLetters

    def read(self) -> Iterator[ItemUpdate | Decision]:
        """Yield the decisions in file order. The attributes of an item come before the first decision with them.

        Raises
        ------
        BadRecording
            The file has no decision; with `strict`, also for the first invalid line.
        """
        self.dead.clear()
        found = _READERS[self.format](self.path, BadRows(self.dead, self.strict, admission=self.admission))
        start: list[ItemUpdate | Decision] = []
        for entry in found:
            start.append(entry)
            if isinstance(entry, Decision):
                yield from chain(start, found)
                return
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.dead.counts.items())
        first = next((f": {letter.reason}" for letter in self.dead.read(_LETTERS)), "")
        problem = f"not one decision ({counts or 'no lines'}){first}"
        raise BadRecording(self.path, problem, "check that the format fits the file")


def open_decisions(
    path: str | Path, *, format: str | None = None, strict: bool = False, admission: Admission | None = None
) -> DecisionLog:
    """Open a file of recorded decisions.

    Parameters
    ----------
    path : path
        The file, possibly compressed (.gz, .bz2, .zst, .lz4).
    format : str or None
        ``open_bandit`` (Open Bandit Dataset) or ``dsjson`` (Vowpal Wabbit's decision service). None: chosen by the file's
        name.
    strict : bool
        True: the first invalid line raises an error. False: invalid lines are skipped and counted in ``dead``.
    admission : Admission or None
        Decides which decisions and items may be learned from. None: all.

    Raises
    ------
    BadRecording
        The file does not exist, is empty, or has an unknown format.
    """
    path = Path(path)
    if path.is_dir():
        raise BadRecording(path, "a folder", "give the path of one file")
    known = {".csv": "open_bandit", ".json": "dsjson", ".dsjson": "dsjson"}
    chosen = known.get(suffix(path)) if format is None else format
    if chosen not in DECISION_FORMATS:
        formats = ", ".join(DECISION_FORMATS)
        problem = "cannot tell its format from its name" if format is None else f"unknown format {format!r}"
        raise BadRecording(path, problem, f"set format to one of {formats}, or give the url of a log of the service")
    if not first_line(path):
        raise BadRecording(path, "empty file", "give a file with decisions")
    return DecisionLog(path, chosen, strict, admission, DeadLetters())
