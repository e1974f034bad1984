"""What of one Kafka partition has been fetched and not been passed on."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import inf
from typing import Any

from streams.log import Record

__all__ = ["Window"]


class Window:
    """Records that were fetched and not passed on.

    Parameters
    ----------
    begin : int
        Offset to read from.

    Attributes
    ----------
    records : list of Record
    low, reach : int
        Offsets that it answers for: from `low`, and what is fetched next is at `reach`.
    last : int
        One past the last record fetched.
    highwater, acknowledged : int
        End of the partition as an answer to a fetch, and as that to an append of ours says it; -1 before the first.
    since : float
        When every request for records began to be for this partition too, monotonic; infinite while it is left out.
    checked : float
        Unix seconds: what was there then is here, or known to be there.
    """

    def __init__(self, begin: int) -> None:
        self.highwater = self.acknowledged = -1
        self.aim(begin)

    def aim(self, offset: int) -> None:
        """Start anew at an offset."""
        self.records: list[Record] = []
        self.low = self.reach = self.last = offset
        self.since, self.checked = inf, 0.0

    def take(self, partition: int, messages: Sequence[Any]) -> None:
        """Keep what was fetched."""
        make = tuple.__new__
        self.records += [
            # The tuple is made directly, as in the embedded log. A record without key or value has an empty one.
            make(Record, (partition, m.offset, m.key or b"", m.value or b"", max(m.timestamp, 0) / 1000))
            for m in messages
        ]
        self.reach = self.last = messages[-1].offset + 1

    def drop_before(self, offset: int) -> None:
        """Forget the records before an offset, which is not asked for again."""
        del self.records[: bisect_left(self.records, offset, key=lambda record: record.offset)]
        self.low = offset

    def lacks(self, limit: int) -> bool:
        """Whether fewer than `limit` records are here although the partition has more."""
        return len(self.records) < limit and self.reach < self.known

    @property
    def known(self) -> int:
        """End of the partition, as far as it is known here."""
        return max(self.highwater, self.acknowledged)

    @property
    def end(self) -> int:
        """One past the last record. The end of a transaction takes an offset too, and there is nothing to read at it."""
        return self.last if self.reach >= self.known else self.known
