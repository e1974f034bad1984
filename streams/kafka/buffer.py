"""Buffer of fetched records of one Kafka partition."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import inf
from typing import Any

from streams.log import Record

__all__ = ["FetchBuffer"]


class FetchBuffer:
    """Records of one partition that were fetched and not yet returned.

    Parameters
    ----------
    begin : int
        First offset to read.

    Attributes
    ----------
    records : list of Record
    start, position : int
        First offset of the buffer, and offset of the next fetch.
    last : int
        Offset after the last record fetched.
    highwater, acknowledged : int
        End of the partition, from the last response to a fetch and to an append of this process; -1 before the first.
    stable : float
        Offset before which every transaction has ended, where only what is committed is read; else infinite.
    polled_since : float
        Time since which every fetch includes this partition, monotonic; infinite while it is excluded.
    complete_as_of : float
        Unix seconds. Every record appended before then is in the buffer, or counted in `known_end`.
    """

    def __init__(self, begin: int) -> None:
        self.highwater = self.acknowledged = -1
        self.stable = inf
        self.reset(begin)

    def reset(self, offset: int) -> None:
        """Empty the buffer and start at an offset."""
        self.records: list[Record] = []
        self.start = self.position = self.last = offset
        self.polled_since, self.complete_as_of = inf, 0.0

    def add(self, partition: int, messages: Sequence[Any]) -> None:
        """Add fetched messages."""
        make = tuple.__new__
        self.records += [
            # The tuple is created directly, as in the embedded log. A missing key or value becomes an empty one.
            make(Record, (partition, m.offset, m.key or b"", m.value or b"", max(m.timestamp, 0) / 1000))
            for m in messages
        ]
        self.position = self.last = messages[-1].offset + 1

    def drop_before(self, offset: int) -> None:
        """Drop the records before an offset."""
        del self.records[: bisect_left(self.records, offset, key=lambda record: record.offset)]
        self.start = offset

    def needs_more(self, limit: int) -> bool:
        """Return whether the buffer has fewer than `limit` records although the partition has more."""
        return len(self.records) < limit and self.position < self.readable_end

    @property
    def known_end(self) -> int:
        """End of the partition as far as it is known."""
        return max(self.highwater, self.acknowledged)

    @property
    def readable_end(self) -> int:
        """End of what a reader can get now: nothing behind the begin of a transaction that has not ended."""
        return int(min(self.known_end, self.stable))

    @property
    def end(self) -> int:
        """Offset after the last record. It excludes transaction markers at the end, which take an offset but hold no record."""
        return self.last if self.position >= self.readable_end else self.readable_end
