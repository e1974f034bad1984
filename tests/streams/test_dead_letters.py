from __future__ import annotations

import os
import time
from pathlib import Path

from streams.dead_letters import DeadLetter, DeadLetters
from streams.forwarding import Forwarder
from streams.lmdb_log import LmdbLog
from streams.log import MemoryLog


def test_a_letter_keeps_the_record_its_offset_and_its_reason() -> None:
    dead = DeadLetters(MemoryLog())
    dead.put("not_json", "event: not JSON", b"\xff\x00{", source="log", partition=2, offset=7)
    (letter,) = dead.read()
    assert isinstance(letter, DeadLetter)
    assert (letter.kind, letter.reason, letter.value) == ("not_json", "event: not JSON", b"\xff\x00{")
    assert (letter.source, letter.partition, letter.offset) == ("log", 2, 7)
    assert letter.timestamp > 0


def test_letters_are_counted_by_kind_and_the_newest_are_read() -> None:
    for dead in (DeadLetters(MemoryLog(3)), DeadLetters()):
        for n in range(10):
            dead.put("even" if n % 2 == 0 else "odd", f"number {n}", str(n))
        assert dead.counts == {"even": 5, "odd": 5}
        assert [letter.reason for letter in dead.read(3)] == ["number 7", "number 8", "number 9"]
        assert len(dead.read(100)) == 10
        assert dead.read(0) == []
        assert dead.lost == 0


def test_without_a_log_memory_is_bounded() -> None:
    dead = DeadLetters()
    for n in range(1_500):
        dead.put("kind", "reason", str(n))
    assert dead.counts == {"kind": 1_500}
    letters = dead.read(10_000)
    assert (len(letters), letters[0].value) == (1_000, b"500")


def test_a_large_record_is_cut_and_invalid_text_is_replaced() -> None:
    dead = DeadLetters(MemoryLog())
    dead.put("kind", "reason \ud800", b"x" * 100_000)
    dead.put("kind", "reason", "\ud800 text")
    large, broken = dead.read()
    assert (large.value, large.reason) == (b"x" * 65_536, "reason ?")
    assert broken.value == b"? text"


def test_a_full_log_deletes_its_oldest_letters_counts_them_and_says_so(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path, max_bytes=2**20)
    dead, said = DeadLetters(log), list[str]()
    dead.notify = said.append
    for n in range(200):
        dead.put("kind", f"number {n}", os.urandom(30_000))
    assert (dead.counts, dead.lost) == ({"kind": 200}, 0)
    begin = log.begin()[0]
    assert begin > 150
    assert (dead.rotated, log.end()) == (begin, {0: 200})
    assert [letter.reason for letter in dead.read(1000)] == [f"number {n}" for n in range(begin, 200)]
    assert dead.gauges()["evictions"] == {"dead_letters": begin}
    assert all(text.endswith("oldest were deleted, to make room for new ones") for text in said)
    assert sum(int(text.split()[3]) for text in said) == begin
    log.close()


def test_a_reason_is_cut_at_one_kib() -> None:
    dead = DeadLetters(MemoryLog())
    dead.put("kind", "x" * 5_000, b"")
    dead.put("kind", "x" * 1_023 + "\u00e9 and more", b"")
    assert [letter.reason for letter in dead.read()] == ["x" * 1_024, "x" * 1_023]


def test_a_damaged_letter_is_skipped(tmp_path: Path) -> None:
    dead = DeadLetters(LmdbLog(tmp_path))
    for n in range(5):
        dead.put("kind", f"number {n}", b"", source="log", partition=0, offset=n)
    dead.close()
    file = tmp_path / "data.mdb"
    file.write_bytes(file.read_bytes().replace(b"number 2", b"number 7"))
    dead = DeadLetters(LmdbLog(tmp_path))
    assert [letter.reason for letter in dead.read()] == ["number 0", "number 1", "number 3", "number 4"]
    assert dead.reported("log") == {0: 4}
    dead.close()


def test_clear_starts_the_counting_anew() -> None:
    dead = DeadLetters()
    dead.put("kind", "reason", b"")
    dead.clear()
    assert (dict(dead.counts), dead.read()) == ({}, [])


def test_reported_offsets_are_known_by_partition_also_after_a_restart(tmp_path: Path) -> None:
    for dead in (DeadLetters(), DeadLetters(MemoryLog())):
        assert dead.reported("log") == {}
    log = LmdbLog(tmp_path)
    dead = DeadLetters(log)
    for partition, offset in ((0, 3), (2, 900), (0, 7), (2, 1)):
        dead.put("kind", "reason", b"", source="log", partition=partition, offset=offset)
    for n in range(1_500):
        dead.put("kind", "reason", b"", source="http" if n % 2 else "other", partition=0, offset=n)
    dead.put("kind", "reason", b"", source="http")
    dead.close()
    dead = DeadLetters(LmdbLog(tmp_path))
    assert dead.reported("log") == {0: 7, 2: 900}
    assert dead.reported("nothing") == {}
    dead.close()
    in_memory = DeadLetters()
    in_memory.put("kind", "reason", b"", source="log", partition=1, offset=5)
    assert in_memory.reported("log") == {1: 5}


def test_letters_are_copied_and_the_newest_stay_readable() -> None:
    log, elsewhere = MemoryLog(max_records=1_200), MemoryLog()
    forwarder = Forwarder(log, lambda: elsewhere, "elsewhere")
    dead = DeadLetters(log, forwarder)
    for n in range(3_000):
        while forwarder.waiting > 100:
            time.sleep(0.001)
        dead.put("kind", "reason", str(n), source="log", partition=0, offset=n)
    assert dead.reported("log") == {0: 2_999}
    assert [letter.offset for letter in dead.read(10)] == list(range(2_990, 3_000))
    assert dead.gauges() == {
        "dead": {"kind": 3_000},
        "failures": {"dead_letter": 0, "dead_letter_copy": 0},
        "evictions": {"dead_letters": 0},
    }
    dead.close()
    copies = [letter.offset for letter in DeadLetters(elsewhere).read(10_000)]
    assert copies == list(range(3_000))


def test_letters_that_cannot_be_stored_are_counted() -> None:
    dead = DeadLetters(MemoryLog(max_records=0))
    for _ in range(3):
        dead.put("kind", "reason", b"")
    assert (dead.counts, dead.lost, dead.rotated) == ({"kind": 3}, 3, 0)


def test_copying_goes_on_after_letters_that_were_deleted_before_their_turn() -> None:
    log, elsewhere = MemoryLog(max_records=100), MemoryLog()
    reachable = False

    def open_target() -> MemoryLog:
        if not reachable:
            raise ConnectionError("not yet")
        return elsewhere

    forwarder = Forwarder(log, open_target, "elsewhere")
    dead = DeadLetters(log, forwarder)
    for n in range(150):
        dead.put("kind", "reason", b"", source="log", partition=0, offset=n)
    reachable = True
    limit = time.monotonic() + 60
    while forwarder.waiting:
        assert time.monotonic() < limit
        time.sleep(0.01)
    dead.close()
    copies = [letter.offset for letter in DeadLetters(elsewhere).read(1_000)]
    assert copies == list(range(dead.rotated, 150))
    assert 50 <= dead.rotated < 70
    assert forwarder.failures >= dead.rotated
