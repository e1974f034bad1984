"""The ledger: in which order the records of several partitions were taken, so that it can be done again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from streams.log import Log, LogFull, Offsets, Record

__all__ = ["Ledger", "Run"]

_MOST_RUNS = 10_000
"""Runs that are held back before they are written."""

_BATCH = 100


class Run(NamedTuple):
    """Records of one partition, up to and not including offset `stop`, taken without another partition's between.

    `mark` is the place in the ledger from which this run is found again.
    """

    partition: int
    stop: int
    mark: int


class _Entry(msgspec.Struct, array_like=True):
    """Offsets as they were before, and the runs since: a partition and by how much its offset went on, again and again."""

    before: dict[int, int]
    runs: list[int]


class Ledger:
    """A log of what was taken from which partition.

    What a trainer does with the records of several partitions depends on the order in which it takes them, and that depends
    on which came first over the network. The ledger is written before anything that came of it leaves the process, and a
    restart takes the same records in the same order, up to where the ledger ends.

    Parameters
    ----------
    log : Log
        Where it is kept, of one partition, for the ledger alone.

    Attributes
    ----------
    needed : int
        Mark from which the oldest checkpoint needs the ledger. What lies before is let go when the log is full.
    end : int
        Mark of what is noted next, unless more was noted than is held back.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._before: Offsets = {}
        self._now: Offsets = {}
        self._runs: list[int] = []
        self.needed = 0
        self.end = log.end()[0]

    def start(self, offsets: Offsets) -> None:
        """Say where the partitions stand; what is noted next goes on from there."""
        self._before, self._now = dict(offsets), dict(offsets)
        self._runs = []

    def note(self, records: Iterable[Record]) -> None:
        """Take down that these records are taken next, in this order."""
        runs, now = self._runs, self._now
        last = -1
        for record in records:
            partition, stop = record.partition, record.offset + 1
            further = stop - now[partition]
            if partition == last:
                runs[-1] += further
            else:
                runs += (partition, further)
                last = partition
            now[partition] = stop
        if len(runs) > 2 * _MOST_RUNS:
            self.flush()

    def flush(self) -> None:
        """Write what was noted.

        Raises
        ------
        OSError
            Where the log cannot be written: then nothing that came of it may leave the process.
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
        """Begin a history anew: nothing of what was written counts any more."""
        self._log.trim({0: self.end})

    def runs(self, start: int | None = None) -> Iterator[Run]:
        """Runs from a mark on; None: from the oldest that it keeps.

        Raises
        ------
        LookupError
            Where it does not keep them any more.
        """
        at = self._log.begin()[0] if start is None else start
        now: Offsets = {}
        while records := self._log.read({0: at}, _BATCH):
            for record in records:
                entry = msgspec.msgpack.decode(record.value, type=_Entry)
                for partition, offset in entry.before.items():
                    if now.setdefault(partition, offset) != offset:
                        raise LookupError(f"ledger: partition {partition} is at {now[partition]}, and it goes on at {offset}")
                for partition, further in zip(entry.runs[::2], entry.runs[1::2], strict=True):
                    now[partition] += further
                    yield Run(partition, now[partition], record.offset)
            at = records[-1].offset + 1

    def first(self) -> Offsets:
        """Where the partitions stood when the oldest entry was written; empty when there is none."""
        records = self._log.read(self._log.begin(), 1)
        return msgspec.msgpack.decode(records[0].value, type=_Entry).before if records else {}

    def close(self) -> None:
        """Close the log; what was noted and not flushed is not in it."""
        self._log.close()
