"""What other programs and operators do to a topic of Apache Kafka. The small broker of the tests has none of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from streams.kafka.log import NoBroker, NoTopic
from streams.log import Record
from tests.broker import GIVEN, Broker
from tests.streams.kafka.topics import OpenLog, numbered, read_on

# See tests/conftest.py.
pytestmark = [
    pytest.mark.usefixtures("tidy"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(GIVEN not in os.environ, reason=f"{GIVEN} names no broker such as Apache Kafka's"),
]

IN_TIME = 60.0


@contextmanager
def transactions(broker: Broker, topic: str) -> Iterator[KafkaProducer]:
    """Have another producer, with transactions."""
    producer = KafkaProducer(bootstrap_servers=broker.servers, transactional_id=topic)
    producer.init_transactions()
    yield producer
    producer.close()


@contextmanager
def operator(broker: Broker) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=broker.servers)
    yield admin
    admin.close()


def send(producer: KafkaProducer, topic: str, value: bytes) -> None:
    producer.begin_transaction()
    producer.send(topic, value, partition=0)
    producer.flush()


def values(records: list[Record]) -> list[bytes]:
    return [record.value for record in records]


def until(true: Callable[[], object]) -> None:
    limit = time.monotonic() + IN_TIME
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_aborted_transactions_of_others_are_left_out_where_asked_for(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic()
    with transactions(broker, topic) as other:
        for n in range(10):
            send(other, topic, b"%d" % n)
            if n % 3:
                other.commit_transaction()
            else:
                other.abort_transaction()
    everything = open_log(broker.servers, topic, readonly=True)
    committed = open_log(broker.servers, topic, readonly=True, options={"isolation_level": "read_committed"})
    assert values(read_on(everything, {0: 0})) == [b"%d" % n for n in range(10)]
    assert values(read_on(committed, {0: 0})) == [b"%d" % n for n in range(10) if n % 3]


def test_a_transaction_that_is_not_over_is_no_broker_that_hangs(broker: Broker, open_log: OpenLog) -> None:
    """What is behind it cannot be read yet, which is no reason to say that the broker does not answer."""
    topic = broker.topic()
    writer = open_log(broker.servers, topic)
    writer.append([(b"", b"before")])
    options = {"isolation_level": "read_committed"}
    reader = open_log(broker.servers, topic, timeout=1.0, patience=0.01, options=options)
    found: list[Record] = []

    def read() -> int:
        found.extend(reader.read({0: found[-1].offset + 1 if found else 0}, 10))
        return len(found)

    with transactions(broker, topic) as other:
        send(other, topic, b"inside")
        assert writer.append([(b"", b"behind")]) == {0: 3}
        assert reader.append([(b"", b"its own")]) == {0: 4}
        began = time.monotonic()
        while time.monotonic() < began + 2.5:
            read()
            time.sleep(0.01)
        assert values(found) == [b"before"]
        assert reader.end() == {0: 1}, "nothing that could be read is missing"
        other.commit_transaction()
        until(lambda: read() == 4)
    assert values(found) == [b"before", b"inside", b"behind", b"its own"]


def test_deleted_records_are_gone_and_the_others_are_where_they_were(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic()
    log = open_log(broker.servers, topic)
    log.append(numbered(20))
    with operator(broker) as admin:
        admin.delete_records({TopicPartition(topic, 0): 12})
        late = open_log(broker.servers, topic, readonly=True)
        assert (late.begin(), late.end()) == ({0: 12}, {0: 20})
        with pytest.raises(LookupError, match="partition 0 keeps offsets 12 to 20, not 5; older records were trimmed"):
            late.read({0: 5}, 10)
        assert values(read_on(late, {0: 12})) == [b"%d" % n for n in range(12, 20)]
        admin.delete_records({TopicPartition(topic, 0): 20})
        assert (log.begin(), log.append(numbered(1))) == ({0: 20}, {0: 21})


def test_an_open_log_goes_on_with_the_partitions_that_it_knows(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic(2)
    log = open_log(broker.servers, topic)
    log.append(numbered(20, users=20))
    with operator(broker) as admin:
        admin.create_partitions({topic: 4})
    until(lambda: open_log(broker.servers, topic, readonly=True).partitions == (0, 1, 2, 3))
    end = log.append(numbered(20, users=20))
    assert sum(end.values()) == 40
    assert len(read_on(log, {0: 0, 1: 0})) == 40
    assert open_log(broker.servers, topic, readonly=True).end() == end | {2: 0, 3: 0}


def test_the_time_of_a_record_can_be_the_brokers(broker: Broker, open_log: OpenLog) -> None:
    topic = broker.topic(**{"message.timestamp.type": "LogAppendTime"})
    producer = KafkaProducer(bootstrap_servers=broker.servers)
    producer.send(topic, b"from 1970", timestamp_ms=1000)
    producer.close()
    log = open_log(broker.servers, topic)
    log.append(numbered(1))
    for record in read_on(log, {0: 0}):
        assert abs(time.time() - record.timestamp) < 60


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made again"])
def test_a_reader_of_a_topic_that_is_gone_says_so(broker: Broker, open_log: OpenLog, again: bool) -> None:
    """It must neither wait for ever nor take the records of another topic for the next ones."""
    topic = broker.topic()
    log = open_log(broker.servers, topic, timeout=5.0, patience=0.01)
    log.append(numbered(20))
    until(lambda: len(log.read({0: 0}, 100)) == 20)
    error: Exception | None = None

    def told() -> bool:
        nonlocal error
        try:
            assert list(log.read({0: 20}, 10)) == []
        except NoBroker:
            return False
        except (LookupError, NoTopic) as caught:
            error = caught
        return error is not None

    broker.delete(topic)
    until(lambda: told() or log._identity_check.doubtful)
    if again:
        broker.topic(name=topic)
        open_log(broker.servers, topic).append(numbered(50))
    until(told)
    assert isinstance(error, LookupError if again else NoTopic)
    assert ("was deleted and created again" if again else "there is no topic") in str(error)
