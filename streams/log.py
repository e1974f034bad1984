"""Logs: append-only, partitioned sequences of records, and the in-memory one."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import NamedTuple, Protocol, runtime_checkable

import xxhash

__all__ = ["InDoubt", "Log", "LogFull", "MemoryLog", "Offsets", "Record", "TooLarge", "key_to", "partition_of", "shares"]

Offsets = dict[int, int]
"""Partition to the offset of the next record to read."""


class LogFull(OSError):
    """No room for an append; nothing of it was written. ``errno`` is ENOSPC, ``filename`` the log."""

    def __init__(self, problem: str, path: str) -> None:
        super().__init__(errno.ENOSPC, problem, path)


class TooLarge(OSError):
    """A record is larger than the log takes; nothing of the append was written. ``errno`` is EMSGSIZE, ``filename`` the log."""

    def __init__(self, problem: str, path: str) -> None:
        super().__init__(errno.EMSGSIZE, problem, path)


class InDoubt(OSError):
    """A log that is elsewhere did not say whether it kept an append: it may have, also in part, and it may do so yet.

    Appending the same records again makes sure that they are there, at the price that some can be there twice. ``errno`` is
    ETIMEDOUT, ``filename`` the log.
    """

    def __init__(self, problem: str, path: str) -> None:
        super().__init__(errno.ETIMEDOUT, problem, path)


class Record(NamedTuple):
    """One entry of a log: its place, the key that chose its partition, the bytes, and when it was appended."""

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
        """Name of this very log: another one where a log is made anew in its place. None: it ends with the process.

        The first word is the same for both.
        """

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        """Append (key, value) pairs, in order and all or none; return the next offset of each partition afterwards.

        Raises
        ------
        LogFull
            Where there is no room.
        TooLarge
            Where a record is larger than the log takes.
        InDoubt
            Where a log that is elsewhere did not answer in time: all, none or a part may have been written.
        """

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        """At most `limit` records from `offsets` on, in offset order within a partition, partition by partition.

        No partition starves another: a partition with more than its even share waits, unless the others leave room.

        Raises
        ------
        LookupError
            Where an offset is older than the oldest record kept, or newer than the end (the log is not the one that was
            read before, or lost its tail), or where there is no such partition.
        ConnectionError
            Where the log is elsewhere, and does not bring the records that it has; a later read may.
        """

    def begin(self) -> Offsets:
        """Offset of the oldest record kept, by partition; the end where none is."""

    def end(self) -> Offsets:
        """Offset one past the last record of each partition."""

    def known_at(self, partition: int) -> float:
        """Unix seconds: of what was appended to a partition by then, `end` knows if it is asked after this."""

    def trim(self, offsets: Offsets) -> None:
        """Delete the records before these offsets, as far as there are any; later offsets stay what they are."""

    def close(self) -> None:
        """Release what the log holds open."""


class MemoryLog:
    """A log in a list, for tests and for trying things out; where `most` is given, of at most so many records."""

    identity: str | None = None

    def __init__(self, partitions: int = 1, most: int | None = None) -> None:
        self._most = most
        self._records: list[list[Record]] = [[] for _ in range(partitions)]
        self._begin = [0] * partitions
        self._changing = threading.Lock()

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        """See `Log.append`."""
        now, records = time.time(), list(records)
        with self._changing:
            if self._most is not None and sum(map(len, self._records)) + len(records) > self._most:
                raise LogFull(f"the log has reached its {self._most} records; trim it", "memory")
            for key, value in records:
                partition = partition_of(key, len(self._records))
                kept = self._records[partition]
                kept.append(Record(partition, self._begin[partition] + len(kept), key, value, now))
            return self.end()

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        """See `Log.read`."""
        found: list[Record] = []
        with self._changing:
            for partition, (start, stop) in shares(offsets, self.begin(), self.end(), limit).items():
                before = self._begin[partition]
                found += self._records[partition][start - before : stop - before]
        return found

    def begin(self) -> Offsets:
        """See `Log.begin`."""
        return dict(enumerate(self._begin))

    def end(self) -> Offsets:
        """See `Log.end`."""
        return {partition: self._begin[partition] + len(kept) for partition, kept in enumerate(self._records)}

    def known_at(self, partition: int) -> float:
        """See `Log.known_at`: now."""
        return time.time()

    def trim(self, offsets: Offsets) -> None:
        """See `Log.trim`."""
        with self._changing:
            for partition, offset in offsets.items():
                kept = self._records[partition]
                dropped = min(max(offset - self._begin[partition], 0), len(kept))
                del kept[:dropped]
                self._begin[partition] += dropped

    def close(self) -> None:
        """See `Log.close`."""


def partition_of(key: bytes, partitions: int) -> int:
    """Partition of a key: its 64-bit hash modulo the number of partitions, the same in every log and on every machine."""
    return xxhash.xxh3_64_intdigest(key) % partitions if partitions > 1 else 0


def key_to(partition: int, partitions: int) -> bytes:
    """A key that has this partition, for records that must reach it and concern no user."""
    if partitions == 1:
        return b""
    return next(key for key in map(b"partition %d".__mod__, count()) if partition_of(key, partitions) == partition)


def shares(
    offsets: Mapping[int, int], begin: Mapping[int, int], end: Mapping[int, int], limit: int
) -> dict[int, tuple[int, int]]:
    """Ranges of offsets that one read takes: `limit` records spread evenly, what a partition leaves going to the others.

    Returns
    -------
    dict of partition to (start, stop)
        In order of partition.

    Raises
    ------
    LookupError
        As `Log.read`.
    """
    for partition, offset in offsets.items():
        if partition not in end:
            raise LookupError(f"partition: there is no partition {partition}, only {sorted(end)}; read those")
        if not begin[partition] <= offset <= end[partition]:
            kept = f"partition {partition} keeps offsets {begin[partition]} to {end[partition]}"
            remedy = (
                "its tail was lost or it is another log: start from a checkpoint that fits it, or from its end"
                if offset > end[partition]
                else "older records were trimmed: start from a newer checkpoint, or from the beginning of what is kept"
            )
            raise LookupError(f"offset: {kept}, not {offset}; {remedy}")
    waiting = {partition: end[partition] - offset for partition, offset in offsets.items()}
    ranges: dict[int, tuple[int, int]] = {}
    left = max(limit, 0)
    for seen, partition in enumerate(sorted(waiting, key=lambda p: (waiting[p], p))):
        # Smallest first: what it does not need is shared by those that still wait. Rounded up, so that a limit of 1 moves.
        take = min(waiting[partition], -(-left // (len(waiting) - seen)))
        ranges[partition] = (offsets[partition], offsets[partition] + take)
        left -= take
    return dict(sorted(ranges.items()))
