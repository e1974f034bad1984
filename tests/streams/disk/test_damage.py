"""A damaged log is found when it is read, and named; nothing wrong is returned."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import lmdb
import pytest

from streams.disk.checksums import intact, seal
from streams.lmdb_log import LmdbLog
from streams.log import DamagedRecord

PAGE = 4096


def written(folder: Path, records: int = 60) -> Path:
    """A log of records with keys ``key 0`` and values ``value 0 ...``; its file."""
    log = LmdbLog(folder)
    log.append([(b"key %d" % n, b"value %d " % n + b"." * 200) for n in range(records)])
    log.close()
    return folder / "data.mdb"


def change(file: Path, at: int, new: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(new)


def flip(file: Path, place: bytes, byte: int, bit: int) -> None:
    data = file.read_bytes()
    assert data.count(place) == 1
    at = data.index(place) + byte
    change(file, at, bytes([data[at] ^ 1 << bit]))


@pytest.mark.parametrize(
    ("place", "byte", "bit"),
    [(b"value 17 .", 0, 0), (b"value 17 .", 150, 7), (b"key 17value", 4, 3), (b"key 17value", -10, 5), (b"key 17value", -1, 1)],
    ids=["first byte of the value", "middle of the value", "key", "time", "length of the key"],
)
def test_a_flipped_bit_is_found_and_named(tmp_path: Path, place: bytes, byte: int, bit: int) -> None:
    file = written(tmp_path)
    flip(file, place, byte, bit)
    log = LmdbLog(tmp_path)
    assert [record.offset for record in log.read({0: 0}, 100)] == list(range(17))
    with pytest.raises(DamagedRecord, match=r"record 17 of partition 0 is damaged .*restore the log from a backup") as caught:
        log.read({0: 17}, 100)
    assert (caught.value.partition, caught.value.offset, caught.value.filename) == (0, 17, str(file))
    assert [record.value[:9] for record in log.read({0: 18}, 2)] == [b"value 18 ", b"value 19 "]
    log.close()


def test_a_record_in_the_place_of_another_is_found() -> None:
    values = [b"same", b"same", b"same"]
    sealed = seal(values, 2, 40)
    assert intact(sealed, 2, 40) == 3
    assert intact(sealed[1:], 2, 40) == 0
    assert intact(sealed, 1, 40) == 0
    assert intact([sealed[0], sealed[2], sealed[1]], 2, 40) == 1
    far = seal(values, 3, 2**40)
    assert intact(far, 3, 2**40) == 3


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole").read_bytes()
    reference = LmdbLog(tmp_path / "whole", readonly=True)
    expected = {record.offset: record for record in reference.read({0: 0}, 100)}
    reference.close()
    draw, found, folder = random.Random(5), 0, tmp_path / "flipped"
    # Leaf pages have their records at the end and the places of these records at the start; the latter would crash LMDB.
    places = [at for page in range(2, len(whole) // PAGE) for at in range(page * PAGE + 200, (page + 1) * PAGE) if whole[at]]
    for _ in range(150):
        at = draw.choice(places)
        folder.mkdir(exist_ok=True)
        (folder / "data.mdb").write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
        try:
            log = LmdbLog(folder)
        except OSError as error:
            assert "damaged" in str(error)
            found += 1
            continue
        for offset in range(60):
            try:
                assert log.read({0: offset}, 1) == [expected[offset]]
            except DamagedRecord as error:
                assert error.offset == offset
                found += 1
            except OSError as error:
                assert "its file is damaged" in str(error)
                found += 1
        log.close()
    assert found >= 75


@pytest.mark.parametrize("page", [0, 1])
def test_zeros_in_place_of_a_meta_page_are_one_sentence(tmp_path: Path, page: int) -> None:
    file = written(tmp_path)
    change(file, page * PAGE, bytes(PAGE))
    for readonly in (False, True):
        with pytest.raises(OSError, match=f"its meta page {page} holds only zeros.*restore the log from a backup") as caught:
            LmdbLog(tmp_path, readonly=readonly)
        assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(file))


def test_an_empty_file_is_no_new_log(tmp_path: Path) -> None:
    file = written(tmp_path)
    os.truncate(file, 0)
    with pytest.raises(OSError, match="the file is empty, and was not when it was last used"):
        LmdbLog(tmp_path)
    assert file.stat().st_size == 0


@pytest.mark.parametrize("size", [1, 100, PAGE, PAGE + 100])
def test_a_file_cut_within_its_index_is_one_sentence(tmp_path: Path, size: int) -> None:
    os.truncate(written(tmp_path), size)
    with pytest.raises(OSError, match=f"the file was cut to {size} bytes"):
        LmdbLog(tmp_path)


@pytest.mark.parametrize("field", [136, 128, 40], ids=["last page", "root", "page size"])
def test_wrong_numbers_in_the_index_are_one_sentence(tmp_path: Path, field: int) -> None:
    change(written(tmp_path), PAGE + field, b"\x01\x80\xff\xff")
    with pytest.raises(OSError, match="its meta page 1 has wrong numbers"):
        LmdbLog(tmp_path)


def test_the_log_s_own_values_have_checksums(tmp_path: Path) -> None:
    file = written(tmp_path)
    log = LmdbLog(tmp_path)
    assert log.identity is not None
    word = log.identity.split()[1].encode()
    log.close()
    data = bytearray(file.read_bytes())
    at = data.find(word)
    while at >= 0:  # in an old version of the page, too
        data[at + 5] ^= 1
        at = data.find(word)
    file.write_bytes(data)
    with pytest.raises(OSError, match=r"the checksum of 'identity' is wrong.*its file is damaged"):
        LmdbLog(tmp_path)


def test_a_log_of_an_older_version_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), max_dbs=2) as old, old.begin(write=True) as transaction:
        old.open_db(b"partition-0", transaction)
        transaction.put(b"partitions", b"\x00\x01")
    with pytest.raises(OSError, match=r"Freshet 0\.1, without checksums: use that version, or name another folder"):
        LmdbLog(tmp_path)
