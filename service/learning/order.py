"""Order in which records of several partitions are read: as polled, as recorded in a ledger, or by timestamp."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Protocol

from service.recovery.ledger import Ledger, Run
from streams.log import Log, Offsets, Record

__all__ = ["LedgerOrder", "Order", "PollOrder", "TimeOrder"]


class Order(Protocol):
    """Decides which records are read next.

    Attributes
    ----------
    mark : int
        Position in the ledger from which the order after any of the last returned records can be read; 0 without a ledger.
    """

    mark: int

    def take(self, offsets: Offsets) -> Sequence[Record]:
        """Return some records from `offsets` on; empty if there are none now. All are processed before the next call.

        Raises
        ------
        LookupError, ConnectionError
            As `Log.read`.
        """


class PollOrder:
    """The order in which the log returns records. A ledger records it.

    Parameters
    ----------
    log : Log
    poll : int
        Records per read.
    ledger : Ledger or None
        None: the order is not recorded.
    """

    def __init__(self, log: Log, poll: int, ledger: Ledger | None = None) -> None:
        self._log, self._poll, self._ledger = log, poll, ledger
        self._started = False
        self.mark = 0 if ledger is None else ledger.end

    def take(self, offsets: Offsets) -> Sequence[Record]:
        """See `Order.take`."""
        records = self._log.read(offsets, self._poll)
        if self._ledger is not None:
            if not self._started:
                self._ledger.start(offsets)
                self._started = True
            self.mark = self._ledger.end
            self._ledger.note(records)
        return records


class LedgerOrder:
    """The order in a ledger, then the order of `after`.

    Parameters
    ----------
    log : Log
    poll : int
        Records per read.
    runs : iterable of Run
        The recorded order.
    after : Order or None
        None: reading stops at the end of the ledger.
    """

    def __init__(self, log: Log, poll: int, runs: Iterable[Run], after: Order | None) -> None:
        self._log, self._poll, self._after = log, poll, after
        self._runs = iter(runs)
        self._run = next(self._runs, None)
        self._read: dict[int, deque[Record]] = {}
        self.mark = self._run.mark if self._run is not None else 0 if after is None else after.mark

    def take(self, offsets: Offsets) -> Sequence[Record]:
        """See `Order.take`.

        Raises
        ------
        LookupError
            Also if the log lacks records that the ledger lists.
        """
        found: list[Record] = []
        at = dict(offsets)
        self.mark = self._run.mark if self._run is not None else self.mark
        while self._run is not None and len(found) < self._poll:
            partition, stop, _ = self._run
            records = self._read.setdefault(partition, deque())
            if at[partition] >= stop or (records and records[0].offset >= stop):
                self._run = next(self._runs, None)
                continue
            if not records:
                if found:
                    break  # a failing read would lose the records found so far
                records.extend(self._log.read({partition: at[partition]}, self._poll))
                if not records:
                    self._check_tail(partition, at[partition], stop)
                    break
            while records and records[0].offset < stop:
                found.append(records.popleft())
                at[partition] = found[-1].offset + 1
        if found or self._run is not None or self._after is None:
            return found
        self._read.clear()
        taken = self._after.take(offsets)
        self.mark = self._after.mark
        return taken

    def _check_tail(self, partition: int, at: int, stop: int) -> None:
        end = self._log.end()[partition]
        if end <= at:
            problem = f"offset: partition {partition} ends at {end}, but the ledger says that it was read up to {stop}"
            raise LookupError(f"{problem}; the log lost its tail, or the ledger is of another log: start from an empty folder")


class TimeOrder:
    """By append time, then by partition: every reading of the same records has the same order.

    Parameters
    ----------
    log : Log
    poll : int
        Records per read of a partition.
    """

    def __init__(self, log: Log, poll: int) -> None:
        self._log, self._poll = log, poll
        self._read: dict[int, deque[Record]] = {}
        self.mark = 0

    def take(self, offsets: Offsets) -> Sequence[Record]:
        """See `Order.take`."""
        if len(offsets) == 1:
            return self._log.read(offsets, self._poll)
        found: list[Record] = []
        at = dict(offsets)
        heads: list[tuple[float, int]] = []
        for partition in offsets:
            self._push_head(heads, partition, at)
        while heads and len(found) < self._poll:
            partition = heappop(heads)[1]
            found.append(self._read[partition].popleft())
            at[partition] = found[-1].offset + 1
            self._push_head(heads, partition, at)
        return found

    def _push_head(self, heads: list[tuple[float, int]], partition: int, at: Offsets) -> None:
        """Push the next record of a partition; it has none only at its end."""
        records = self._read.setdefault(partition, deque())
        while not records and at[partition] < self._log.end()[partition]:
            records.extend(self._log.read({partition: at[partition]}, self._poll))
        if records:
            heappush(heads, (records[0].timestamp, partition))
