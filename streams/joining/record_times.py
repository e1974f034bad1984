"""Judges a record's own time, where it is far ahead of its partition's clock, by what follows in the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from streams.codec import BadEvent, decode
from streams.events import Tick
from streams.log import DamagedRecord, Log, Record

__all__ = ["FOLLOWING", "RecordTimes", "is_tick"]

FOLLOWING = 512
"""Records after one that are searched for a tick."""


class RecordTimes:
    """Finds the time at which the log was when a record came: that of the next tick, which the trainer's own clock wrote.

    If none of the next `FOLLOWING` records is a tick, the trainer was away. Then their median tells whether the record's own
    time can be right. The answer follows from the log alone, so a replay gets the same one.

    Parameters
    ----------
    log : Log
    max_skew : float
        Seconds by which a record may be ahead.
    """

    def __init__(self, log: Log, max_skew: float) -> None:
        self._log, self._max_skew = log, max_skew
        # By partition: a tick, and the offset of a record of which it is the next one.
        self._ticks: dict[int, tuple[int, Record]] = {}

    def after(self, record: Record, at_hand: Iterable[Record]) -> float | None:
        """Return the time, Unix seconds; None if the log does not say it yet, because it ends before.

        Without a tick it is the record's own time, or, if that is further ahead than `max_skew`, the median.

        Parameters
        ----------
        record : Record
        at_hand : iterable of Record
            Records that were read already. Those of the same partition after `record` are complete up to some offset.

        Raises
        ------
        LookupError, ConnectionError
            As `Log.read`.
        """
        first, tick = self._ticks.get(record.partition, (0, None))
        if tick is not None and first <= record.offset < tick.offset:
            return tick.timestamp
        times = []
        for one in islice(self._following(record, at_hand), FOLLOWING):
            if is_tick(one):
                self._ticks[record.partition] = record.offset, one
                return one.timestamp
            times.append(one.timestamp)
        if len(times) < FOLLOWING:
            return None
        median = sorted(times)[FOLLOWING // 2]
        return median if record.timestamp - median > self._max_skew else record.timestamp

    def _following(self, record: Record, at_hand: Iterable[Record]) -> Iterator[Record]:
        at = record.offset + 1
        for one in at_hand:
            if one.partition == record.partition and one.offset >= at:
                yield one
                at = one.offset + 1
        while True:
            try:
                records = self._log.read({record.partition: at}, FOLLOWING)
            except DamagedRecord as error:
                at = error.offset + 1  # It is no tick that can be read. Its own reader reports it.
                continue
            if not records and self._log.end()[record.partition] <= at:
                return
            yield from records
            at = records[-1].offset + 1 if records else at


def is_tick(record: Record) -> bool:
    """Return whether a record is a tick."""
    if b"tick" not in record.value:
        return False
    try:
        return isinstance(decode(record.value), Tick)
    except BadEvent:
        return False
