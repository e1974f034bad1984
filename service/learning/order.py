"""In which order the records of a log's partitions are taken: as they come, as a ledger says, or by their time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Protocol

from service.recovery.ledger import Ledger, Run
from streams.log import Log, Offsets, Record

__all__ = ["AsRead", "ByTime", "Following", "Order"]


class Order(Protocol):
    """Decides which records come next.

    Attributes
    ----------
    mark : int
        Place in a ledger from which it says how it goes on from any of the records taken last; 0 without a ledger.
    """

    mark: int

    def take(self, offsets: Offsets) -> Sequence[Record]:
        """Some of the records from `offsets` on; all of them are folded before the next call. None: there are none now.

        Raises
        ------
        LookupError, ConnectionError
            As `Log.read`.
        """


class AsRead:
    """As the log gives them, which a ledger takes down.

    Parameters
    ----------
    log : Log
    poll : int
        Records read at once.
    ledger : Ledger or None
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


class Following:
    """As a ledger says, then as `after` says.

    Parameters
    ----------
    log : Log
    poll : int
        Records read at once.
    runs : iterable of Run
    after : Order or None
        None: at the end of the ledger there is nothing more.
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
            Also where the log does not have what the ledger says was read from it.
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
                    break  # to read may fail, and what was found would be lost with it
                records.extend(self._log.read({partition: at[partition]}, self._poll))
                if not records:
                    self._check(partition, at[partition], stop)
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

    def _check(self, partition: int, at: int, stop: int) -> None:
        end = self._log.end()[partition]
        if end <= at:
            problem = f"offset: partition {partition} ends at {end}, and the ledger says it was read up to {stop}"
            raise LookupError(f"{problem}; its tail was lost, or the ledger is another log's: start from an empty folder")


class ByTime:
    """By the time of their append, then by partition: the same order at every reading, for records that are there.

    Parameters
    ----------
    log : Log
    poll : int
        Records read at once from a partition.
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
            self._put_head(heads, partition, at)
        while heads and len(found) < self._poll:
            partition = heappop(heads)[1]
            found.append(self._read[partition].popleft())
            at[partition] = found[-1].offset + 1
            self._put_head(heads, partition, at)
        return found

    def _put_head(self, heads: list[tuple[float, int]], partition: int, at: Offsets) -> None:
        """Enter the next record of a partition; there is none only at its end."""
        records = self._read.setdefault(partition, deque())
        while not records and at[partition] < self._log.end()[partition]:
            records.extend(self._log.read({partition: at[partition]}, self._poll))
        if records:
            heappush(heads, (records[0].timestamp, partition))
