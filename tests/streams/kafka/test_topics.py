"""Topics of a cluster are created as requested, described as the broker reports them, and never changed."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import errors

from streams.kafka.log import KafkaLog, NoBroker, NotAllowed
from streams.kafka.topics import TopicDescription, TopicRefused, Topics
from tests.broker import Broker

# A client that gives up in the middle of connecting leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def leave_no_socket() -> Iterator[None]:
    yield
    gc.collect()


SETTINGS = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "retention.ms": "604800000"}


@pytest.fixture
def topics(broker: Broker) -> Iterator[Topics]:
    with Topics(broker.servers) as opened:
        yield opened


@pytest.fixture
def name(broker: Broker) -> str:
    """A name that no topic has."""
    made = broker.topic()
    broker.delete(made)
    return made


def test_a_topic_is_made_as_asked_and_found_again(topics: Topics, name: str, broker: Broker) -> None:
    assert topics.find([name]) == {}
    topics.create(name, 3, 1, SETTINGS)
    found = topics.find([name])[name]
    assert (found.partitions, found.replication) == (3, 1)
    # A broker reports its defaults too; the one of the tests reports only what it was given.
    assert found.settings.items() >= SETTINGS.items()
    log = KafkaLog(broker.servers, name)
    assert log.partitions == (0, 1, 2)
    log.append([(b"user", b"event")])
    log.close()


def test_find_creates_nothing(topics: Topics, name: str) -> None:
    for _ in range(2):
        assert topics.find([name, name + "-too"]) == {}


def test_an_existing_topic_is_not_changed(topics: Topics, name: str) -> None:
    topics.create(name, 2, 1, SETTINGS)
    topics.create(name, 5, 1, SETTINGS | {"cleanup.policy": "compact"})
    found = topics.find([name])[name]
    assert found.partitions == 2
    assert found.settings["cleanup.policy"] == "delete"


def test_a_setting_that_the_broker_does_not_report_is_missing(topics: Topics, broker: Broker) -> None:
    bare = broker.topic()
    found = topics.find([bare])[bare]
    assert isinstance(found, TopicDescription)
    assert "no.such.setting" not in found.settings


def test_brokers_are_counted(topics: Topics) -> None:
    assert topics.brokers() >= 1


def test_the_largest_request_is_that_of_the_options(broker: Broker, topics: Topics) -> None:
    assert topics.largest == 1 << 20
    with Topics(broker.servers, {"max_request_size": 5_000_000}) as wider:
        assert wider.largest == 5_000_000


def test_options_are_checked_by_name(broker: Broker) -> None:
    with pytest.raises(ValueError, match=r"fetch_max_byte: .*did you mean fetch_max_bytes"):
        Topics(broker.servers, {"fetch_max_byte": 1})


class Refusing:
    """An admin client whose cluster refuses every topic. The broker of the tests accepts every topic."""

    def __init__(self, error: str, words: str) -> None:
        self.answer = {"error_code": getattr(errors, error).errno, "error_message": words}

    def create_topics(self, topics: object, timeout_ms: int, raise_errors: bool) -> dict[str, Any]:
        return {"topics": [self.answer]}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            "InvalidReplicationFactorError",
            TopicRefused,
            "refuses the topic 'events' .*1 registered.*no more replicas than there",
        ),
        ("InvalidConfigurationError", TopicRefused, "refuses the topic 'events' .*does not know one of the settings"),
        ("PolicyViolationError", TopicRefused, "refuses the topic 'events' .*ask its operator"),
        ("TopicAuthorizationFailedError", NotAllowed, "allow this user to describe and create the topic 'events'"),
        ("RequestTimedOutError", NoBroker, "creating: the broker takes connections but did not answer"),
    ],
)
def test_a_refusal_holds_the_brokers_message(broker: Broker, error: str, kind: type[OSError], says: str) -> None:
    topics = Topics(broker.servers)
    topics._admin.close()
    topics._admin = Refusing(error, "1 registered")
    with pytest.raises(kind, match=says):
        topics.create("events", 1, 3, SETTINGS)


def test_no_broker_is_named_and_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with pytest.raises(NoBroker, match=r"no broker at 127\.0\.0\.1:1 \(Connection refused\); start it"):
        Topics("127.0.0.1:1", timeout=0.5)
    assert capfd.readouterr() == ("", "")
    assert threading.active_count() == before


def test_a_broker_that_hangs_is_named_in_time(own_broker: Broker) -> None:
    with Topics(own_broker.servers, timeout=1.0) as topics, own_broker.stopped():
        time.sleep(0.1)  # a signal takes a moment
        for call in (
            lambda: topics.find(["events"]),
            topics.brokers,
            lambda: topics.create("events", 1, 1, SETTINGS),
            lambda: Topics(own_broker.servers, timeout=1.0),
        ):
            asked = time.monotonic()
            with pytest.raises(NoBroker, match="did not answer within 1 s"):
                call()
            assert time.monotonic() - asked < 5, "the client's own timeout is 10 s and more"
