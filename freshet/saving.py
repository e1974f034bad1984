"""Saves a recommender in a folder: a checkpoint, and beside it what a checkpoint leaves to the config and the log."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec

from memory import checkpoint as checkpoints
from memory.checkpoint import Checkpoint
from memory.stateful import run_to_end
from service.config import Config, ConfigError, parse
from service.learning.trainer import Trainer
from service.ranking.pipeline import Pipeline
from service.recovery.recovery import check, read_metadata
from service.recovery.snapshots import collect_snapshots, with_snapshots
from streams.log import Log

__all__ = ["Saved", "check_saved", "read_saved", "write_saved"]

_CHECKPOINTS = "checkpoints"


class Saved(msgspec.Struct, kw_only=True):
    """What a recommender needs beside its checkpoint.

    Attributes
    ----------
    name : str
    config : dict
        All tables of the config.
    key : bytes
        Key of the signatures of its rankings.
    time : float
        Time of the last event, Unix seconds.
    rewind : int
        Offset of the first record in `records`.
    records : list of (bytes, bytes)
        Keys and values of the records that rankings and interactions to come are joined with.
    """

    name: str
    config: dict[str, Any]
    key: bytes
    time: float
    rewind: int
    records: list[tuple[bytes, bytes]]

    @classmethod
    def of(cls, config: Config, key: bytes, time: float, rewind: int, log: Log) -> Saved:
        """Collect what is needed; the records are those from `rewind` to the end of the log."""
        records = [(one.key, one.value) for one in log.read({0: rewind}, log.end()[0] - rewind)]
        document = config.model_dump(mode="json", exclude={"name"})
        return cls(name=config.name, config=document, key=key, time=time, rewind=rewind, records=records)


def write_saved(folder: Path, saved: Saved, trainer: Trainer) -> Path:
    """Write a recommender. Until the checkpoint has its name, the folder has the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = trainer.checkpoint()
    beside = _beside(folder, checkpoint)
    temporary = beside.with_suffix(".tmp")
    # Only its owner can read the key.
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.msgpack.encode(saved))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(beside)
    snapshots = run_to_end(collect_snapshots(trainer.reader.joiners))
    checkpoints.save(folder / _CHECKPOINTS, with_snapshots(checkpoint, snapshots), keep=1)
    for other in folder.glob("recommender-*"):
        if other != beside:
            other.unlink()
    return folder


def read_saved(folder: Path) -> tuple[Saved, Config, Path]:
    """Read what `write_saved` wrote: also its config, and the folder of its checkpoint.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ConfigError
        If this program does not know the config.
    """
    found, unusable = checkpoints.latest(folder / _CHECKPOINTS, set_aside=False)
    if found is None:
        why = f"{unusable[0]}" if unusable else "no saved recommender here; give the folder of Recommender.save"
        raise FileNotFoundError(errno.ENOENT, why, str(folder))
    saved = msgspec.msgpack.decode(_beside(folder, found).read_bytes(), type=Saved)
    return saved, parse(saved.config, saved.name), folder / _CHECKPOINTS


def check_saved(folder: Path, pipeline: Pipeline) -> None:
    """Raise if this program cannot use the checkpoint.

    Raises
    ------
    ConfigError
        If a learner's state has another layout here.
    """
    found, _ = checkpoints.latest(folder, set_aside=False)
    assert found is not None
    try:
        check(found, pipeline, None)
    except ValueError as error:
        raise ConfigError(str(folder), f"{error}. Learn the events again, or use the version that saved it") from error


def _beside(folder: Path, checkpoint: Checkpoint) -> Path:
    position = sum(one.next for one in read_metadata(checkpoint).positions.values())
    return folder / f"recommender-{position}.msgpack"
