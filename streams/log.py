"""The `Log` protocol: an append-only, partitioned sequence of records. Also the log in memory."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import NamedTuple, Protocol, runtime_checkable

import xxhash

__all__ = [
    "DamagedRecord",
    "InDoubt",
    "Log",
    "LogFull",
    "MemoryLog",
    "Offsets",
    "PartlyRefused",
    "Record",
    "RecordTooLarge",
    "key_for_partition",
    "partition_of",
    "read_ranges",
]

Offsets = dict[int, int]
"""Partition to the offset of the next record to read."""


class LogFull(OSError):
    """The log is full; nothing of the append was written. ``errno`` is ENOSPC, ``filename`` the log."""

    def __init__(self, problem: str, path: str) -> None:
        super().__init__(errno.ENOSPC, problem, path)


class RecordTooLarge(OSError):
    """A record is over the log's limit; nothing of the append was written. ``errno`` is EMSGSIZE, ``filename`` the log."""

    def __init__(self, problem: str, path: str) -> None:
        super().__init__(errno.EMSGSIZE, problem, path)


class DamagedRecord(OSError):
    """A record is not as it was appended. ``errno`` is EIO, ``filename`` the file.

    Attributes
    ----------
    partition, offset : int
        Which record. The next one can be read.
    """

    def __init__(self, partition: int, offset: int, path: str) -> None:
        problem = f"record {offset} of partition {partition} is damaged (its checksum is wrong)"
        super().__init__(
            errno.EIO, f"{problem}: restore the log from a backup, or keep the rest with `freshet log copy --salvage`", path
        )
        self.partition, self.offset = partition, offset


class InDoubt(OSError):
    """A remote log did not confirm an append: all, none or a part of it may be written, now or later.

    Append the same records again to be sure that they are in the log; some can then be there twice. ``errno`` is ETIMEDOUT,
    ``filename`` the log.
    """

    def __init__(self, problem: str, path: str) -> None:
        super().__init__(errno.ETIMEDOUT, problem, path)


class PartlyRefused(OSError):
    """A remote log refuses some records of an append for good. The others are written: do not append them again.

    ``errno`` is EMSGSIZE, ``filename`` the log.

    Attributes
    ----------
    refused : frozenset of int
        Which records of the append, by index.
    end : Offsets
        For each partition, an offset after the records that are written.
    """

    def __init__(self, reason: str, path: str, refused: frozenset[int], end: Offsets) -> None:
        remedy = "what is refused will always be; the other records are in the log: do not append them again"
        super().__init__(errno.EMSGSIZE, f"{reason} (refused for good: {len(refused)} of this append); {remedy}", path)
        self.refused, self.end = refused, end


class Record(NamedTuple):
    """One record of a log: partition, offset, the key that selects the partition, the value, and the time of the append."""

    partition: int
    offset: int
    key: bytes
    value: bytes
    timestamp: float


@runtime_checkable
class Log(Protocol):
    """An append-only, partitioned sequence of records."""

    @property
    def identity(self) -> str | None:
        """Unique name of this log; None for a log that ends with the process.

        A log that is deleted and created again in the same place gets another name, with the same first word.
        """

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        """Append (key, value) pairs in order, all or none. Return the next offset of each partition.

        Raises
        ------
        LogFull
            The log has no room.
        RecordTooLarge
            A record is over the log's limit.
        PartlyRefused
            A remote log refuses some records for good, and has written the others.
        InDoubt
            A remote log did not answer in time: all, none or a part may have been written.
        """

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        """Read up to `limit` records from `offsets` on, partition by partition, in offset order within each.

        Fewer are read where they are large. The limit is divided evenly, so no partition starves another. A partition gets more
        only where others need less.

        Raises
        ------
        LookupError
            There is no such partition, or an offset is older than the oldest record or newer than the end. (In the last case
            it is another log than before, or it lost its tail.)
        DamagedRecord
            A record that would have been the first of its partition is damaged. Records before a damaged one are returned.
        ConnectionError
            A remote log did not send the records that it has. Read again later.
        """

    def begin(self) -> Offsets:
        """Return the offset of the oldest record of each partition; the end offset for an empty one."""

    def end(self) -> Offsets:
        """Return the offset after the last record of each partition."""

    def end_known_at(self, partition: int) -> float:
        """Return a time, Unix seconds. A later call of `end` counts every record appended to the partition before it."""

    def trim(self, offsets: Offsets) -> None:
        """Delete the records before these offsets. The offsets of later records do not change."""

    def close(self) -> None:
        """Close files and connections."""


_RECORD_BYTES = 250
"""Memory of a record in addition to its key and value."""


class MemoryLog:
    """A log in memory, for tests, experiments and the library.

    Parameters
    ----------
    partitions : int
    max_records, max_bytes : int or None
        Most records, and bytes of memory, that it holds; None: any number.
    begin : int
        Offset of the first record of each partition: those before it were trimmed.

    Attributes
    ----------
    nbytes : int
        Approximate memory of the records.
    """

    identity: str | None = None

    def __init__(
        self, partitions: int = 1, max_records: int | None = None, max_bytes: int | None = None, begin: int = 0
    ) -> None:
        self._most, self._most_bytes = max_records, max_bytes
        self.nbytes = 0
        self._records: list[list[Record]] = [[] for _ in range(partitions)]
        self._begin = [begin] * partitions
        self._changing = threading.Lock()

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        """See `Log.append`."""
        now, records = time.time(), list(records)
        with self._changing:
            if self._most is not None and sum(map(len, self._records)) + len(records) > self._most:
                raise LogFull(f"the log has reached its {self._most} records; trim it", "memory")
            size = sum(_RECORD_BYTES + len(key) + len(value) for key, value in records)
            if self._most_bytes is not None and self.nbytes + size > self._most_bytes:
                raise LogFull(f"the log has reached its {self._most_bytes} bytes; trim it", "memory")
            self.nbytes += size
            for key, value in records:
                partition = partition_of(key, len(self._records))
                kept = self._records[partition]
                kept.append(Record(partition, self._begin[partition] + len(kept), key, value, now))
            return self.end()

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        """See `Log.read`."""
        found: list[Record] = []
        with self._changing:
            for partition, (start, stop) in read_ranges(offsets, self.begin(), self.end(), limit).items():
                begin = self._begin[partition]
                found += self._records[partition][start - begin : stop - begin]
        return found

    def begin(self) -> Offsets:
        """See `Log.begin`."""
        return dict(enumerate(self._begin))

    def end(self) -> Offsets:
        """See `Log.end`."""
        return {partition: self._begin[partition] + len(kept) for partition, kept in enumerate(self._records)}

    def end_known_at(self, partition: int) -> float:
        """See `Log.end_known_at`: now."""
        return time.time()

    def trim(self, offsets: Offsets) -> None:
        """See `Log.trim`."""
        with self._changing:
            for partition, offset in offsets.items():
                kept = self._records[partition]
                dropped = min(max(offset - self._begin[partition], 0), len(kept))
                self.nbytes -= sum(_RECORD_BYTES + len(record.key) + len(record.value) for record in kept[:dropped])
                del kept[:dropped]
                self._begin[partition] += dropped

    def close(self) -> None:
        """See `Log.close`."""


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key: its 64-bit hash modulo the number of partitions. Every log and machine agrees on it."""
    return xxhash.xxh3_64_intdigest(key) % partitions if partitions > 1 else 0


def key_for_partition(partition: int, partitions: int) -> bytes:
    """Return a key that belongs to a partition, for records without a user that must go there."""
    if partitions == 1:
        return b""
    return next(key for key in map(b"partition %d".__mod__, count()) if partition_of(key, partitions) == partition)


def read_ranges(
    offsets: Mapping[int, int], begin: Mapping[int, int], end: Mapping[int, int], limit: int
) -> dict[int, tuple[int, int]]:
    """Divide the `limit` of one read evenly among partitions. What one does not need goes to the others.

    Returns
    -------
    dict of int to (int, int)
        First offset and end offset to read, by partition, in order.

    Raises
    ------
    LookupError
        As in `Log.read`.
    """
    for partition, offset in offsets.items():
        if partition not in end:
            raise LookupError(f"partition: there is no partition {partition}; choose among {sorted(end)}")
        if not begin[partition] <= offset <= end[partition]:
            kept = f"partition {partition} keeps offsets {begin[partition]} to {end[partition]}"
            remedy = (
                "its tail was lost or it is another log: start from a checkpoint of this log, or from its end"
                if offset > end[partition]
                else "older records were trimmed: start from a newer checkpoint, or from the oldest record"
            )
            raise LookupError(f"offset: {kept}, not {offset}; {remedy}")
    waiting = {partition: end[partition] - offset for partition, offset in offsets.items()}
    ranges: dict[int, tuple[int, int]] = {}
    left = max(limit, 0)
    for done, partition in enumerate(sorted(waiting, key=lambda p: (waiting[p], p))):
        # Smallest first: the rest is divided among the larger ones. Rounded up, so that a limit of 1 makes progress.
        take = min(waiting[partition], -(-left // (len(waiting) - done)))
        ranges[partition] = (offsets[partition], offsets[partition] + take)
        left -= take
    return dict(sorted(ranges.items()))
