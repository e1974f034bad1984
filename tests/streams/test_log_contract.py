"""The contract of every log. Tests of one kind alone are in test_lmdb_log.py and kafka/test_log.py."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.kafka.log import KafkaLog
from streams.lmdb_log import LmdbLog
from streams.log import Log, MemoryLog, Record, partition_of
from tests.streams.records import pairs, read_all

ROOT = Path(__file__).parents[2]
MakeLog = Callable[[int], Log]


def made(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[MakeLog]:
    logs: list[Log] = []

    def make(partitions: int = 1) -> Log:
        if kind == "kafka":
            broker = request.getfixturevalue("broker")
            logs.append(KafkaLog(broker.servers, broker.topic(partitions)))
        else:
            logs.append(MemoryLog(partitions) if kind == "memory" else LmdbLog(folder / str(len(logs)), partitions=partitions))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


@pytest.fixture(params=["memory", "lmdb", "kafka"])
def make_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeLog]:
    yield from made(request.param, request, tmp_path)


@pytest.fixture(params=["memory", "lmdb"])
def make_log_of_our_own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeLog]:
    """Logs that `Log.trim` trims. In Kafka, retention is a setting of the topic."""
    yield from made(request.param, request, tmp_path)


def test_it_is_a_log(make_log: MakeLog) -> None:
    assert isinstance(make_log(1), Log)


def test_records_come_back_as_they_went_in(make_log: MakeLog) -> None:
    log = make_log(1)
    assert (log.begin(), log.end()) == ({0: 0}, {0: 0})
    assert log.append(pairs(1, 2)) == {0: 2}
    assert log.append([(b"", b""), (b"k" * 1000, b"v" * 10_000)]) == {0: 4}
    records = log.read({0: 0}, 10)
    assert [record[:4] for record in records] == [
        (0, 0, b"user-1", b"value 1"),
        (0, 1, b"user-2", b"value 2"),
        (0, 2, b"", b""),
        (0, 3, b"k" * 1000, b"v" * 10_000),
    ]
    assert all(isinstance(record, Record) for record in records)
    assert records[0].timestamp == records[1].timestamp <= records[2].timestamp
    assert (log.begin(), log.end()) == ({0: 0}, {0: 4})


def test_reading_starts_at_the_offset_and_stops_at_the_limit(make_log: MakeLog) -> None:
    log = make_log(1)
    log.append(pairs(*range(10)))
    assert [record.offset for record in log.read({0: 4}, 3)] == [4, 5, 6]
    assert [record.offset for record in log.read({0: 9}, 3)] == [9]
    assert list(log.read({0: 10}, 3)) == []
    assert list(log.read({0: 0}, 0)) == []
    assert list(log.read({}, 5)) == []
    assert log.append([]) == {0: 10}


def test_known_at_passes_the_time_of_an_append_after_some_reads(make_log: MakeLog) -> None:
    log = make_log(2)
    before = log.end_known_at(0)
    log.append(pairs(*range(10)))
    appended, limit = time.time(), time.monotonic() + 10
    while min(log.end_known_at(0), log.end_known_at(1)) < appended:
        log.read(log.end(), 10)
        assert time.monotonic() < limit
    assert before <= log.end_known_at(0) <= time.time()
    assert sum(log.end().values()) == 10


def test_an_append_that_fails_leaves_nothing(make_log: MakeLog) -> None:
    log = make_log(1)

    def broken() -> Iterator[tuple[bytes, bytes]]:
        yield b"a", b"1"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        log.append(broken())
    assert log.end() == {0: 0}


def test_a_key_has_one_partition_in_every_log(make_log: MakeLog) -> None:
    log = make_log(4)
    log.append(pairs(*range(100)))
    records = read_all(log, 7)
    assert {record.key: record.partition for record in records} == {key: partition_of(key, 4) for key, _ in pairs(*range(100))}
    assert {record.partition for record in records} == {0, 1, 2, 3}
    assert partition_of(b"user-1", 1) == 0
    # The hash is part of the log's format: another one would move users to other partitions after an upgrade.
    assert [partition_of(b"user-%d" % number, 4) for number in range(8)] == KNOWN_PARTITIONS


KNOWN_PARTITIONS = [0, 1, 0, 1, 2, 2, 0, 2]


def test_no_partition_starves_another(make_log: MakeLog) -> None:
    log = make_log(2)
    keys = [next(key for key in (b"%d" % n for n in range(99)) if partition_of(key, 2) == partition) for partition in (0, 1)]
    log.append([(keys[0], b"")] * 100 + [(keys[1], b"")] * 3)
    read = [record.partition for record in log.read({0: 0, 1: 0}, 10)]
    assert read == [0] * 7 + [1] * 3
    assert len(log.read({0: 0, 1: 0}, 1)) == 1
    assert [record.partition for record in log.read({1: 1}, 10)] == [1, 1]


def test_trimming_deletes_the_oldest_and_keeps_the_offsets(make_log_of_our_own: MakeLog) -> None:
    log = make_log_of_our_own(1)
    log.append(pairs(*range(10)))
    log.trim({0: 4})
    assert (log.begin(), log.end()) == ({0: 4}, {0: 10})
    assert [record.offset for record in log.read({0: 4}, 2)] == [4, 5]
    log.trim({0: 2})
    assert log.begin() == {0: 4}
    log.trim({0: 99})
    assert (log.begin(), log.end()) == ({0: 10}, {0: 10})
    assert log.append(pairs(10)) == {0: 11}
    assert [record[1:4] for record in log.read({0: 10}, 5)] == [(10, b"user-10", b"value 10")]


def test_offsets_that_were_trimmed_are_refused(make_log_of_our_own: MakeLog) -> None:
    log = make_log_of_our_own(1)
    log.append(pairs(*range(10)))
    log.trim({0: 4})
    with pytest.raises(LookupError, match="partition 0 keeps offsets 4 to 10, not 3; older records were trimmed"):
        log.read({0: 3}, 5)


def test_offsets_and_partitions_that_are_not_there_are_refused(make_log: MakeLog) -> None:
    log = make_log(1)
    log.append(pairs(*range(10)))
    with pytest.raises(LookupError, match="not 11; its tail was lost or it is another log"):
        log.read({0: 11}, 5)
    with pytest.raises(LookupError, match="there is no partition 1"):
        log.read({1: 0}, 5)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=30)), max_size=6)),
        st.tuples(st.just("trim"), st.integers(0, 30)),
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(steps, st.integers(1, 3), st.integers(1, 9))
def test_the_log_on_disk_does_what_the_log_in_memory_does(todo: list[tuple[str, object]], partitions: int, limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        on_disk, in_memory = LmdbLog(folder, partitions=partitions), MemoryLog(partitions)
        for step, argument in todo:
            for log in (on_disk, in_memory):
                if step == "append":
                    log.append(argument)  # type: ignore[arg-type]
                else:
                    log.trim(dict.fromkeys(range(partitions), argument))  # type: ignore[arg-type]
            assert (on_disk.begin(), on_disk.end()) == (in_memory.begin(), in_memory.end())
        on_disk.close()
        on_disk = LmdbLog(folder, partitions=partitions)
        without_times = [[record[:4] for record in read_all(log, limit)] for log in (on_disk, in_memory)]
        assert without_times[0] == without_times[1]
        on_disk.close()
