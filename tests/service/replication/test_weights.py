"""The weights log: encoding and decoding of changes, in parts, repeated or late."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import pytest

from service.replication.weights import Assembler, BadChange, Change, Publisher, pack
from streams.log import InDoubt, MemoryLog, Offsets

STATE = {
    "rows": np.arange(5, dtype=np.int64),
    "ranker.weights": np.linspace(0, 1, 15, dtype=np.float32).reshape(5, 3),
    "flags": np.array([True, False, True]),
    "bytes": np.frombuffer(b"some text", np.uint8),
    "none": np.empty((0, 4), np.float64),
}
CHANGE = Change(epoch=7, position=120, version=9, next={0: 100, 1: 20}, as_of=1.5, state=STATE, since=80)


def same(one: Change, other: Change) -> bool:
    return one._replace(state={}) == other._replace(state={}) and all(
        np.array_equal(one.state[name], other.state[name])
        and one.state[name].dtype == other.state[name].dtype
        and one.state[name].shape == other.state[name].shape
        for name in one.state.keys() | other.state.keys()
    )


@pytest.mark.parametrize("part", [1, 50, 500_000])
def test_a_change_comes_back_as_it_was_in_however_many_parts(part: int) -> None:
    values = pack(CHANGE, part)
    assert all(len(value) <= part + 20 for value in values)
    assembler = Assembler()
    *before, last = (assembler.add(value) for value in values)
    assert before == [None] * (len(values) - 1)
    assert last is not None
    assert same(last, CHANGE)
    assert all(array.flags.writeable and array.flags.aligned for array in last.state.values())


def test_parts_sent_twice_and_late_are_assembled() -> None:
    first, second = pack(CHANGE, 60), pack(CHANGE, 60)
    assembler = Assembler()
    mixed = [first[0], second[0], *second[1:4], first[1], *second[4:]]
    found = [change for value in mixed if (change := assembler.add(value)) is not None]
    assert len(found) == 1
    assert same(found[0], CHANGE)
    late = [change for value in first[2:] if (change := assembler.add(value)) is not None]
    assert len(late) == 1, "the repeated change is complete, and replicas know it already"


def test_incomplete_changes_do_not_accumulate() -> None:
    assembler = Assembler()
    for _ in range(100):
        assembler.add(pack(CHANGE, 60)[0])
    assert len(assembler._parts) <= 4


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"x" * 20, b"x" * 16 + b"\0\0\1\0" + b"\xff\xff\xff\xff", b"x" * 16 + b"\0\0\1\0\1\0\0\0\xc1"]
)
def test_other_records_are_refused(value: bytes) -> None:
    with pytest.raises(BadChange, match="weights: "):
        Assembler().add(value)


class RefusingLog(MemoryLog):
    """A log that refuses records until `accepting` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.accepting = threading.Event()
        self.tried = threading.Event()

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        self.tried.set()
        if not self.accepting.is_set():
            raise InDoubt("unknown result", "memory")
        return super().append(records)


def test_a_change_is_retried_until_it_is_written_and_no_other_comes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.replication.weights.RETRY", 0.01)
    log = RefusingLog()
    publisher = Publisher(log, every=1e-9)
    publisher.start(80)
    assert publisher.due(120)
    publisher.publish(CHANGE)
    assert log.tried.wait(10)
    assert not publisher.due(130), "the previous change is not written yet"
    assert publisher.offset == 0
    log.accepting.set()
    publisher.close()
    assert publisher.failures >= 1
    assert publisher.offset == 1
    change = Assembler().add(log.read({0: 0}, 1)[0].value)
    assert change is not None
    assert same(change, CHANGE)


def test_a_failure_that_no_retry_fixes_is_raised() -> None:
    class Broken(MemoryLog):
        def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
            raise ZeroDivisionError("planted")

    publisher = Publisher(Broken(), every=1e-9)
    publisher.publish(CHANGE)
    publisher._thread.shutdown()
    with pytest.raises(ZeroDivisionError):
        publisher.due(130)


def test_without_news_only_a_heartbeat_is_due() -> None:
    publisher = Publisher(MemoryLog(), every=1e-9)
    publisher.start(0)
    publisher.publish(CHANGE)
    publisher._thread.shutdown()
    assert not publisher.due(CHANGE.position)
    assert publisher.due(CHANGE.position + 1)
