"""Reads one process's part of a round: some records of each of its partitions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from service.learning.event_reader import POLL, EventReader
from service.sharding.building import Journal, Noted
from streams.log import Log, Offsets, Record

__all__ = ["PartOrder", "RoundReader"]

RETRY = 0.01
"""Seconds until a record that cannot be judged, or was not sent yet, is looked at again."""


class PartOrder:
    """Reads one partition up to an offset; see `service.learning.order.Order`.

    Parameters
    ----------
    log : Log

    Attributes
    ----------
    done : bool
        Whether nothing is left before the offset.
    """

    mark = 0

    def __init__(self, log: Log) -> None:
        self._log = log
        self._partition, self._stop = 0, 0
        self.done = True

    def begin(self, partition: int, stop: int) -> None:
        """Read this partition from now on, up to `stop` (excluded)."""
        self._partition, self._stop, self.done = partition, stop, False

    def take(self, offsets: Offsets) -> Sequence[Record]:
        """See `service.learning.order.Order.take`."""
        start = offsets[self._partition]
        if self.done or start >= self._stop:
            self.done = True
            return ()
        records = self._log.read({self._partition: start}, min(POLL, self._stop - start))
        before = [record for record in records if record.offset < self._stop]
        # Some offsets have no record, so a read of this many records may go past the end of the part.
        self.done = len(before) < len(records)
        return before


class RoundReader:
    """Reads parts of partitions, and says what is in them.

    Parameters
    ----------
    reader : EventReader
        Of an order of type `PartOrder`, and with `Journal.add_event` as its ``apply``.
    order : PartOrder
    journal : Journal
    judge : callable
        Called with a partition whose next record waits for a tick; see `EventReader.held`.
    failed : callable
        Called with the error of a read that failed, once until a read succeeds.
    """

    def __init__(
        self,
        reader: EventReader,
        order: PartOrder,
        journal: Journal,
        judge: Callable[[int], None],
        failed: Callable[[ConnectionError], None],
    ) -> None:
        self._reader, self._order, self._journal = reader, order, journal
        self._judge, self._failed, self._fails = judge, failed, False

    def read(self, partition: int, stop: int, *, whole: bool) -> list[Noted]:
        """Read a partition up to `stop`.

        Parameters
        ----------
        partition, stop : int
        whole : bool
            Whether to wait for records that the log does not send. Otherwise the part ends before them.

        Raises
        ------
        LookupError
            As `Log.read`.
        """
        reader, order = self._reader, self._order
        order.begin(partition, stop)
        self._journal.partition = partition
        asked = False
        while True:
            progressed = self._advance()
            while reader.ready:
                self._journal.add_batch(reader.ready.popleft())
            if progressed:
                continue
            if reader.held is not None:
                if not asked:
                    self._judge(partition)
                asked = True
            elif reader.at_boundary and (order.done or not whole):
                return self._journal.take()
            time.sleep(RETRY)

    def _advance(self) -> bool:
        try:
            progressed = self._reader.advance()
        except ConnectionError as error:
            # Only a read fails, and records are read when none is in progress.
            if not self._fails:
                self._failed(error)
            self._fails = True
            return False
        self._fails = False
        return progressed
