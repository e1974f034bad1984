"""Trims and copies logs on disk."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from memory import checkpoint as checkpoints
from service.log_tools.summary import Summary, records, summarize
from service.process.data_folder import become_writer
from streams.disk.file import DATA
from streams.lmdb_log import LmdbLog
from streams.log import Offsets

__all__ = ["copy", "needed", "offsets_at", "trim"]


def needed(path: Path, folder: Path) -> Offsets:
    """First record of each partition that the newest checkpoint of a data folder needs, if it is of this log; else empty."""
    with closing(LmdbLog(path, readonly=True)) as log:
        identity = log.identity
    newest: tuple[float, Offsets] = (0.0, {})
    for fingerprint in {file.parent for file in folder.rglob(checkpoints.PATTERN)}:
        for version, meta in checkpoints.metadata(fingerprint).items():
            written = checkpoints.path_of(fingerprint, version).stat().st_mtime
            if meta.get("log") == identity and written >= newest[0]:
                newest = written, {int(partition): position["rewind"] for partition, position in meta["positions"].items()}
    return newest[1]


def offsets_at(path: Path, time: float) -> Offsets:
    """Offsets of the first records that were appended at a time or later, Unix seconds."""
    with closing(LmdbLog(path, readonly=True)) as log:
        begin, end = log.begin(), log.end()
        found = dict(end)
        for partition in begin:
            for record in records(log, partition, begin[partition], end[partition], []):
                if record.timestamp >= time:
                    found[partition] = record.offset
                    break
        return found


def trim(path: Path, folder: Path, offsets: Offsets) -> int:
    """Delete the records before these offsets. Return their number.

    Raises
    ------
    service.process.data_folder.FolderBusy
        A service runs on the data folder.
    """
    with become_writer(folder), closing(_open(path)) as log:
        before = log.begin()
        log.trim(offsets)
        return sum(log.begin()[partition] - begin for partition, begin in before.items())


def copy(path: Path, target: Path, *, salvage: bool) -> Summary:
    """Copy a log into a new folder, without its free pages, and verify the copy.

    Parameters
    ----------
    path, target : Path
    salvage : bool
        Copy a damaged log, too: an empty record takes the place of each damaged one, so that offsets stay the same.

    Raises
    ------
    streams.log.DamagedRecord
        The log is damaged, and `salvage` is not set; the copy is deleted.
    """
    with closing(LmdbLog(path, readonly=True)) as log:
        log.copy(target)
        if salvage:
            for partition, summary in summarize(target, verify=True).partitions.items():
                _replace(target, partition, summary.damaged)
    copied = summarize(target, verify=True)
    if copied.damaged:
        for file in target.iterdir():
            file.unlink()
        target.rmdir()
        partition, found = next((p, one.damaged) for p, one in copied.partitions.items() if one.damaged)
        problem = f"{copied.damaged} records are damaged, the first is record {found[0]} of partition {partition}"
        raise OSError(errno.EIO, f"{problem}; copy the others with --salvage", str(path / DATA))
    return copied


def _replace(path: Path, partition: int, offsets: Iterable[int]) -> None:
    with closing(_open(path)) as log:
        for offset in offsets:
            log.blank(partition, offset)


def _open(path: Path) -> LmdbLog:
    """Open a log for writing, with the partitions and the size that it has."""
    with closing(LmdbLog(path, readonly=True)) as log:
        partitions, size = len(log.end()), log.nbytes
    return LmdbLog(path, partitions=partitions, max_bytes=max(size + (1 << 20), 1 << 20))
