"""A log can be read by a user who may not write to it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.lmdb_log import LmdbLog

STRANGER = 12_345
"""A user id that owns nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that everybody may read."""
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    yield tmp_path / "log"


def as_stranger(work: Callable[[], object]) -> str:
    """Do the work in a process of another user, and return what it returned, or its error, as text."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(STRANGER)
                os.setuid(STRANGER)
            text = str(work())
        except BaseException as error:
            text = "".join(traceback.format_exception_only(error))
        os.write(into, text.encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def closed_to_others(folder: Path) -> None:
    for path in (folder / "data.mdb", folder / "lock.mdb"):
        path.chmod(0o444)
    folder.chmod(0o555)


def read_all(folder: Path) -> list[bytes]:
    log = LmdbLog(folder, readonly=True)
    return [record.value for record in log.read(log.begin(), 1000)]


def test_a_log_is_read_without_write_permission(folder: Path) -> None:
    log = LmdbLog(folder)
    log.append([(b"", b"value %d" % n) for n in range(3)])
    log.close()
    closed_to_others(folder)
    assert as_stranger(lambda: read_all(folder)) == "[b'value 0', b'value 1', b'value 2']"
    (folder / "lock.mdb").unlink()
    assert as_stranger(lambda: read_all(folder)) == "[b'value 0', b'value 1', b'value 2']"


def test_a_reader_without_write_permission_follows_a_busy_writer(folder: Path) -> None:
    log = LmdbLog(folder, max_bytes=2**21)
    log.append([(b"", b"0 " + os.urandom(300))])
    log.close()
    closed_to_others(folder)

    def follow() -> str:
        reader, at = LmdbLog(folder, readonly=True), 0
        while at < 3_000:
            try:
                records = reader.read({0: max(at, reader.begin()[0])}, 50)
            except LookupError:
                continue  # trimmed between the two calls
            for record in records:
                if int(record.value.split(b" ", 1)[0]) != record.offset:
                    return f"record {record.offset} is {record.value!r}"
                at = record.offset + 1
        return "all right"

    done, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(into, as_stranger(follow).encode())
        os._exit(0)
    os.close(into)
    os.set_blocking(done, False)
    log = LmdbLog(folder, max_bytes=2**21)  # after the fork: a process may open a folder once
    said = b""
    for n in range(1, 200_000):
        log.append([(b"", b"%d " % n + os.urandom(300))])
        if n % 500 == 0:
            log.trim({0: n - 400})
            try:
                if said := os.read(done, 10_000):
                    break
            except BlockingIOError:
                continue
    assert said == b"all right"
    os.waitpid(child, 0)
    log.close()


def test_a_short_file_that_cannot_be_extended_is_one_sentence(folder: Path) -> None:
    log = LmdbLog(folder)
    log.append([(b"", b"v" * 300)] * 500)
    log.close()
    os.truncate(folder / "data.mdb", 50_000)
    closed_to_others(folder)
    said = as_stranger(lambda: read_all(folder))
    assert "the file was cut" in said and "bytes are missing; restore the log from a backup" in said
    assert said.count("\n") == 1
