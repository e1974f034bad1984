from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Iterable, Sequence

import pytest

from service.http.ingest import GROUP_BYTES, Entry, Ingest, LogBusy, entry
from streams.codec import decode
from streams.dead_letters import DeadLetters
from streams.events import Interaction
from streams.log import InDoubt, LogFull, MemoryLog, Offsets, PartlyRefused, RecordTooLarge


class SlowLog(MemoryLog):
    """A log whose appends wait for `gate`, and which is full after `room` records."""

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


class BrokenLog(MemoryLog):
    """A log whose first `times` appends raise `fail()`, and which refuses records of more than 1,000 bytes."""

    def __init__(self, fail: Callable[[], OSError], times: int) -> None:
        super().__init__()
        self.fail, self.times, self.tried = fail, times, 0

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        records = list(records)
        self.tried += 1
        if max(len(value) for _, value in records) > 1_000:
            raise RecordTooLarge("a record is too large; send less", "/somewhere")
        if self.times:
            self.times -= 1
            error = self.fail()
            if isinstance(error, InDoubt):
                super().append(records)
            raise error
        return super().append(records)


class PartsLog(MemoryLog):
    """A log that takes what it can of an append, and refuses records of more than 1,000 bytes for good."""

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        records = list(records)
        refused = frozenset(n for n, (_, value) in enumerate(records) if len(value) > 1_000)
        end = super().append([one for n, one in enumerate(records) if n not in refused])
        if refused:
            raise PartlyRefused("a record is too large", "/somewhere", refused, end)
        return end


def away() -> OSError:
    return ConnectionError(errno.ETIMEDOUT, "no broker", "/somewhere")


def in_doubt() -> OSError:
    return InDoubt("no answer", "/somewhere")


def clicks(*users: str, padding: int = 0) -> Sequence[Entry]:
    return [entry(Interaction(user=user, item="x", context={"padding": "-" * padding})) for user in users]


def users(log: MemoryLog) -> list[str]:
    return [decode(record.value).user for record in log.read({0: 0}, 1_000)]


def lost(dead: DeadLetters) -> list[tuple[str, str]]:
    """Kind and user of every letter."""
    return [(letter.kind, decode(letter.value).user) for letter in dead.read()]


def ingest_into(log: MemoryLog, **more: object) -> tuple[Ingest, DeadLetters]:
    dead = DeadLetters()
    return Ingest(log, lambda: None, dead, **more), dead


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.ingest.PAUSE", 0.001)
    monkeypatch.setattr("service.http.ingest.MAX_PAUSE", 0.001)


def test_requests_during_an_append_are_appended_together_in_order():
    log, woken = SlowLog(), []

    async def run() -> list[Offsets]:
        ingest = Ingest(log, lambda: woken.append(len(log.appends)), DeadLetters())
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
    assert users(log) == ["a", "b", "b", "c", "c", "d", "d"]
    assert [end[0] for end in ends] == [1, 7, 7, 7]
    assert woken == [1, 2]


def test_a_group_of_requests_has_a_size_limit():
    log = SlowLog()
    large = clicks("a", padding=GROUP_BYTES // 2)

    async def run() -> None:
        ingest, _ = ingest_into(log)
        log.gate.release(10)
        await asyncio.gather(*(ingest.append(entries) for entries in (clicks("b"), large, large, clicks("c"), large * 4)))
        await ingest.close()

    asyncio.run(run())
    assert log.appends == [2, 2, 4], "each request whole"


def test_a_request_that_does_not_fit_is_refused_whole_and_takes_no_other_with_it():
    log = SlowLog(room=4)

    async def run() -> list[Offsets | BaseException]:
        ingest, _ = ingest_into(log)
        log.gate.release(10)
        tasks = [asyncio.create_task(ingest.append(clicks(*users))) for users in ("a", "bbbbbb", "cc")]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await ingest.close()
        return found

    first, second, third = asyncio.run(run())
    assert isinstance(second, LogFull) and second.filename == "/somewhere"
    assert isinstance(first, dict) and isinstance(third, dict)
    assert users(log) == ["a", "c", "c"]


def test_post_does_not_wait_and_lost_events_become_dead_letters():
    log = SlowLog(room=1)

    async def run() -> DeadLetters:
        ingest, dead = ingest_into(log)
        for user in "ab":
            ingest.post(clicks(user))
        assert users(log) == []
        log.gate.release(10)
        await ingest.close()
        return dead

    dead = asyncio.run(run())
    assert users(log) == ["a"]
    assert lost(dead) == [("lost", "b")]
    assert "no room" in dead.read()[0].reason and dead.read()[0].source == "http"


def test_the_buffer_is_bounded():
    log = SlowLog()

    async def run() -> None:
        ingest, _ = ingest_into(log, buffer=100)
        first = asyncio.create_task(ingest.append(clicks("a" * 200)))  # larger than the buffer, but alone
        await settled()
        with pytest.raises(LogBusy, match="bytes of events already wait"):
            await ingest.append(clicks("b"))
        with pytest.raises(LogBusy):
            ingest.post(clicks("b"))
        log.gate.release(10)
        await first
        assert ingest.memory() == {"buffer": 0}
        await ingest.append(clicks("c"))
        await ingest.close()

    asyncio.run(run())
    assert users(log) == ["a" * 200, "c"]


def test_a_cancelled_caller_loses_no_events():
    log = SlowLog()

    async def run() -> None:
        ingest, _ = ingest_into(log)
        gone = asyncio.create_task(ingest.append(clicks("a")))
        stays = asyncio.create_task(ingest.append(clicks("b")))
        await settled()
        gone.cancel()
        await settled()
        log.gate.release(10)
        await stays
        await ingest.close()

    asyncio.run(run())
    assert users(log) == ["a", "b"]


def full() -> OSError:
    return LogFull("no room", "/somewhere")


# In a full log, a failed group is tried again in parts, which uses up one of the failures.
@pytest.mark.parametrize(("fail", "retried"), [(away, 3), (in_doubt, 3), (full, 2)])
def test_posted_events_are_retried_in_order(fail: Callable[[], OSError], retried: int) -> None:
    log = BrokenLog(fail, times=3)

    async def run() -> tuple[int, DeadLetters]:
        ingest, dead = ingest_into(log, retry=True)
        for user in "abc":
            ingest.post(clicks(user))
            await settled()
        while len(users(log)) < 3 or log.times:
            await asyncio.sleep(0.001)
        ingest.post(clicks("d"))
        await ingest.close()
        assert ingest.memory() == {"buffer": 0}
        return ingest.gauges()["failures"]["append"], dead

    failures, dead = asyncio.run(run())
    assert failures == retried
    assert lost(dead) == []
    found = users(log)
    # An append with an unknown result leaves duplicates. The last four records are all events in order.
    assert found[-4:] == ["a", "b", "c", "d"]
    assert (len(found) > 4) == (fail is in_doubt)


def test_append_fails_at_once_while_posted_events_are_retried() -> None:
    log = BrokenLog(away, times=1)

    async def run() -> None:
        ingest, _ = ingest_into(log, retry=True)
        ingest.post(clicks("a"))
        with pytest.raises(ConnectionError, match="no broker"):
            await ingest.append(clicks("b"))
        await ingest.append(clicks("c"))
        await ingest.close()

    asyncio.run(run())
    assert users(log) == ["a", "c"]


def test_a_record_that_is_too_large_is_lost_alone() -> None:
    log = BrokenLog(away, times=0)

    async def run() -> DeadLetters:
        ingest, dead = ingest_into(log, retry=True)
        ingest.post([*clicks("a"), *clicks("b", padding=2_000), *clicks("c")])
        ingest.post(clicks("d"))
        await ingest.close()
        return dead

    dead = asyncio.run(run())
    assert users(log) == ["a", "c", "d"]
    assert lost(dead) == [("lost", "b")]


@pytest.mark.parametrize("retry", [False, True], ids=["waited for", "queued"])
def test_what_is_refused_for_good_is_told_to_its_sender_and_never_tried_again(retry: bool) -> None:
    log = PartsLog()

    async def run() -> DeadLetters:
        ingest, dead = ingest_into(log, retry=retry)
        mixed = [*clicks("a"), *clicks("b", padding=2_000), *clicks("c")]
        sent = [asyncio.create_task(ingest.append(one)) for one in (clicks("x"), mixed, clicks("y"))]
        ingest.post([*clicks("d", padding=2_000), *clicks("e")])
        first, second, third = await asyncio.gather(*sent, return_exceptions=True)
        assert (first, third) == ({0: 5}, {0: 5}), "who sent none of it knows nothing of it"
        assert isinstance(second, PartlyRefused)
        assert "do not append them again" in str(second)
        await ingest.close()
        assert ingest.memory() == {"buffer": 0}
        assert ingest.failures == 0
        return dead

    dead = asyncio.run(run())
    assert sorted(users(log)) == ["a", "c", "e", "x", "y"]
    assert lost(dead) == [("lost", "d")]


def test_nothing_overtakes_events_that_are_retried() -> None:
    log = SlowLog(room=2)

    async def run() -> None:
        ingest, _ = ingest_into(log, retry=True)
        ingest.post(clicks("a"))
        ingest.post(clicks("b", "b", "b"))
        late = asyncio.create_task(ingest.append(clicks("c")))
        ingest.post(clicks("d"))
        log.gate.release(1_000)
        with pytest.raises(LogBusy, match="earlier events still wait"):
            await late
        assert users(log)[:1] == ["a"]
        log.room = 1_000
        await ingest.close()

    asyncio.run(run())
    assert users(log) == ["a", "b", "b", "b", "d"]


def test_at_the_end_events_are_retried_once_and_then_become_dead_letters() -> None:
    log = BrokenLog(away, times=1_000_000)

    async def run() -> DeadLetters:
        ingest, dead = ingest_into(log, retry=True)
        for user in "abc":
            ingest.post(clicks(user))
        while log.tried < 3:
            await asyncio.sleep(0.001)
        assert lost(dead) == []
        await ingest.close()
        assert ingest.memory() == {"buffer": 0}
        return dead

    dead = asyncio.run(run())
    assert users(log) == []
    assert lost(dead) == [("lost", "a"), ("lost", "b"), ("lost", "c")]
