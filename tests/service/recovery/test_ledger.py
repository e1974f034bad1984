"""The ledger and the orders of reading: records are read again in the recorded order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import pytest

from service.learning.order import LedgerOrder, Order, PollOrder, TimeOrder
from service.recovery.ledger import Ledger, Run
from streams.log import Log, LogFull, MemoryLog, Offsets, Record, key_for_partition, partition_of


def filled(partitions: int, counts: Sequence[int]) -> MemoryLog:
    """A log with these numbers of records in its partitions, appended in turn."""
    log = MemoryLog(partitions)
    for n in range(max(counts)):
        log.append([(key_for_partition(p, partitions), b"%d.%d" % (p, n)) for p, count in enumerate(counts) if n < count])
    return log


def taken(order: Order, log: Log, starts: Offsets | None = None) -> list[Record]:
    """All records that an order returns, from the beginning or from `starts`."""
    at = dict(log.begin() if starts is None else starts)
    found: list[Record] = []
    while records := order.take(at):
        found += records
        at |= {record.partition: record.offset + 1 for record in records}
    return found


def test_a_key_has_the_partition_it_was_made_for() -> None:
    assert [partition_of(key_for_partition(p, 7), 7) for p in range(7)] == list(range(7))
    assert key_for_partition(0, 1) == b""


@pytest.mark.parametrize("poll", [1, 3, 100])
def test_what_was_noted_is_taken_again_whatever_is_polled(poll: int) -> None:
    log, kept = filled(3, [40, 7, 25]), MemoryLog()
    ledger = Ledger(kept)
    first = taken(PollOrder(log, 11, ledger), log)
    ledger.flush()
    assert len(first) == 72
    again = taken(LedgerOrder(log, poll, Ledger(kept).runs(), None), log)
    assert again == first
    assert taken(TimeOrder(log, 10), log) != first


class Flaky(MemoryLog):
    """A remote log: every other read fails."""

    fails = False

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        self.fails = not self.fails
        if self.fails:
            raise ConnectionError("no broker")
        return super().read(offsets, limit)


def test_a_read_that_fails_takes_nothing_with_it() -> None:
    def taken_at_last(order: Order) -> list[Record]:
        found, at = list[Record](), log.begin()
        for _ in range(200):
            with suppress(ConnectionError):
                found += order.take(at)
            at |= {record.partition: record.offset + 1 for record in found}
        return found

    log, kept = Flaky(3), MemoryLog()
    for n in range(30):
        log.append([(key_for_partition(p, 3), b"%d.%d" % (p, n)) for p in range(3)])
    ledger = Ledger(kept)
    first = taken_at_last(PollOrder(log, 7, ledger))
    ledger.flush()
    assert len(first) == 90
    assert taken_at_last(LedgerOrder(log, 4, Ledger(kept).runs(), None)) == first


def test_what_was_not_flushed_is_not_in_the_ledger_and_reading_goes_on_behind_it() -> None:
    log, kept = filled(2, [30, 30]), MemoryLog()
    ledger = Ledger(kept)
    order = PollOrder(log, 8, ledger)
    at = log.begin()
    first: list[Record] = []
    for n in range(4):
        if n == 3:
            ledger.flush()  # the order of later records is lost
        records = order.take(at)
        first += records
        at |= {record.partition: record.offset + 1 for record in records}
    second = Ledger(kept)
    found = taken(LedgerOrder(log, 5, second.runs(), PollOrder(log, 8, second)), log)
    assert found[:24] == first[:24]
    assert sorted(found) == sorted(taken(TimeOrder(log, 10), log))
    second.flush()
    assert taken(LedgerOrder(log, 5, Ledger(kept).runs(), None), log) == found, "both processes, one history"


def test_a_mark_finds_what_follows_from_any_record_of_the_last_read() -> None:
    log, kept = filled(3, [20, 20, 20]), MemoryLog()
    ledger = Ledger(kept)
    order = PollOrder(log, 9, ledger)
    at, history, marks = log.begin(), list[Record](), list[tuple[int, Offsets, int]]()
    while records := order.take(at):
        for record in records:
            at[record.partition] = record.offset + 1
            history.append(record)
            marks.append((order.mark, dict(at), len(history)))
        ledger.flush()
    for mark, offsets, known in marks:
        follower = LedgerOrder(log, 4, Ledger(kept).runs(mark), None)
        assert taken(follower, log, offsets) == history[known:]


def test_a_mark_taken_while_following_is_one_too() -> None:
    log, kept = filled(2, [20, 20]), MemoryLog()
    ledger = Ledger(kept)
    order = PollOrder(log, 6, ledger)
    at = log.begin()
    while records := order.take(at):
        at |= {record.partition: record.offset + 1 for record in records}
        ledger.flush()
    history = taken(LedgerOrder(log, 5, ledger.runs(), None), log)
    following, at = LedgerOrder(log, 5, ledger.runs(), None), log.begin()
    known = 0
    while records := following.take(at):
        for record in records:
            at[record.partition] = record.offset + 1
            known += 1
            assert taken(LedgerOrder(log, 7, ledger.runs(following.mark), None), log, dict(at)) == history[known:]


def test_offsets_without_records_do_not_matter() -> None:
    class Holes(MemoryLog):
        """A log in which every third offset has no record."""

        def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
            return [record for record in super().read(offsets, limit + 3) if record.offset % 3][:limit]

    log, kept = Holes(2), MemoryLog()
    for n in range(30):
        log.append([(key_for_partition(p, 2), b"%d" % n) for p in range(2)])
    ledger = Ledger(kept)
    first = taken(PollOrder(log, 4, ledger), log)
    ledger.flush()
    assert taken(LedgerOrder(log, 7, ledger.runs(), None), log) == first


def test_a_log_that_lost_its_tail_is_refused() -> None:
    log, kept = filled(2, [9, 9]), MemoryLog()
    ledger = Ledger(kept)
    taken(PollOrder(log, 4, ledger), log)
    ledger.flush()
    with pytest.raises(LookupError, match="ends at 5, but the ledger says that it was read up to"):
        taken(LedgerOrder(shorter := filled(2, [5, 9]), 4, ledger.runs(), None), shorter)


def test_a_ledger_whose_entries_do_not_follow_each_other_is_refused() -> None:
    log, kept = filled(2, [9, 9]), MemoryLog()
    for _ in range(2):
        ledger = Ledger(kept)
        taken(PollOrder(log, 4, ledger), log)
        ledger.flush()
    with pytest.raises(LookupError, match="partition 0 is at 9, but continues at 0"):
        list(ledger.runs())


def test_runs_of_one_partition_are_one() -> None:
    kept = MemoryLog()
    ledger = Ledger(kept)
    ledger.start({0: 5, 1: 0})
    ledger.note([Record(0, 5, b"", b"", 0.0), Record(0, 6, b"", b"", 0.0), Record(1, 2, b"", b"", 0.0)])
    ledger.flush()
    ledger.flush()
    assert list(ledger.runs()) == [Run(0, 7, 0), Run(1, 3, 0)]
    assert ledger.first() == {0: 5, 1: 0}
    ledger.clear()
    assert list(ledger.runs()) == []
    assert ledger.first() == {}


def test_a_full_ledger_deletes_what_no_checkpoint_needs() -> None:
    class Small(MemoryLog):
        def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
            if self.end()[0] - self.begin()[0] >= 3:
                raise LogFull("no room", "memory")
            return super().append(records)

    log, kept = filled(2, [40, 40]), Small()
    ledger = Ledger(kept)
    order, at = PollOrder(log, 8, ledger), log.begin()
    for n in range(3):
        at |= {record.partition: record.offset + 1 for record in order.take(at)}
        ledger.flush()
        ledger.needed = n
    at |= {record.partition: record.offset + 1 for record in order.take(at)}
    ledger.flush()
    assert kept.begin() == {0: 2}
    ledger.needed = 2
    order.take(at)
    ledger.flush()
    order.take(at)
    with pytest.raises(LogFull):
        ledger.flush()


def test_by_time_is_the_order_of_appending() -> None:
    log = filled(3, [5, 9, 2])
    found = taken(TimeOrder(log, 4), log)
    assert [record.timestamp for record in found] == sorted(record.timestamp for record in found)
    assert len(found) == 16
    assert taken(TimeOrder(log, 100), log) == found
