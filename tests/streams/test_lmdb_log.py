"""Tests that only concern the log on disk; test_log_contract.py has those of every log."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import lmdb
import pytest

from streams.lmdb_log import LmdbLog
from streams.log import LogFull, Offsets
from tests.streams.records import pairs, read_all

ROOT = Path(__file__).parents[2]


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


def test_a_full_log_raises_and_keeps_its_records(tmp_path: Path) -> None:
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


def test_a_full_disk_raises_and_keeps_the_records(tmp_path: Path) -> None:
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
    with pytest.raises(ValueError, match=r"^partitions: 1, but the log at .* was created with 3; set 3"):
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
    with pytest.raises(PermissionError, match="opened with readonly"):
        log.append(pairs(1))
    log.close()


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no log here; start its writer first"):
        LmdbLog(tmp_path / "missing", readonly=True)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "data.mdb").write_bytes(b"not lmdb" * 10_000)
    with pytest.raises(OSError, match="meta page 0 is not LMDB's"):
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
