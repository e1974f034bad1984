"""The service, while an operator deletes records, adds partitions or makes the topic again. The small broker has none of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition

from service.config import Config
from service.process.runtime import Runtime, open_runtime
from streams.codec import encode
from streams.events import Interaction
from streams.kafka.log import KafkaLog
from streams.log import key_for_partition
from tests.broker import GIVEN, Broker
from tests.service.on_topic import on

MakeConfig = Callable[..., Config]

# See tests/conftest.py.
pytestmark = [
    pytest.mark.usefixtures("tidy"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(GIVEN not in os.environ, reason=f"{GIVEN} names no broker such as Apache Kafka's"),
]


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def click(number: int) -> bytes:
    return encode(Interaction(user="u1", item="i1", id=f"c{number}", timestamp=time.time()))


def learned(runtime: Runtime) -> int:
    return int(runtime.updater.gauges()["joiner"].get("interactions", 0))


def learns(runtime: Runtime, count: int) -> None:
    """Wait until so many interactions have been learned, at least the first batch of them."""
    until(lambda: learned(runtime) == count and runtime.pipeline.version)


def clicks(runtime: Runtime, numbers: range, partition: int = 0) -> None:
    key = key_for_partition(partition, len(runtime.log.end()))
    runtime.log.append([(key, click(number)) for number in numbers])


def test_deleted_records_are_reported_and_learning_goes_on(broker: Broker, tmp_path: Path, make_config: MakeConfig) -> None:
    topic = broker.topic()
    config = make_config(**on(broker, topic, tmp_path), server={"flush": 0.02})
    with open_runtime(config) as runtime:
        clicks(runtime, range(10))
        learns(runtime, 10)
    version = runtime.pipeline.version
    log = KafkaLog(broker.servers, topic)
    end = log.append([(b"u1", click(number)) for number in range(10, 20)])[0]
    log.close()
    admin = KafkaAdminClient(bootstrap_servers=broker.servers)
    admin.delete_records({TopicPartition(topic, 0): end - 4})
    admin.close()
    with open_runtime(config) as runtime:
        learns(runtime, 4)
        assert runtime.engine.failure is None
        until(lambda: runtime.pipeline.version > version)
        assert any("6 were never learned" in notice for notice in runtime.updater.notices)
        assert runtime.updater.gauges()["failures"]["records_missing"] >= 6


def test_added_partitions_are_read_after_a_restart(broker: Broker, tmp_path: Path, make_config: MakeConfig) -> None:
    topic = broker.topic(2)
    config = make_config(**on(broker, topic, tmp_path), server={"flush": 0.02})
    with open_runtime(config) as runtime:
        for partition in (0, 1):
            clicks(runtime, range(10 * partition, 10 * partition + 10), partition)
        learns(runtime, 20)
        admin = KafkaAdminClient(bootstrap_servers=broker.servers)
        admin.create_partitions({topic: 3})
        admin.close()
        clicks(runtime, range(20, 30), 1)
        learns(runtime, 30)
        assert runtime.updater.next.keys() == {0, 1}
    version = runtime.pipeline.version
    with open_runtime(config) as runtime:
        assert runtime.log.end().keys() == {0, 1, 2}
        for partition in range(3):
            clicks(runtime, range(30 + 10 * partition, 40 + 10 * partition), partition)
        learns(runtime, 30)
        assert runtime.engine.failure is None
        until(lambda: runtime.pipeline.version > version)


def test_a_topic_that_is_made_again_under_a_running_service_ends_it(
    broker: Broker, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.process.logs.TIMEOUT", 5.0)
    topic = broker.topic()
    config = make_config(**on(broker, topic, tmp_path), server={"flush": 0.02})
    runtime = open_runtime(config)
    runtime.start()
    clicks(runtime, range(10))
    learns(runtime, 10)
    broker.delete(topic)
    until(lambda: runtime.log._identity_check.doubtful)  # type: ignore[attr-defined]
    broker.topic(name=topic)
    until(lambda: runtime.engine.failure is not None)
    assert isinstance(runtime.engine.failure, LookupError)
    assert "was deleted and created again" in str(runtime.engine.failure)
    runtime.stop()
    with open_runtime(config) as runtime:
        clicks(runtime, range(5))
        learns(runtime, 5)
        assert "log: the checkpoint is of log" in runtime.updater.notices[0]
