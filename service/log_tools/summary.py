"""What a log on disk holds: offsets, times, bytes, and whether every record is as it was appended."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from streams.disk.file import DATA
from streams.lmdb_log import LmdbLog
from streams.log import DamagedRecord, Record

__all__ = ["PartitionSummary", "Summary", "find_logs", "records", "summarize"]

ROWS = 2_000
"""Records per read."""


@dataclass(slots=True)
class PartitionSummary:
    """A partition: its offsets, the append times of its first and last record (Unix seconds), and its damaged offsets."""

    begin: int
    end: int
    first: float | None = None
    last: float | None = None
    damaged: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Summary:
    """A log: its identity, bytes with records, bytes of the file, its partitions, and whether its checksums were verified."""

    path: Path
    identity: str | None
    used_bytes: int
    file_bytes: int
    verified: bool
    partitions: dict[int, PartitionSummary]

    @property
    def damaged(self) -> int:
        """Number of damaged records."""
        return sum(len(partition.damaged) for partition in self.partitions.values())


def find_logs(folder: Path) -> list[Path]:
    """Folders of the logs in a folder; the folder itself if it is one."""
    return [folder] if (folder / DATA).exists() else sorted(path.parent for path in folder.rglob(DATA))


def summarize(path: Path, *, verify: bool) -> Summary:
    """Describe a log. With `verify`, every record is read and its checksum compared.

    Raises
    ------
    OSError
        The log cannot be read.
    """
    try:
        log = LmdbLog(path, readonly=True)
    except ValueError as error:  # of something else, or damaged so that it looks like that
        raise OSError(errno.EINVAL, str(error)) from error
    try:
        begin, end = log.begin(), log.end()
        partitions = {p: PartitionSummary(begin[p], end[p]) for p in begin}
        for number, partition in partitions.items():
            ends = [(partition.begin, partition.begin + 1), (partition.end - 1, partition.end)]
            for start, stop in (
                [(partition.begin, partition.end)] if verify else ends if partition.end > partition.begin else []
            ):
                for record in records(log, number, start, stop, partition.damaged):
                    partition.first = record.timestamp if partition.first is None else partition.first
                    partition.last = record.timestamp
        return Summary(path, log.identity, log.used, log.nbytes, verify, partitions)
    finally:
        log.close()


def records(log: LmdbLog, partition: int, start: int, stop: int, damaged: list[int] | None = None) -> Iterator[Record]:
    """Yield the records of a partition; the offsets of damaged ones are added to `damaged`.

    Raises
    ------
    streams.log.DamagedRecord
        Without `damaged`, at the first damaged record.
    """
    at = start
    while at < stop:
        try:
            found = log.read({partition: at}, min(ROWS, stop - at))
        except DamagedRecord as error:
            if damaged is None:
                raise
            damaged.append(error.offset)
            at = error.offset + 1
            continue
        yield from found
        at = found[-1].offset + 1
