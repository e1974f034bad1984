"""Where a trainer goes on after a restart: from which checkpoint, and from which records of the log.

Whatever does not fit is named and passed over, and the log is folded from where that leads: a service that cannot use what lies
in its folder starts all the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec

from memory import checkpoint as checkpoints
from memory.checkpoint import Checkpoint
from memory.stateful import versions
from service.ranking.pipeline import Pipeline
from service.recovery.ledger import Ledger, Run
from service.recovery.notes import Notes, take_notes
from streams.joined import Position
from streams.log import Log, Offsets

__all__ = ["MISSING", "PASSED_OVER", "About", "Followed", "Start", "about", "check", "recover"]

PASSED_OVER, MISSING = "checkpoint_passed_over", "records_missing"
"""What the metric of failures calls checkpoints that could not be used, and records that were trimmed and still needed."""


class Followed(Protocol):
    """A log of changes that replicas follow."""

    def goes_on(self, offset: int, epoch: int) -> bool:
        """Whether the log keeps what follows a checkpoint with this `offset`, and nothing of it is of a newer history."""


class About(msgspec.Struct):
    """What a trainer's checkpoint says beside the state.

    Attributes
    ----------
    epoch : int
        Which history it belongs to.
    position : int
        Place in it; see `service.learning.event_reader.EventReader.position`.
    positions : dict of partition to Position
    ledger, weights : int
        Where the ledger and the weights log go on.
    as_of : float
        Unix seconds: everything appended before is in the state.
    log : str or None
        `streams.log.Log.identity` of the log whose records it counts.
    versions : dict of str to int or str
        `state_version` of everything in the state.
    """

    epoch: int
    position: int
    positions: dict[int, Position]
    ledger: int
    weights: int
    as_of: float
    log: str | None
    versions: dict[str, int | str]


@dataclass(slots=True)
class Start:
    """Where to go on.

    Attributes
    ----------
    positions : dict of partition to Position
    epoch : int
        Of the history that is gone on with.
    anew : bool
        Whether that is a new one, which replicas have to be given a checkpoint of.
    runs : iterator of Run or None
        The order in which the records were taken before, as far as it is known.
    notes : dict
        What was noted of waiting impressions; see `service.recovery.notes`.
    notices : list of str
        What an operator should know.
    failures : Counter
        The same, counted.
    """

    positions: dict[int, Position]
    epoch: int
    anew: bool = True
    runs: Iterator[Run] | None = None
    notes: Notes = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


def about(found: Checkpoint) -> About:
    """Read a checkpoint's metadata.

    Raises
    ------
    ValueError
        Where something is missing or of another type.
    """
    try:
        return msgspec.convert(found.meta, About, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"metadata: {error}; another program wrote it") from error


def check(found: Checkpoint, pipeline: Pipeline, identity: str | None, folder: Path) -> None:
    """Refuse a checkpoint that is not of this log and this program.

    Parameters
    ----------
    found : Checkpoint
    pipeline : Pipeline
        Which is to load it.
    identity : str or None
        `Log.identity` of the log of events.
    folder : Path
        Of the checkpoint.

    Raises
    ------
    ValueError
        Saying what does not fit.
    memory.pickled_object.UntrustedPickle
        Where others could have written to the folder, and the state is such that this matters.
    """
    said = about(found)
    if said.log != identity:
        raise ValueError(f"log: it counts the records of {said.log!r}, and this log is {identity!r}")
    for name, version in versions(pipeline).items():
        if (other := said.versions.get(name)) != version:
            raise ValueError(f"{name}: its state_version is {other!r}, and that of this program is {version!r}")
    try:
        _, state = take_notes(found.state)
    except msgspec.MsgspecError as error:
        raise ValueError(f"notes of waiting impressions: {error}; another program wrote them") from error
    with checkpoints.trust(folder):
        pipeline.check_state_dict(state)


def recover(
    folder: Path | None, log: Log, pipeline: Pipeline, ledger: Ledger | None = None, followed: Followed | None = None
) -> Start:
    """Load the newest checkpoint that fits, and say where to go on from it; without one, at the beginning of the log.

    Where the log was trimmed past what the checkpoint needs, its state is kept and goes on at the beginning of what is left.
    What comes after that is not what would have been: a new history begins, with a new epoch and an empty ledger.

    Parameters
    ----------
    folder : Path or None
        Of checkpoints.
    log : Log
        Of events.
    pipeline : Pipeline
        The state is loaded into it.
    ledger : Ledger or None
    followed : Followed or None
        The log of changes that replicas follow.
    """
    begin, end = log.begin(), log.end()
    start = Start({partition: Position(next=offset, rewind=offset) for partition, offset in begin.items()}, _now())
    found = None if folder is None else _newest(folder, log, end, pipeline, start)
    same = False
    if found is None:
        _say_what_was_trimmed(begin, start)
    else:
        said = about(found)
        pipeline.version = found.version
        same = _place(said.positions, begin, start) and (ledger is None or _follow(ledger, said.ledger, end, start))
        start.anew = not same or not (followed is None or followed.goes_on(said.weights, said.epoch))
        start.epoch = max(start.epoch, said.epoch + 1) if start.anew else said.epoch
    if ledger is not None and not same:
        ledger.clear()
    return start


def _newest(folder: Path, log: Log, end: Offsets, pipeline: Pipeline, start: Start) -> Checkpoint | None:
    """Load the newest checkpoint that fits into the pipeline; note those that do not."""

    def fits(found: Checkpoint) -> None:
        check(found, pipeline, log.identity, folder)
        for partition, position in about(found).positions.items():
            if partition not in end:
                raise ValueError(f"positions: it has a partition {partition}, and the log has {sorted(end)}")
            if position.next > end[partition]:
                problem = f"goes on at record {position.next}, and the log ends at {end[partition]}"
                raise ValueError(f"positions: partition {partition} {problem}: its tail was lost, or it is another log")

    found, unusable = checkpoints.latest(folder, fits)
    for error in unusable:
        start.failures[PASSED_OVER] += 1
        start.notices.append(f"{error}. It is passed over and kept as {error.path.name}{error.suffix}")
    if found is not None:
        start.notes, state = take_notes(found.state)
        with checkpoints.trust(folder):
            pipeline.load_state_dict(state)
    return found


def _say_what_was_trimmed(begin: Offsets, start: Start) -> None:
    """Name what a fold of the whole log leaves out; it is a loss where there had been a state with it."""
    for partition, offset in begin.items():
        if offset > 0:
            where = _partition(partition, begin)
            start.notices.append(f"{where} begins at record {offset}: what was trimmed before it is not in the state")
            if start.failures[PASSED_OVER]:
                start.failures[MISSING] += offset


def _place(positions: Mapping[int, Position], begin: Offsets, start: Start) -> bool:
    """Go on at the positions, as far as the log reaches back; whether it does.

    The open batch does not outlast a gap: without the records before it, nobody can tell which of its rows have been learned.
    """
    whole = True
    for partition, position in positions.items():
        kept = begin[partition]
        if position.rewind >= kept:
            start.positions[partition] = position
            continue
        whole = False
        unlearned, missing = max(kept - position.next, 0), kept - position.rewind
        start.positions[partition] = replace(position, next=max(position.next, kept), rewind=kept, rows=0, shown=0)
        start.failures[MISSING] += missing
        start.notices.append(
            f"{_partition(partition, begin)} begins at record {kept}, and the checkpoint goes on at record {position.next} and "
            f"needs those from {position.rewind} on: {missing} records are missing, {unlearned} that were never learned and "
            f"{missing - unlearned} that later outcomes were to be joined with"
        )
    return whole


def _follow(ledger: Ledger, mark: int, end: Offsets, start: Start) -> bool:
    """Find the order that the ledger says the log goes on in; whether it can be followed."""
    try:
        for run in ledger.runs(mark):
            if run.stop > end.get(run.partition, 0):
                problem = f"ledger: partition {run.partition} was read up to {run.stop}, and the log ends at {end}"
                raise LookupError(f"{problem}: its tail was lost")
        start.runs = ledger.runs(mark)
    except LookupError as error:
        start.failures["ledger"] += 1
        start.notices.append(f"{error}. The partitions are taken in another order than before")
        return False
    return True


def _partition(partition: int, begin: Offsets) -> str:
    return f"partition {partition} of the log" if len(begin) > 1 else "the log"


def _now() -> int:
    return int(time.time() * 1000)
