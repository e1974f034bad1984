"""A topic behind a network that loses, delays and cuts, and a broker that refuses: nothing is lost, errors come in time."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

import pytest

from streams.kafka.log import KafkaLog, NoBroker, NotAllowed
from streams.log import InDoubt, PartlyRefused, Record, RecordTooLarge
from tests.broker import Broker
from tests.proxy import FETCH, MESSAGE_TOO_LARGE, NOT_LEADER, PRODUCE, REQUEST_TIMED_OUT, TO_BROKER, TO_CLIENT, Proxy, Way
from tests.streams.kafka.topics import OpenLog, numbered, read_on

Faults = tuple[Broker, Proxy]

# See tests/conftest.py.
pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.filterwarnings("ignore::ResourceWarning")]

IN_TIME = 10.0
"""Seconds after which an error is too late, also on a busy machine."""


@contextmanager
def in_time() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < IN_TIME


def tries() -> Iterator[None]:
    """Try again as a reader does, for a limited time."""
    until = time.monotonic() + IN_TIME
    while time.monotonic() < until:
        yield
        time.sleep(0.01)


def numbers(records: list[Record]) -> list[int]:
    return [int(record.value.rstrip(b".")) for record in records]


def read_through(log: KafkaLog, offset: int, end: int) -> list[Record]:
    """Read until `end`; try again after errors."""
    found: list[Record] = []
    until = time.monotonic() + 60
    while offset < end:
        assert time.monotonic() < until, f"reading did not go on by itself: {len(found)} of {end} records"
        try:
            records = log.read({0: offset}, 500)
        except NoBroker:
            time.sleep(0.02)
            continue
        found += records
        offset = records[-1].offset + 1 if records else offset
    return found


# ---- a broker that dies in the middle of a batch

LOST = {"its answer is lost": (0, TO_CLIENT), "half of it arrives": (150, TO_BROKER)}


@pytest.mark.parametrize(("count", "way"), LOST.values(), ids=LOST)
def test_a_connection_that_breaks_under_an_append_is_made_anew_and_the_batch_is_there_once(
    faults: Faults, open_log: OpenLog, count: int, way: Way
) -> None:
    broker, proxy = faults
    log = open_log(broker.servers, broker.topic())
    log.append(numbered(10))
    for n in range(3):
        proxy.cut_after(count, way, PRODUCE)
        assert log.append(numbered(20)) == {0: 30 + 20 * n}
        proxy.wait_for_cut()
    assert numbers(read_on(log, {0: 0})) == [*range(10), *range(20), *range(20), *range(20)]


@pytest.mark.parametrize(("count", "way"), LOST.values(), ids=LOST)
def test_a_broker_that_dies_under_an_append_leaves_it_in_doubt(faults: Faults, open_log: OpenLog, count: int, way: Way) -> None:
    """The second append makes a duplicate if the first one had arrived."""
    broker, proxy = faults
    log = open_log(broker.servers, broker.topic(), timeout=1.0)
    log.append(numbered(3))
    proxy.cut_after(count, way, PRODUCE, die=True)
    with in_time(), pytest.raises(InDoubt, match=r"acknowledged 0 of 5 records within 1 s \(.*append them again") as caught:
        log.append(numbered(5))
    assert isinstance(caught.value, OSError)
    with in_time(), pytest.raises(NoBroker, match=r"no broker at .* \(Connection refused\); start it"):
        log.append(numbered(5))
    proxy.heal()
    end = log.append(numbered(5))[0]
    again = [*range(5)] * (2 if way is TO_CLIENT else 1)
    assert numbers(read_on(log, {0: 0})) == [*range(3), *again]
    assert end == 3 + len(again)


def test_a_call_that_is_refused_in_part_says_what_is_not_there_and_is_not_in_doubt(faults: Faults, open_log: OpenLog) -> None:
    """The broker will refuse the same records each time: to append them again would only repeat the others."""
    broker, proxy = faults
    log = open_log(broker.servers, broker.topic())
    proxy.answer(MESSAGE_TOO_LARGE, larger_than=5_000, times=100)
    big = b"." * 10_000
    says = r"a record of 1000[12] bytes is over the limit .*refused for good: 2 of this append.*do not append them again"
    with in_time(), pytest.raises(PartlyRefused, match=says) as caught:
        log.append([(b"a", b"1"), (b"a", b"2"), (b"a", big), (b"a", b"3"), (b"a", big + b"."), (b"a", b"4")])
    assert caught.value.refused == {2, 4}
    assert caught.value.end == {0: 4}
    assert caught.value.errno == errno.EMSGSIZE
    proxy.heal()
    log.append(numbered(1))
    assert numbers(read_on(log, {0: 0})) == [1, 2, 3, 4, 0]


def test_a_later_batch_that_is_refused_for_another_reason_is_refused_for_good(faults: Faults, open_log: OpenLog) -> None:
    broker, proxy = faults
    log = open_log(broker.servers, broker.topic(), options={"batch_size": 10_000})
    proxy.answer(87, larger_than=5_000, times=100)
    with in_time(), pytest.raises(PartlyRefused, match=r"InvalidRecord.*do not append them again") as caught:
        log.append([(b"a", b"1"), (b"a", b"." * 9_900), (b"a", b"." * 9_900), (b"a", b"2")])
    assert caught.value.refused == {1, 2}
    proxy.heal()
    assert numbers(read_on(log, {0: 0})) == [1, 2]


# ---- a broker that refuses


@pytest.mark.parametrize(
    "code", [3, NOT_LEADER, REQUEST_TIMED_OUT, 19], ids=["no topic", "not leader", "timed out", "replicas"]
)
def test_a_batch_is_sent_again_after_a_temporary_refusal(faults: Faults, open_log: OpenLog, code: int) -> None:
    broker, proxy = faults
    log = open_log(broker.servers, broker.topic())
    refused = proxy.refused
    proxy.answer(code, times=2)
    assert log.append(numbered(5)) == {0: 5}
    assert proxy.refused - refused == 2
    assert numbers(read_on(log, {0: 0})) == [*range(5)]


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (MESSAGE_TOO_LARGE, RecordTooLarge, r"a record of 10006 bytes is over the limit .*max.message.bytes of the topic"),
        (29, NotAllowed, r"appending: not allowed \(TopicAuthorizationFailed.*allow this user to describe, read and write"),
        (87, NotAllowed, r"the broker refuses the records \(InvalidRecord.*cleanup.policy"),
        (32, NotAllowed, r"the broker refuses the records \(InvalidTimestamp.*message.timestamp limits"),
        (NOT_LEADER, InDoubt, r"acknowledged 0 of 1 records within 1 s"),
    ],
)
def test_a_permanent_refusal_is_raised_with_the_remedy(
    faults: Faults, open_log: OpenLog, code: int, kind: type[OSError], says: str
) -> None:
    broker, proxy = faults
    log = open_log(broker.servers, broker.topic(), timeout=1.0)
    proxy.answer(code, times=1000)
    with in_time(), pytest.raises(kind, match=says):
        log.append([(b"user-1", b"x" * 10_000)])
    proxy.heal()
    assert log.append(numbered(2)) == {0: 2}, "nothing was written, and the log goes on"


def test_a_batch_too_large_for_the_broker_goes_in_parts(faults: Faults, open_log: OpenLog) -> None:
    broker, proxy = faults
    log = open_log(broker.servers, broker.topic())
    proxy.answer(MESSAGE_TOO_LARGE, larger_than=10_000, times=1000)
    assert log.append(numbered(20, size=1000)) == {0: 20}
    assert numbers(read_on(log, {0: 0})) == [*range(20)]


# ---- reading


def test_connections_cut_while_reading_lose_and_repeat_nothing(faults: Faults, open_log: OpenLog) -> None:
    broker, proxy = faults
    topic = broker.topic()
    # A broker sends whole batches: small ones make many responses.
    open_log(broker.servers, topic, options={"batch_size": 10_000}).append(numbered(5000, size=200))
    options = {"max_partition_fetch_bytes": 20_000, "fetch_max_bytes": 20_000}
    log = open_log(broker.servers, topic, readonly=True, options=options)
    found = list(log.read({0: 0}, 100))
    counts, cuts = cycle(range(1, 20_000, 1500)), proxy.cuts
    while len(found) < 5000:
        if not proxy.cutting:
            proxy.cut_after(next(counts), TO_CLIENT)
        found += read_through(log, found[-1].offset + 1, found[-1].offset + 2)
    assert proxy.cuts - cuts >= 10
    assert numbers(found) == [*range(5000)]


def test_a_failed_call_of_end_does_not_move_the_reader(faults: Faults, open_log: OpenLog) -> None:
    """A lookup of the end seeks there, also while another thread reads."""
    broker, proxy = faults
    topic = broker.topic()
    log, writer = open_log(broker.servers, topic, timeout=1.0), open_log(broker.servers, topic)
    log.append(numbered(10))
    for _ in range(2):
        writer.append(numbered(10))
    proxy.cut_after(0, TO_CLIENT, FETCH, die=True)
    with in_time(), pytest.raises(NoBroker):
        log.end()
    proxy.heal()
    assert numbers(read_through(log, 0, 30)) == list(range(10)) * 3


@pytest.mark.parametrize("ways", [(TO_BROKER,), (TO_CLIENT,), (TO_BROKER, TO_CLIENT)], ids=["to broker", "to client", "both"])
def test_a_read_raises_when_no_records_arrive_and_recovers_by_itself(
    faults: Faults, open_log: OpenLog, ways: tuple[Way]
) -> None:
    broker, proxy = faults
    topic = broker.topic()
    open_log(broker.servers, topic).append(numbered(2000, size=500))
    options = {"max_partition_fetch_bytes": 20_000, "fetch_max_bytes": 20_000}
    log = open_log(broker.servers, topic, readonly=True, timeout=1.0, patience=0.01, options=options)
    found = read_through(log, 0, 10)
    proxy.stall(*ways)
    with in_time(), pytest.raises(NoBroker, match=r"reading: the broker takes connections but did not answer within 1 s"):
        for _ in tries():
            found += log.read({0: found[-1].offset + 1}, 500)
    proxy.heal()
    found += read_through(log, found[-1].offset + 1, 2000)
    assert numbers(found) == [*range(2000)]


def dies(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.cut()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (dies, r"reading: no broker at .*\(Connection refused\)"),
        (Proxy.stall, r"reading: the broker takes connections but did not answer within 1 s"),
    ],
    ids=["dies", "hangs"],
)
def test_a_broker_that_is_gone_is_noticed_while_there_is_nothing_to_read(
    faults: Faults, open_log: OpenLog, fault: Callable[[Proxy], None], says: str
) -> None:
    broker, proxy = faults
    topic = broker.topic()
    log = open_log(broker.servers, topic, timeout=1.0, patience=0.01, options={"fetch_max_wait_ms": 10})
    log.append(numbered(3))
    assert numbers(read_through(log, 0, 3)) == [0, 1, 2]
    asked = time.monotonic()
    while time.monotonic() < asked + 1.2:
        assert list(log.read({0: 3}, 10)) == [], "a broker with nothing new answers"
        time.sleep(0.01)
    known, gone = log.end_known_at(0), time.time() + 0.3
    fault(proxy)
    with in_time(), pytest.raises(NoBroker, match=says):
        for _ in tries():
            assert list(log.read({0: 3}, 10)) == []
    assert log.end() == {0: 3}, "what was known before, without asking"
    assert known <= log.end_known_at(0) < gone, "it stops at the last response: empty reads without a response do not count"
    proxy.heal()
    open_log(broker.servers, topic).append(numbered(2))
    assert numbers(read_through(log, 3, 5)) == [0, 1]
    assert list(log.read({0: 5}, 10)) == []
    for _ in tries():
        log.read({0: 5}, 10)
        if log.end_known_at(0) > gone:
            break
    assert log.end_known_at(0) > gone


def test_a_pause_of_the_reader_is_not_taken_for_a_silent_broker(faults: Faults, open_log: OpenLog) -> None:
    broker, proxy = faults
    log = open_log(broker.servers, broker.topic(), timeout=1.5, patience=0.01)
    assert list(log.read({0: 0}, 10)) == []
    proxy.stall()
    time.sleep(1.6)
    assert list(log.read({0: 0}, 10)) == []
    proxy.heal()
    for _ in tries():
        assert list(log.read({0: 0}, 10)) == []
        if not log._responses.silent_seconds:
            break
    assert not log._responses.silent_seconds


def test_a_slow_network_is_no_error(faults: Faults, open_log: OpenLog) -> None:
    broker, proxy = faults
    topic = broker.topic()
    proxy.slow(0.05)
    log = open_log(broker.servers, topic, timeout=3.0)
    assert log.append(numbered(500, size=200)) == {0: 500}
    assert numbers(read_through(log, 0, 500)) == [*range(500)]
    assert list(log.read({0: 500}, 10)) == []
    assert log.end() == {0: 500}


def test_a_record_over_the_readers_limits_does_not_block_later_ones(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic(**{"max.message.bytes": "4000000"})
    open_log(broker.servers, topic, options={"max_request_size": 4_000_000}).append(
        [(b"a", b"1"), (b"a", b"x" * 3_000_000), (b"a", b"2")]
    )
    records = read_on(open_log(broker.servers, topic, readonly=True), {0: 0})
    assert [len(record.value) for record in records] == [1, 3_000_000, 1]


def test_a_compression_that_is_not_installed_is_named(
    broker: Broker, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = broker.topic()
    open_log(broker.servers, topic, options={"compression_type": "gzip"}).append(numbered(50))
    log = open_log(broker.servers, topic, readonly=True)
    monkeypatch.setattr("kafka.codec.has_gzip", lambda: False)
    with in_time(), pytest.raises(ValueError, match=r"reading: a compression that is not installed here .*install the Python"):
        log.read({0: 0}, 10)
