"""The ledger records the order in which records of several partitions were read, so that it can be repeated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from streams.log import Log, LogFull, Offsets, Record

__all__ = ["Ledger", "Run"]

_MAX_BUFFERED_RUNS = 10_000
"""Runs that are buffered before they are written."""

_RECORDS_PER_READ = 100


class Run(NamedTuple):
    """Consecutive records of one partition, up to and excluding offset `stop`.

    `mark` is the position in the ledger from which this run can be read again.
    """

    partition: int
    stop: int
    mark: int


class _Entry(msgspec.Struct, array_like=True):
    """Offsets before the runs, and the runs: pairs of a partition and the advance of its offset, flattened."""

    before: dict[int, int]
    runs: list[int]


class Ledger:
    """A log of the order in which a trainer reads its partitions.

    The state depends on this order, and the order depends on the network. So the ledger is written before any result of the
    records leaves the process. A restart reads the same records in the same order, up to the end of the ledger.

    Parameters
    ----------
    log : Log
        Stores the ledger. It has one partition and no other use.

    Attributes
    ----------
    needed : int
        Mark from which the oldest checkpoint needs the ledger. Older entries are deleted when the log is full.
    end : int
        Mark of the entry that will hold the next runs, unless the buffer is written first.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._before: Offsets = {}
        self._now: Offsets = {}
        self._runs: list[int] = []
        self.needed = 0
        self.end = log.end()[0]

    def start(self, offsets: Offsets) -> None:
        """Set the offsets from which the next runs continue."""
        self._before, self._now = dict(offsets), dict(offsets)
        self._runs = []

    def note(self, records: Iterable[Record]) -> None:
        """Record that these records are read next, in this order."""
        runs, now = self._runs, self._now
        last = -1
        for record in records:
            partition, stop = record.partition, record.offset + 1
            advance = stop - now[partition]
            if partition == last:
                runs[-1] += advance
            else:
                runs += (partition, advance)
                last = partition
            now[partition] = stop
        if len(runs) > 2 * _MAX_BUFFERED_RUNS:
            self.flush()

    def note_round(self, next: Offsets) -> None:
        """Record that all partitions are read up to these offsets, in the order of their numbers, as one round."""
        for partition in sorted(next):
            self._runs += (partition, next[partition] - self._now[partition])
        self._now = dict(next)
        if len(self._runs) > 2 * _MAX_BUFFERED_RUNS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered runs.

        Raises
        ------
        OSError
            If the log cannot be written. Then no result of these records may leave the process.
        """
        if not self._runs:
            return
        entry = [(b"", msgspec.msgpack.encode(_Entry(self._before, self._runs)))]
        try:
            self.end = self._log.append(entry)[0]
        except LogFull:
            self._log.trim({0: self.needed})
            self.end = self._log.append(entry)[0]
        self._before, self._runs = dict(self._now), []

    def clear(self) -> None:
        """Start a new history: discard everything that was written."""
        self._log.trim({0: self.end})

    def runs(self, start: int | None = None) -> Iterator[Run]:
        """Yield the runs from a mark on; None: from the oldest entry.

        Raises
        ------
        LookupError
            If the ledger no longer has them, or its entries do not follow each other.
        streams.log.DamagedRecord
            If an entry is damaged.
        """
        at = self._log.begin()[0] if start is None else start
        now: Offsets = {}
        while records := self._log.read({0: at}, _RECORDS_PER_READ):
            for record in records:
                entry = msgspec.msgpack.decode(record.value, type=_Entry)
                for partition, offset in entry.before.items():
                    if now.setdefault(partition, offset) != offset:
                        raise LookupError(f"ledger: partition {partition} is at {now[partition]}, but continues at {offset}")
                for partition, advance in zip(entry.runs[::2], entry.runs[1::2], strict=True):
                    now[partition] += advance
                    yield Run(partition, now[partition], record.offset)
            at = records[-1].offset + 1

    def first(self) -> Offsets:
        """Offsets before the oldest entry; empty when there is none."""
        records = self._log.read(self._log.begin(), 1)
        return msgspec.msgpack.decode(records[0].value, type=_Entry).before if records else {}

    def close(self) -> None:
        """Close the log without the runs that were not flushed."""
        self._log.close()
