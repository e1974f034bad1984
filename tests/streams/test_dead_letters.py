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


def test_a_full_log_loses_letters_counts_them_and_never_raises(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path, max_bytes=2**20)
    dead = DeadLetters(log)
    for _ in range(100):
        dead.put("kind", "reason", os.urandom(30_000))
    assert dead.counts == {"kind": 100}
    kept = log.end()[0]
    assert 0 < kept < 100
    assert dead.lost == 100 - kept
    assert len(dead.read(1000)) == kept
    log.close()


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
    assert dead.gauges() == {"dead": {"kind": 3_000}, "failures": {"dead_letter": 0, "dead_letter_copy": 0}}
    dead.close()
    copies = [letter.offset for letter in DeadLetters(elsewhere).read(10_000)]
    assert copies == list(range(3_000))


def test_letters_that_cannot_be_stored_are_counted() -> None:
    dead = DeadLetters(MemoryLog(max_records=2))
    for _ in range(3):
        dead.put("kind", "reason", b"")
    assert (dead.counts, dead.lost) == ({"kind": 3}, 1)
