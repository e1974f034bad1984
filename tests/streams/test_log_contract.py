"""One contract for every log, and what only a log on disk can promise. What only Kafka does is in test_kafka.py."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.kafka import KafkaLog
from streams.lmdb_log import LmdbLog
from streams.log import Log, LogFull, MemoryLog, Offsets, Record, partition_of

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
    """Logs that are trimmed by `Log.trim`; how long Kafka keeps records is the topic's own setting."""
    yield from made(request.param, request, tmp_path)


def pairs(*numbers: int) -> list[tuple[bytes, bytes]]:
    return [(b"user-%d" % number, b"value %d" % number) for number in numbers]


def read_all(log: Log, limit: int) -> list[Record]:
    offsets, found = log.begin(), []
    while records := log.read(offsets, limit):
        assert len(records) <= limit
        found += records
        offsets |= {record.partition: record.offset + 1 for record in records}
    assert offsets == log.end()
    return found


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
    # The hash is part of the log's format: another one would send a user's events elsewhere after an upgrade.
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


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_an_append_is_seen_by_another_process_and_outlives_it(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path)
    log.append(pairs(1))
    code = """
        import sys
        from streams.lmdb_log import LmdbLog
        log = LmdbLog(sys.argv[1], readonly=True)
        sys.stdout.write(f"{log.end()}\\n"); sys.stdout.flush(); sys.stdin.readline()
        print(log.read({0: 0}, 9)[-1].value, log.end())
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "{0: 1}\n"
        log.append(pairs(2))
        assert reader.communicate("\n")[0] == "b'value 2' {0: 2}\n"
    log.close()


def test_a_reader_with_less_room_follows_a_writer_with_more(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path, max_bytes=2**20)
    code = """
        import os, sys
        from streams.lmdb_log import LmdbLog
        log = LmdbLog(sys.argv[1], max_bytes=2**24)
        for _ in range(100):
            log.append([(b"", os.urandom(500))] * 100)
    """
    with python(code, tmp_path) as writer:
        assert writer.wait() == 0
    assert len(read_all(log, 1000)) == 10_000
    assert log.append(pairs(1)) == {0: 10_001}
    log.close()


def test_kill_nine_loses_no_append_that_returned(tmp_path: Path) -> None:
    code = """
        import sys
        from streams.lmdb_log import LmdbLog
        log = LmdbLog(sys.argv[1])
        n = log.end()[0]
        while True:
            n = log.append([(b"", b"%d" % (n + i)) for i in range(37)])[0]
            sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
    """
    returned = 0
    for _ in range(3):
        with python(code, tmp_path) as writer:
            assert writer.stdout is not None
            for _ in range(50):
                returned = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split("\n")
            returned = max([returned, *(int(line) for line in rest[:-1] if line)])
        log = LmdbLog(tmp_path)
        end = log.end()[0]
        assert end >= returned
        assert end % 37 == 0
        assert [record.value for record in log.read({0: 0}, end)] == [b"%d" % n for n in range(end)]
        log.close()


def test_a_full_log_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path, max_bytes=2**20)
    batch = [(b"u", os.urandom(200))] * 100
    with pytest.raises(LogFull, match="has reached its 1 MiB; raise max_bytes or trim it") as caught:
        for _ in range(100):
            end = log.append(batch)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert log.end() == end
    assert len(read_all(log, 1000)) == end[0]
    log.trim(end)
    assert log.append(batch) == {0: end[0] + 100}
    log.close()


def test_a_log_that_is_trimmed_never_grows_past_its_size(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path, max_bytes=2**20)
    batch, end = [(b"u", os.urandom(200))] * 100, {0: 0}
    for _ in range(200):
        log.trim({0: end[0] - 1000})
        end = log.append(batch)
    assert (end, log.begin()) == ({0: 20_000}, {0: 18_900})
    assert log.nbytes < 2**20
    log.close()


def test_threads_read_while_another_fills_and_trims(tmp_path: Path) -> None:
    log, value, done = LmdbLog(tmp_path, max_bytes=2**20), os.urandom(200), threading.Event()
    problems: list[object] = []

    def follow() -> None:
        while not done.wait(0.0005):
            try:
                problems.extend(record for record in log.read(log.begin(), 50) if record.value != value)
            except LookupError:
                continue  # trimmed between the two calls
            except OSError as error:
                problems.append(error)

    readers = [threading.Thread(target=follow) for _ in range(2)]
    for reader in readers:
        reader.start()
    fulls = 0
    for _ in range(150):
        try:
            log.append([(b"u", value)] * 100)
        except LogFull:
            fulls += 1
            log.trim(log.end())
    done.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert 0 < fulls < 20
    log.close()


def test_a_full_disk_says_so_and_keeps_what_there_is(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys
        from streams.lmdb_log import LmdbLog
        from streams.log import LogFull
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))
        log, end = LmdbLog(sys.argv[1]), {}
        try:
            while True:
                end = log.append([(b"u", b"v" * 200)] * 100)
        except LogFull as error:
            print(error.errno, "the disk is full" in str(error), log.end() == end, len(log.read({0: 0}, 10**6)) == end[0])
    """
    with python(code, tmp_path) as writer:
        assert writer.communicate()[0] == f"{errno.ENOSPC} True True True\n"


def test_a_number_of_partitions_cannot_change(tmp_path: Path) -> None:
    LmdbLog(tmp_path, partitions=3).close()
    with pytest.raises(ValueError, match=r"^partitions: 1, but the log at .* was made with 3; say 3"):
        LmdbLog(tmp_path)
    reader = LmdbLog(tmp_path, readonly=True)
    assert reader.end() == {0: 0, 1: 0, 2: 0}
    reader.close()


@pytest.mark.parametrize(("keywords", "message"), [({"partitions": 0}, "partitions: 0"), ({"max_bytes": 5}, "max_bytes: 5")])
def test_sizes_out_of_range_are_refused(tmp_path: Path, keywords: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LmdbLog(tmp_path, **keywords)  # type: ignore[arg-type]


def test_a_reader_cannot_write_and_nobody_uses_a_closed_log(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path)
    log.close()
    log.close()
    with pytest.raises(ValueError, match="the log is closed"):
        log.end()
    log = LmdbLog(tmp_path, readonly=True)
    with pytest.raises(PermissionError, match="opened to be read"):
        log.append(pairs(1))
    log.close()


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no log here; start its writer first"):
        LmdbLog(tmp_path / "missing", readonly=True)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "data.mdb").write_bytes(b"not lmdb" * 10_000)
    with pytest.raises(ValueError, match="no LMDB file"):
        LmdbLog(tmp_path / "text")
    with lmdb.open(str(tmp_path / "other")) as other, other.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    with pytest.raises(ValueError, match="an LMDB database of something else"):
        LmdbLog(tmp_path / "other")
    log = LmdbLog(tmp_path / "twice")
    with pytest.raises(OSError, match="already open in this process"):
        LmdbLog(tmp_path / "twice")
    log.close()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_file_cut_short_is_an_error_and_not_a_crash(tmp_path: Path, share: float) -> None:
    log = LmdbLog(tmp_path)
    log.append([(b"u", b"v" * 200)] * 5000)
    log.close()
    file = tmp_path / "data.mdb"
    os.truncate(file, int(file.stat().st_size * share))
    code = """
        import sys
        from streams.lmdb_log import LmdbLog
        try:
            LmdbLog(sys.argv[1]).read({0: 0}, 10**6)
        except OSError as error:
            print(error)
    """
    with python(code, tmp_path) as reader:
        assert "its file is damaged" in reader.communicate()[0]


def test_a_key_that_is_too_long_is_refused(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path)
    with pytest.raises(ValueError, match="key: longer than 65,535 bytes"):
        log.append([(b"k" * 65_536, b"")])
    assert log.end() == Offsets({0: 0})
    log.close()
