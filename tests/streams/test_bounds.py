"""Memory of what the log holds is bounded in bytes, whatever the records are like."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams import dead_letters
from streams.dead_letters import DeadLetters
from streams.events import Impression, Interaction, Tick
from streams.join import Joiner
from streams.joined import bytes_of
from streams.lmdb_log import LmdbLog
from streams.log import LogFull, MemoryLog


def shown(n: int, size: int = 10_000) -> Impression:
    return Impression(request_id=f"r{n}", user="u", items=("a", "b"), features=b"x" * size, timestamp=1.0)


def test_beyond_its_bytes_the_joiner_evicts_the_oldest_impressions() -> None:
    room = 3 * bytes_of(shown(0))
    joiner = Joiner(window=100.0, memory=room, batch_rows=1000)
    for n in range(3):
        joiner.push(n, 1.0, shown(n))
    assert joiner.counts["evicted"] == 0 and joiner.open_impressions == 3
    joiner.push(3, 1.0, shown(3))
    assert joiner.counts["evicted"] == 1 and joiner.open_impressions == 3
    joiner.push(4, 1.0, Interaction(user="u", item="a", request_id="r0"))
    joiner.push(5, 1.0, Interaction(user="u", item="a", request_id="r1"))
    for n in range(15):
        joiner.push(6 + n, 11.0 + 10.0 * n, Tick(timestamp=11.0 + 10.0 * n))
    assert joiner.counts["unjoined"] == 1, "r0 is forgotten, r1 is not"
    joiner.push(6, 1.0, shown(6, 100_000))
    assert joiner.open_impressions == 1, "one that is larger than the memory stays alone"
    joiner.push(7, 1.0, shown(7))
    assert joiner.open_impressions == 1 and joiner.counts["evicted"] == 5


def test_the_rest_of_an_impression_counts_too() -> None:
    plain = bytes_of(Impression(request_id="r", user="u", items=("a",)))
    more = Impression(
        request_id="r", user="u", items=("a",), carried={"fm": b"x" * 1000}, history=b"x" * 2000, context={"c": "x" * 3000}
    )
    assert bytes_of(more) - plain >= 6000


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_read_of_large_records_ends_early_and_goes_on_where_it_ended(tmp_path: Path, size: int) -> None:
    log = LmdbLog(tmp_path, max_bytes=1 << 30)
    log.append([(b"", b"%d " % n + b"x" * size) for n in range(60)])
    seen, at = [], 0
    while records := log.read({0: at}, 512):
        assert sum(len(record.value) for record in records) < 34_000_000
        seen += [int(record.value.split()[0]) for record in records]
        assert [record.offset for record in records] == list(range(at, at + len(records)))
        at = records[-1].offset + 1
    assert seen == list(range(60))
    log.close()


def test_dead_letters_in_memory_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "_MAX_BYTES_IN_MEMORY", 100_000)
    dead = DeadLetters()
    for n in range(10):
        dead.put("not_json", f"{n}", b"x" * 30_000)
    assert [letter.reason for letter in dead.read()] == ["7", "8", "9"]
    assert dead.counts["not_json"] == 10 and 90_000 < dead.nbytes <= 100_000
    dead.clear()
    assert dead.nbytes == 0


def test_a_log_in_memory_is_full_at_its_bytes_and_has_room_again_after_a_trim() -> None:
    log = MemoryLog(max_bytes=10_000)
    log.append([(b"", b"x" * 4000)] * 2)
    with pytest.raises(LogFull, match="10000 bytes; trim it"):
        log.append([(b"", b"x" * 4000)])
    log.trim({0: 1})
    log.append([(b"", b"x" * 4000)])
    log.trim({0: 3})
    assert log.nbytes == 0
