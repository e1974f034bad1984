"""Finds the checkpoint and the records from which a trainer continues after a restart.

Files that cannot be used are reported and skipped, and the log is read from an earlier position. So the service starts even if
its folder holds nothing usable.
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
from service.recovery.snapshots import WaitingSnapshots, split_snapshots
from streams.joined import Position
from streams.log import DamagedRecord, Log, Offsets

__all__ = ["MISSING", "UNUSABLE", "ChangeLog", "CheckpointMetadata", "Start", "check", "read_metadata", "recover"]

UNUSABLE, MISSING = "checkpoint_unusable", "records_missing"
"""Labels in the metric of failures: checkpoints that could not be used, and needed records that were trimmed."""


class ChangeLog(Protocol):
    """The log of changes that replicas read."""

    def can_continue_from(self, offset: int, epoch: int) -> bool:
        """Whether the log has every record from `offset` on, and none with a newer epoch."""


class CheckpointMetadata(msgspec.Struct):
    """Metadata of a trainer's checkpoint.

    Attributes
    ----------
    epoch : int
        Identifies the history.
    position : int
        Position in the history; see `service.learning.event_reader.EventReader.position`.
    positions : dict of partition to Position
    ledger, weights : int
        Positions in the ledger and the weights log from which to continue.
    as_of : float
        Unix seconds: the state includes everything appended before this time.
    log : str or None
        `streams.log.Log.identity` of the log that the positions refer to.
    versions : dict of str to int or str
        `state_version` of each part of the state.
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
    """Where a trainer continues.

    Attributes
    ----------
    positions : dict of partition to Position
    epoch : int
        Identifies the history that continues.
    new_history : bool
        Whether this history is new. Then replicas need a checkpoint of it.
    runs : iterator of Run or None
        The recorded order of the next records, as far as it is known.
    snapshots : dict
        Snapshots of waiting impressions; see `service.recovery.snapshots`.
    notices : list of str
        Messages for the operator.
    failures : Counter
        Number of failures, by what failed.
    """

    positions: dict[int, Position]
    epoch: int
    new_history: bool = True
    runs: Iterator[Run] | None = None
    snapshots: WaitingSnapshots = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


def read_metadata(found: Checkpoint) -> CheckpointMetadata:
    """Return the metadata of a checkpoint.

    Raises
    ------
    ValueError
        If a field is missing or has another type.
    """
    try:
        return msgspec.convert(found.meta, CheckpointMetadata, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"metadata: {error}; another program wrote this checkpoint") from error


def check(found: Checkpoint, pipeline: Pipeline, identity: str | None) -> None:
    """Raise if a checkpoint does not belong to this log or this program.

    Parameters
    ----------
    found : Checkpoint
    pipeline : Pipeline
        Will load the checkpoint.
    identity : str or None
        `Log.identity` of the events log.

    Raises
    ------
    ValueError
        If log, versions or state differ; the message says which.
    """
    metadata = read_metadata(found)
    if metadata.log != identity:
        raise ValueError(f"log: the checkpoint is of log {metadata.log!r}, but this log is {identity!r}")
    for name, version in versions(pipeline).items():
        if (other := metadata.versions.get(name)) != version:
            raise ValueError(f"{name}: the checkpoint has state_version {other!r}, but this program has {version!r}")
    try:
        _, state = split_snapshots(found.state)
    except msgspec.MsgspecError as error:
        raise ValueError(f"snapshots of waiting impressions: {error}; another program wrote them") from error
    pipeline.check_state_dict(state)


def recover(
    folder: Path | None, log: Log, pipeline: Pipeline, ledger: Ledger | None = None, changes: ChangeLog | None = None
) -> Start:
    """Load the newest usable checkpoint and return where to continue; without one, at the beginning of the log.

    If records that the checkpoint needs were trimmed, its state is kept and continues at the first record left. The result
    differs from an uninterrupted run, so a new history starts, with a new epoch and an empty ledger.

    Parameters
    ----------
    folder : Path or None
        Folder of checkpoints.
    log : Log
        Events log.
    pipeline : Pipeline
        Loads the state.
    ledger : Ledger or None
    changes : ChangeLog or None
        The log of changes that replicas read.
    """
    begin, end = log.begin(), log.end()
    start = Start({partition: Position(next=offset, rewind=offset) for partition, offset in begin.items()}, _now())
    found = None if folder is None else _newest(folder, log, end, pipeline, start)
    same_history = False
    if found is None:
        _report_trimmed(begin, start)
    else:
        metadata = read_metadata(found)
        pipeline.version = found.version
        same_history = _set_positions(metadata.positions, begin, start)
        same_history = same_history and (ledger is None or _read_order(ledger, metadata.ledger, end, start))
        start.new_history = not same_history or not (
            changes is None or changes.can_continue_from(metadata.weights, metadata.epoch)
        )
        start.epoch = max(start.epoch, metadata.epoch + 1) if start.new_history else metadata.epoch
    if ledger is not None and not same_history:
        ledger.clear()
    return start


def _newest(folder: Path, log: Log, end: Offsets, pipeline: Pipeline, start: Start) -> Checkpoint | None:
    """Load the newest usable checkpoint into the pipeline; report the others."""

    def check_fits(found: Checkpoint) -> None:
        check(found, pipeline, log.identity)
        for partition, position in read_metadata(found).positions.items():
            if partition not in end:
                raise ValueError(f"positions: the checkpoint has partition {partition}, but the log has {sorted(end)}")
            if position.next > end[partition]:
                problem = f"continues at record {position.next}, but the log ends at {end[partition]}"
                raise ValueError(f"positions: partition {partition} {problem}: the log lost its tail, or it is another log")

    found, unusable = checkpoints.latest(folder, check_fits)
    for error in unusable:
        start.failures[UNUSABLE] += 1
        start.notices.append(f"{error}. It is skipped and kept as {error.path.name}{error.suffix}")
    if found is not None:
        start.snapshots, state = split_snapshots(found.state)
        pipeline.load_state_dict(state)
    return found


def _report_trimmed(begin: Offsets, start: Start) -> None:
    """Report the records missing from the start of the log. They count as lost if an unusable checkpoint had them."""
    for partition, offset in begin.items():
        if offset > 0:
            where = _partition(partition, begin)
            start.notices.append(f"{where} begins at record {offset}: the state lacks the records trimmed before it")
            if start.failures[UNUSABLE]:
                start.failures[MISSING] += offset


def _set_positions(positions: Mapping[int, Position], begin: Offsets, start: Start) -> bool:
    """Continue at the positions, or at the first record left. Return whether the log has all needed records.

    A gap discards the open batch: without the earlier records, it is unknown which of its rows were learned.
    """
    complete = True
    for partition, position in positions.items():
        kept = begin[partition]
        if position.rewind >= kept:
            start.positions[partition] = position
            continue
        complete = False
        unlearned, missing = max(kept - position.next, 0), kept - position.rewind
        start.positions[partition] = replace(position, next=max(position.next, kept), rewind=kept, rows=0, shown=0)
        start.failures[MISSING] += missing
        start.notices.append(
            f"{_partition(partition, begin)} begins at record {kept}, but the checkpoint continues at record {position.next} "
            f"and needs the records from {position.rewind} on. {missing} records are missing: {unlearned} were never learned, "
            f"and {missing - unlearned} were needed to join later outcomes"
        )
    return complete


def _read_order(ledger: Ledger, mark: int, end: Offsets, start: Start) -> bool:
    """Read the order of the next records from the ledger. Return whether the log has these records."""
    try:
        for run in ledger.runs(mark):
            if run.stop > end.get(run.partition, 0):
                problem = f"ledger: partition {run.partition} was read up to {run.stop}, but the log ends at {end}"
                raise LookupError(f"{problem}: the log lost its tail")
        start.runs = ledger.runs(mark)
    except (LookupError, DamagedRecord) as error:
        start.failures["ledger"] += 1
        start.notices.append(f"{error}. The partitions are read in another order than before")
        return False
    return True


def _partition(partition: int, begin: Offsets) -> str:
    return f"partition {partition} of the log" if len(begin) > 1 else "the log"


def _now() -> int:
    return int(time.time() * 1000)
