"""Tests that only concern Kafka: errors of a remote server, partitions, batches, a broker that hangs, transactions."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from typing import Any

import pytest
from kafka import KafkaProducer

from streams.kafka.log import KafkaLog, NoBroker, NotAllowed, NoTopic
from streams.log import InDoubt, Offsets, RecordTooLarge, key_for_partition, partition_of
from tests.broker import Broker
from tests.streams.kafka.topics import OpenLog, numbered, read_on

# See tests/conftest.py.
pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


# ---- reading and appending


def test_a_reader_that_restarts_continues_at_its_offset(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic()
    open_log(broker.servers, topic).append(numbered(500))
    first = open_log(broker.servers, topic, readonly=True)
    read = list(first.read(first.begin(), 123))
    first.close()
    again = open_log(broker.servers, topic, readonly=True)
    assert (again.begin(), again.end()) == ({0: 0}, {0: 500})
    rest = read_on(again, {0: read[-1].offset + 1})
    assert [record.value for record in read + rest] == [b"%d" % n for n in range(500)]
    assert [record.offset for record in again.read({0: 7}, 3)] == [7, 8, 9], "an offset before the last read"


def test_prefetched_records_of_a_partition_are_read_after_reads_of_another(broker: Broker, open_log: OpenLog) -> None:
    """The client sets them aside while only the other partition is read, and must return them later."""
    topic = broker.topic(2)
    log = open_log(broker.servers, topic, options={"max_poll_records": 10})
    log.append([(key_for_partition(n % 2, 2), b"%d" % n) for n in range(100)])
    reader = open_log(broker.servers, topic, timeout=3.0, options={"max_poll_records": 10}, readonly=True)
    found = list(reader.read({0: 0}, 10))
    found += read_on(reader, {1: 0}, 10)
    found += read_on(reader, {0: 10, 1: 50})
    assert sorted(int(record.value) for record in found) == [*range(100)]


def test_a_users_records_share_a_partition_and_keep_their_order(broker: Broker, open_log: OpenLog) -> None:
    log = open_log(broker.servers, broker.topic(4))
    assert log.partitions == (0, 1, 2, 3)
    for start in range(0, 1000, 90):
        log.append(numbered(1000, users=30)[start : start + 90])
    records = read_on(log, log.begin(), limit=64)
    assert len(records) == 1000
    by_user: dict[bytes, list[int]] = {}
    for record in records:
        assert record.partition == partition_of(record.key, 4)
        by_user.setdefault(record.key, []).append(int(record.value))
    assert all(numbers == sorted(numbers) for numbers in by_user.values())
    assert Counter(record.partition for record in records).keys() == {0, 1, 2, 3}
    assert log.read({2: 0}, 5) == [record for record in records if record.partition == 2][:5]


def test_a_call_is_one_batch_and_a_large_call_several_in_order(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic()
    log = open_log(broker.servers, topic, options={"batch_size": 10_000})
    batches = list(log._sender.chunks(numbered(100, size=400)))
    assert [len(batch) for batch in batches] == [22, 22, 22, 22, 12]
    assert log.append(numbered(100, size=400)) == {0: 100}
    assert [int(record.value.rstrip(b".")) for record in read_on(log, {0: 0}, limit=33)] == list(range(100))
    many = open_log(broker.servers, topic)
    assert len(list(many._sender.chunks(numbered(800, size=1000)))) == 1
    assert many.append(numbered(10_000, size=1000)) == {0: 10_100}
    assert [int(record.value.rstrip(b".")) for record in read_on(many, {0: 100})] == list(range(10_000))


def test_all_records_of_a_call_have_its_time(broker: Broker, open_log: OpenLog) -> None:
    before = time.time()
    log = open_log(broker.servers, broker.topic())
    log.append(numbered(50))
    (timestamp,) = {record.timestamp for record in read_on(log, {0: 0})}
    assert before - 1 < timestamp < time.time() + 1


def test_appends_of_other_logs_are_seen(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic()
    writer, reader = open_log(broker.servers, topic), open_log(broker.servers, topic)
    assert list(reader.read({0: 0}, 10)) == []
    writer.append(numbered(3))
    until = time.monotonic() + 10
    while not (records := reader.read({0: 0}, 10)) and time.monotonic() < until:
        time.sleep(0.01)
    assert [record.value for record in records] == [b"0", b"1", b"2"]
    assert reader.end() == {0: 3}


def test_end_covers_partitions_that_the_last_read_left_out(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic(4)
    open_log(broker.servers, topic).append(numbered(100, users=30))
    log = open_log(broker.servers, topic, readonly=True)
    ends = open_log(broker.servers, topic, readonly=True).end()
    assert all(ends.values())
    log.read({0: 0}, 1)
    assert log.end() == ends


def test_transaction_markers_are_skipped(broker: Broker, open_log: OpenLog) -> None:
    """They take an offset and hold no record: a reader that waits for `end` must not wait for them."""
    topic = broker.topic()
    log = open_log(broker.servers, topic)
    log.append(numbered(2))
    other = KafkaProducer(bootstrap_servers=broker.servers, transactional_id=topic)
    other.init_transactions()
    for n in range(2):
        other.begin_transaction()
        other.send(topic, b"transaction %d" % n, partition=0)
        other.commit_transaction()
    other.close()
    late = open_log(broker.servers, topic)
    records = read_on(late, late.begin())
    assert [record.value for record in records] == [b"0", b"1", b"transaction 0", b"transaction 1"]
    assert [record.offset for record in records] == [0, 1, 2, 4]
    assert late.end() == {0: 5}
    assert log.append(numbered(1)) == {0: 7}
    assert [record.offset for record in read_on(log, {0: 5})] == [6]


def test_a_record_without_key_or_value_has_empty_ones(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic()
    producer = KafkaProducer(bootstrap_servers=broker.servers)
    producer.send(topic, value=b"no key")
    producer.send(topic, key=b"tombstone")
    producer.close()
    log = open_log(broker.servers, topic)
    assert [record[2:4] for record in log.read({0: 0}, 5)] == [(b"", b"no key"), (b"tombstone", b"")]


def test_trimming_is_left_to_the_broker(broker: Broker, open_log: OpenLog) -> None:
    log = open_log(broker.servers, broker.topic())
    log.append(numbered(5))
    log.trim({0: 3})
    assert (log.begin(), log.end()) == ({0: 0}, {0: 5})


def test_a_topic_that_is_created_again_is_another_one(own_broker: Broker, open_log: OpenLog) -> None:
    topic = own_broker.topic()
    first = open_log(own_broker.servers, topic).identity
    assert open_log(f"localhost:{own_broker.servers.split(':')[1]}", topic).identity == first
    own_broker.delete(topic)
    own_broker.topic(name=topic)
    assert open_log(own_broker.servers, topic).identity != first


# ---- errors: each within the timeout, each with topic, servers and remedy


def test_no_broker(open_log: OpenLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        servers = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(NoBroker, match=r"no broker at 127\.0\.0\.1:\d+ \(Connection refused\); start it") as caught:
        open_log(servers, "events", timeout=1.0)
    assert isinstance(caught.value, OSError)
    assert caught.value.filename == f"kafka://{servers}/events"


def test_a_server_that_is_no_broker(open_log: OpenLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NoBroker, match=r"takes connections but did not answer within 1 s.*security_protocol"):
            open_log(servers, "events", timeout=1.0)


def test_a_server_that_says_nothing_to_a_tls_handshake(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would wait for ever, and a service could neither start nor say why."""
    monkeypatch.setattr("streams.kafka.handshakes.HANDSHAKE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NoBroker, match=r"takes connections but did not answer within 1 s.*security_protocol"):
            open_log(servers, "events", timeout=1.0, options={"security_protocol": "SSL"})


def test_an_unknown_topic_is_not_created(broker: Broker, open_log: OpenLog) -> None:
    for _ in range(2):
        with pytest.raises(
            NoTopic, match=r"no topic 'evnets'; create .*: freshet topics create .*kafka-topics.sh .*--topic evnets"
        ):
            open_log(broker.servers, "evnets")


class RefusingBroker:
    """A minimal broker that refuses a password: it knows ApiVersions, SaslHandshake and SaslAuthenticate."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.servers = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as requests:
            while head := requests.read(4):
                key, version, correlation = struct.unpack_from(">hhi", requests.read(*struct.unpack(">i", head)))
                if key == 18:
                    known = ((18, 0, 0), (17, 0, 1), (36, 0, 0), (3, 0, 1))
                    body = struct.pack(">hi", 35 if version else 0, len(known))
                    body += b"".join(struct.pack(">hhh", *one) for one in known)
                elif key == 17:
                    body = struct.pack(">hih", 0, 1, 5) + b"PLAIN"
                else:
                    said = b"Authentication failed: Invalid username or password"
                    body = struct.pack(">hh", 58, len(said)) + said + struct.pack(">i", 0)
                connection.sendall(struct.pack(">ii", 4 + len(body), correlation) + body)


def test_wrong_credentials(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "a secret")
    options = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "someone",
        "sasl_plain_password": "env:KAFKA_PASSWORD",
    }
    refusing = RefusingBroker()
    with pytest.raises(
        NotAllowed, match=r"refuses the credentials \(.*Invalid username or password.*check sasl_mech"
    ) as caught:
        open_log(refusing.servers, "events", options=options, timeout=20.0)
    assert "a secret" not in str(caught.value)
    refusing.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"fetch_max_byte": 5},
            "fetch_max_byte: neither the consumer nor the producer has this option; did you mean fetch_max_bytes?",
        ),
        ({"acks": 1}, "acks: cannot be set, because an append is acknowledged when all in-sync replicas have it; leave it out"),
        ({"group_id": "us"}, r"group_id: cannot be set, because \[stream\] group names it"),
        ({"sasl_plain_password": "secret"}, 'sasl_plain_password: a secret does not belong in a config; .* = "env:NAME'),
        ({"ssl_password": "secret"}, "ssl_password: a secret does not belong in a config"),
        ({"proxy_url": "socks5://me:secret@proxy"}, "proxy_url: a secret does not belong in a config"),
        (
            {"sasl_plain_password": "env:NOT_SET_ANYWHERE"},
            "sasl_plain_password: the environment has no variable 'NOT_SET_ANYWHERE'",
        ),
        ({"compression_type": "zip"}, "the client refuses the options .*zip"),
        ({"security_protocol": "TLS"}, "security_protocol: 'TLS' is none of PLAINTEXT, SSL"),
    ],
)
def test_options_are_checked_by_name(broker: Broker, open_log: OpenLog, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        open_log(broker.servers, broker.topic(), options=options)
    assert "secret@" not in str(caught.value)
    assert "'secret'" not in str(caught.value)


def test_options_reach_the_client_that_takes_them(broker: Broker, open_log: OpenLog) -> None:
    options = {"max_poll_records": 7, "compression_type": "gzip", "client_id": "shop", "request_timeout_ms": 2500}
    log = open_log(broker.servers, broker.topic(), options=options)
    settings = log._settings
    assert (settings.consumer["max_poll_records"], settings.producer["compression_type"]) == (7, "gzip")
    assert {one["request_timeout_ms"] for one in (settings.consumer, settings.producer, settings.admin)} == {2500}
    log.append(numbered(100))
    assert len(read_on(log, {0: 0})) == 100


def test_a_record_over_the_limit_is_refused_and_nothing_is_written(broker: Broker, open_log: OpenLog) -> None:
    log = open_log(broker.servers, broker.topic())
    with pytest.raises(RecordTooLarge, match=r"a record of 2000001 bytes is over the limit of 1048576 here.*max_request_size"):
        log.append([(b"a", b"1"), (b"b", b"x" * 2_000_000), (b"c", b"3")])
    assert log.end() == {0: 0}
    assert log.append([(b"a", b"x" * 1_000_000), (b"b", b"2")]) == {0: 2}


def test_a_readonly_or_closed_log_refuses_calls(broker: Broker, open_log: OpenLog) -> None:
    log = open_log(broker.servers, broker.topic(), readonly=True)
    with pytest.raises(PermissionError, match="opened with readonly"):
        log.append(numbered(1))
    log.close()
    log.close()
    for call in (log.begin, log.end, lambda: log.read({0: 0}, 1)):
        with pytest.raises(ValueError, match="the log is closed; open it again"):
            call()


def test_a_client_that_fails_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with pytest.raises(NoBroker):
        KafkaLog("127.0.0.1:1", "events", timeout=0.5)

    assert capfd.readouterr() == ("", "")
    assert threading.active_count() == before, "nor does it leave threads"


# ---- a broker that hangs


def test_an_append_without_an_acknowledgement_is_in_doubt(own_broker: Broker, open_log: OpenLog) -> None:
    """The guarantee: an error in time; the batch is written whole or not at all; a second append writes it."""
    log = open_log(own_broker.servers, own_broker.topic(), timeout=1.0)
    log.append(numbered(10))
    started = time.monotonic()
    with (
        own_broker.stopped(),
        pytest.raises(InDoubt, match=r"acknowledged 0 of 5 records within 1 s.*append them again") as caught,
    ):
        log.append(numbered(5))
    assert time.monotonic() - started < 5
    assert isinstance(caught.value, OSError)
    assert caught.value.filename == log.name
    with own_broker.stopped(), pytest.raises(NoBroker, match="did not answer within 1 s"):
        log.append(numbered(5))
    end = log.append(numbered(5))[0]
    values = [int(record.value) for record in read_on(log, {0: 0})]
    assert end == len(values)
    assert values in ([*range(10), *range(5)], [*range(10), *range(5), *range(5)])


def test_a_retry_of_the_client_is_written_once(own_broker: Broker, open_log: OpenLog) -> None:
    """The broker pauses longer than the request timeout, and shorter than the append timeout."""
    log = open_log(own_broker.servers, own_broker.topic(), timeout=5.0, options={"request_timeout_ms": 500})
    log.append(numbered(1))
    with own_broker.stopped():
        appended: list[Offsets] = []
        thread = threading.Thread(target=lambda: appended.append(log.append(numbered(20))))
        thread.start()
        time.sleep(1.2)
    thread.join()
    assert [int(record.value) for record in read_on(log, {0: 0})] == [0, *range(20)]
    assert appended == [{0: 21}]


def test_a_read_waits_no_longer_than_its_patience(own_broker: Broker, open_log: OpenLog) -> None:
    topic = own_broker.topic()
    open_log(own_broker.servers, topic).append(numbered(5000, size=1000))
    options = {"max_partition_fetch_bytes": 100_000, "fetch_max_bytes": 100_000}
    strict = open_log(own_broker.servers, topic, timeout=1.0, options=options)
    patient = open_log(own_broker.servers, topic, timeout=1.0, patience=0.01, options=options)
    at = [log.read({0: 0}, 10)[-1].offset + 1 for log in (strict, patient)]
    with own_broker.stopped():
        started = time.monotonic()
        with pytest.raises(NoBroker, match="records that exist do not arrive"):
            for _ in range(100):
                at[0] = strict.read({0: at[0]}, 1000)[-1].offset + 1
        assert 0.9 < time.monotonic() - started < 5
        with pytest.raises(NoBroker):
            strict.read({0: at[0]}, 1000)
        waits = []
        with pytest.raises(NoBroker):
            while True:
                asked = time.monotonic()
                records = patient.read({0: at[1]}, 1000)
                waits.append(time.monotonic() - asked)
                at[1] = records[-1].offset + 1 if records else at[1]
        assert len(waits) > 20
    for log, offset in zip((strict, patient), at, strict=True):
        until = time.monotonic() + 20
        while offset < 5000 and time.monotonic() < until:
            try:
                records = log.read({0: offset}, 1000)
            except NoBroker:
                time.sleep(0.05)
                continue
            offset = records[-1].offset + 1 if records else offset
        assert offset == 5000
