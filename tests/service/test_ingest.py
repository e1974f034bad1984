from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence

import pytest

from service.ingest import Entry, Ingest, LogBusy, entry
from streams.codec import decode
from streams.events import Interaction
from streams.log import LogFull, MemoryLog, Offsets


class SlowLog(MemoryLog):
    """Holds every append until it is let through; full from `room` records on."""

    def __init__(self, room: int = 1_000) -> None:
        super().__init__()
        self.gate, self.appends, self.room = threading.Semaphore(0), [], room

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        records = list(records)
        self.gate.acquire()
        if self.end()[0] + len(records) > self.room:
            raise LogFull("no room; trim it", "/somewhere")
        self.appends.append(len(records))
        return super().append(records)

    def users(self) -> list[str]:
        return [decode(record.value).user for record in self.read({0: 0}, 1_000)]


def clicks(*users: str) -> Sequence[Entry]:
    return [entry(Interaction(user=user, item="x")) for user in users]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_comes_during_an_append_makes_one_next_append_in_order():
    log, woken = SlowLog(), []

    async def run() -> list[Offsets]:
        ingest = Ingest(log, lambda: woken.append(len(log.appends)))
        first = asyncio.create_task(ingest.append(clicks("a")))
        await settled()
        others = [asyncio.create_task(ingest.append(clicks(user, user))) for user in "bcd"]
        await settled()
        assert not first.done()
        log.gate.release(2)
        ends = await asyncio.gather(first, *others)
        await ingest.close()
        return ends

    ends = asyncio.run(run())
    assert log.appends == [1, 6]
    assert log.users() == ["a", "b", "b", "c", "c", "d", "d"]
    assert [end[0] for end in ends] == [1, 7, 7, 7]
    assert woken == [1, 2]


def test_a_request_that_does_not_fit_is_refused_whole_and_takes_no_other_with_it():
    log = SlowLog(room=4)

    async def run() -> list[Offsets | BaseException]:
        ingest = Ingest(log, lambda: None)
        log.gate.release(10)
        tasks = [asyncio.create_task(ingest.append(clicks(*users))) for users in ("a", "bbbbbb", "cc")]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await ingest.close()
        return found

    first, second, third = asyncio.run(run())
    assert isinstance(second, LogFull) and second.filename == "/somewhere"
    assert isinstance(first, dict) and isinstance(third, dict)
    assert log.users() == ["a", "c", "c"]


def test_post_does_not_wait_and_tells_what_was_lost():
    log, lost = SlowLog(room=1), []

    async def run() -> int:
        ingest = Ingest(log, lambda: None)
        for user in "ab":
            ingest.post(*clicks(user), lambda lost_one, error: lost.append((decode(lost_one[1]).user, type(error))))
        assert log.users() == []
        log.gate.release(10)
        await ingest.close()
        return ingest.lost

    assert asyncio.run(run()) == 1
    assert log.users() == ["a"] and lost == [("b", LogFull)]


def test_no_more_waits_than_may_wait():
    log = SlowLog()

    async def run() -> None:
        ingest = Ingest(log, lambda: None, most_waiting=100)
        first = asyncio.create_task(ingest.append(clicks("a" * 200)))  # larger than may wait, but alone
        await settled()
        with pytest.raises(LogBusy, match="faster disk"):
            await ingest.append(clicks("b"))
        log.gate.release(10)
        await first
        await ingest.append(clicks("c"))
        await ingest.close()

    asyncio.run(run())
    assert log.users() == ["a" * 200, "c"]


def test_a_caller_that_goes_away_leaves_its_events_and_the_others_in_peace():
    log = SlowLog()

    async def run() -> None:
        ingest = Ingest(log, lambda: None)
        gone = asyncio.create_task(ingest.append(clicks("a")))
        stays = asyncio.create_task(ingest.append(clicks("b")))
        await settled()
        gone.cancel()
        await settled()
        log.gate.release(10)
        await stays
        await ingest.close()

    asyncio.run(run())
    assert log.users() == ["a", "b"]
