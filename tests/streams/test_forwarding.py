from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.forwarding import Forwarder
from streams.lmdb_log import LmdbLog
from streams.log import InDoubt, Log, MemoryLog, Offsets, PartlyRefused, RecordTooLarge


class Target(MemoryLog):
    """A log that can be unavailable or not confirm appends. It refuses values over 100 bytes, and a certain one for good."""

    def __init__(self) -> None:
        super().__init__()
        self.away = self.silent = self.closed = False
        self.tried = 0
        self.refusing: bytes | None = None

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        records = list(records)
        self.tried += 1
        if self.away:
            raise ConnectionError(errno.ETIMEDOUT, "nobody there")
        if any(len(value) > 100 for _, value in records):
            raise RecordTooLarge("too large; send less", "elsewhere")
        refused = frozenset(n for n, (_, value) in enumerate(records) if value == self.refusing)
        end = super().append([one for n, one in enumerate(records) if n not in refused])
        if refused:
            raise PartlyRefused("no", "elsewhere", refused, end)
        if self.silent:
            raise InDoubt("no answer", "elsewhere")
        return end

    def close(self) -> None:
        self.closed = True

    def values(self) -> list[bytes]:
        return [record.value for record in self.read({0: 0}, 10_000)]


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.001)


@contextmanager
def forwarding(source: Log, target: Log, progress: Path | None = None, **more: int) -> Iterator[Forwarder]:
    forwarder = Forwarder(source, lambda: target, "elsewhere", progress, **more)
    try:
        yield forwarder
    finally:
        forwarder.close()


def put(source: Log, forwarder: Forwarder | None, *values: bytes) -> None:
    for value in values:
        source.append([(b"key", value)])
        if forwarder is not None:
            forwarder.wake()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.forwarding.PAUSE", 0.001)
    monkeypatch.setattr("streams.forwarding.MAX_PAUSE", 0.001)


def test_everything_is_copied_in_order_and_trimmed_behind() -> None:
    source, target = MemoryLog(), Target()
    put(source, None, b"before")
    with forwarding(source, target, keep=2) as forwarder:
        put(source, forwarder, b"1", b"2", b"3", b"4")
        until(lambda: forwarder.waiting == 0)
    assert target.values() == [b"before", b"1", b"2", b"3", b"4"]
    assert target.read({0: 0}, 1)[0].key == b"key"
    assert source.begin()[0] == 3
    assert forwarder.failures == 0
    assert target.closed


def test_records_wait_while_the_target_is_unavailable_and_appends_do_not() -> None:
    source, target = MemoryLog(), Target()
    with forwarding(source, target) as forwarder:
        put(source, forwarder, b"1")
        until(lambda: forwarder.waiting == 0)
        target.away = True
        put(source, forwarder, b"2", b"3")
        until(lambda: target.tried > 3)
        assert forwarder.waiting == 2
        target.away = False
        until(lambda: forwarder.waiting == 0)
    assert target.values() == [b"1", b"2", b"3"]
    assert forwarder.failures >= 2


def test_an_unconfirmed_record_is_copied_at_least_once() -> None:
    source, target = MemoryLog(), Target()
    target.silent = True
    with forwarding(source, target) as forwarder:
        put(source, forwarder, b"1")
        until(lambda: target.tried > 1)
        target.silent = False
        put(source, forwarder, b"2")
        until(lambda: forwarder.waiting == 0)
    assert target.values()[0] == b"1"
    assert target.values()[-2:] == [b"1", b"2"]


def test_a_record_that_is_too_large_stays_and_does_not_hold_up_the_others() -> None:
    source, target = MemoryLog(), Target()
    put(source, None, b"1", b"x" * 101, b"2")
    with forwarding(source, target) as forwarder:
        until(lambda: forwarder.waiting == 0)
    assert target.values() == [b"1", b"2"]
    assert forwarder.failures == 1


def test_what_the_target_refuses_for_good_is_counted_and_the_others_are_there_once() -> None:
    source, target = MemoryLog(), Target()
    target.refusing = b"x"
    put(source, None, b"1", b"x", b"2")
    with forwarding(source, target) as forwarder:
        until(lambda: forwarder.waiting == 0)
    assert target.values() == [b"1", b"2"]
    assert forwarder.failures == 1


def test_copying_continues_at_the_saved_offset_after_a_restart(tmp_path: Path) -> None:
    target, progress = Target(), tmp_path / "copied"
    for life in range(3):
        source = LmdbLog(tmp_path / "source")
        target.away = life == 1
        with forwarding(source, target, progress) as forwarder:
            put(source, forwarder, b"%d" % life)
            until(lambda: target.away or forwarder.waiting == 0)
        source.close()
    assert target.values() == [b"0", b"1", b"2"]


def test_another_target_gets_all_records_of_the_source(tmp_path: Path) -> None:
    source, progress = MemoryLog(), tmp_path / "copied"
    put(source, None, b"1", b"2")
    first, second, third = Target(), Target(), Target()
    for name, target in (("one", first), ("other", second), ("other", third)):
        Forwarder(source, lambda target=target: target, name, progress).close()
    assert (first.values(), second.values(), third.values()) == ([b"1", b"2"], [b"1", b"2"], [])


def test_a_log_that_cannot_be_opened_is_opened_later_and_one_that_never_can_is_refused() -> None:
    source, target, tried = MemoryLog(), Target(), []

    def opened() -> Log:
        tried.append(1)
        if len(tried) < 4:
            raise ConnectionError(errno.ETIMEDOUT, "nobody there")
        return target

    put(source, None, b"1")
    forwarder = Forwarder(source, opened, "elsewhere")
    until(lambda: forwarder.waiting == 0)
    forwarder.close()
    assert target.values() == [b"1"]

    def refused() -> Log:
        raise FileNotFoundError("no such topic")

    with pytest.raises(FileNotFoundError, match="no such topic"):
        Forwarder(source, refused, "elsewhere")


def test_close_copies_waiting_records_unless_the_target_is_unavailable() -> None:
    source, target = MemoryLog(), Target()
    put(source, None, *(b"%d" % n for n in range(2_000)))
    Forwarder(source, lambda: target, "elsewhere").close()
    assert target.values() == [b"%d" % n for n in range(2_000)]
    gone = Target()
    gone.away = True
    Forwarder(source, lambda: gone, "elsewhere").close()
    assert gone.closed
