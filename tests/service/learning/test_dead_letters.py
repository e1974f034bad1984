"""Where a service keeps records that it cannot use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.config import Config, ConfigError
from service.process.logs import open_dead_letters
from service.process.runtime import open_runtime
from streams.dead_letters import DeadLetter
from streams.kafka.log import KafkaLog, NoTopic
from streams.lmdb_log import LmdbLog
from tests.broker import Broker
from tests.service.running import click, serving

MakeConfig = Callable[..., Config]

# See tests/streams/kafka/test_log.py.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def fields_of(letter: DeadLetter) -> tuple[str, str, int, bytes]:
    return letter.kind, letter.source, letter.offset, letter.value


def copies(broker: Broker, topic: str) -> list[tuple[str, str, int, bytes]]:
    """All dead letters in a topic."""
    log = KafkaLog(broker.servers, topic, readonly=True)
    letters = [msgspec.json.decode(record.value, type=DeadLetter) for record in log.read(log.begin(), 1_000)]
    log.close()
    return [fields_of(letter) for letter in letters]


async def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)


async def test_letters_go_to_a_topic_once_and_a_broker_that_hangs_holds_up_nobody(
    own_broker: Broker, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.process.logs.TIMEOUT", 1.0)
    topic = own_broker.topic()
    to = {"url": f"kafka://{own_broker.servers}/{topic}"}
    config = make_config(tmp_path / "data", dead_letters=to, server={"flush": 0.001})
    expected = []
    for life in range(2):
        async with serving(config) as service:
            with own_broker.stopped():
                service.runtime.log.append([(b"", b"no json")])
                expected.append(("not_json", "log", service.runtime.log.end()[0] - 1, b"no json"))
                service.runtime.engine.wake()
                await until(lambda: service.runtime.dead.counts["not_json"] == 1)
                assert (await service.post("/v1/events", {"type": str(life)})).status_code == 422
                expected.append(("not_an_event", "http", -1, b'{"type":"%d"}' % life))
                if life == 0:
                    await until(lambda: service.runtime.dead.gauges()["failures"]["dead_letter_copy"] >= 1)
                assert (await service.post("/v1/events", click("u", "a"))).status_code == 202
                await service.learned()
                assert (await service.recommend("u", repeat=True))["items"]
            assert [fields_of(letter) for letter in service.letters()] == expected
            text = (await service.send("GET", "/metrics")).text
            assert 'freshet_dead_total{reason="not_json"} 1.0' in text
            assert 'freshet_failures_total{what="dead_letter"} 0.0' in text
            if life == 1:
                await until(lambda: set(copies(own_broker, topic)) == set(expected))
    copied = copies(own_broker, topic)
    # A broker that hangs during a write can store the letter twice.
    assert list(dict.fromkeys(copied)) == expected


async def test_who_has_no_folder_sends_letters_all_the_same(broker: Broker, make_config: MakeConfig) -> None:
    topic = broker.topic()
    async with serving(make_config(dead_letters={"url": f"kafka://{broker.servers}/{topic}"})) as service:
        await service.post("/v1/events", {"type": "nonsense"})
        await until(lambda: copies(broker, topic) == [("not_an_event", "http", -1, b'{"type":"nonsense"}')])


async def test_letters_can_have_a_folder_that_several_processes_share(tmp_path: Path, make_config: MakeConfig) -> None:
    to = {"url": f"lmdb://{tmp_path}/shared"}
    for name in ("one", "other"):
        async with serving(make_config(tmp_path / name, dead_letters=to)) as service:
            await service.post("/v1/events", {"type": name})
    log = LmdbLog(tmp_path / "shared" / "dead", readonly=True)
    values = [msgspec.json.decode(record.value, type=DeadLetter).value for record in log.read({0: 0}, 10)]
    log.close()
    assert values == [b'{"type":"one"}', b'{"type":"other"}']
    assert not (tmp_path / "one" / "dead").exists()


def test_a_broker_that_is_away_at_the_start_is_no_error(
    own_broker: Broker, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.process.logs.TIMEOUT", 0.5)
    topic = own_broker.topic()
    config = make_config(dead_letters={"url": f"kafka://{own_broker.servers}/{topic}"})
    with own_broker.stopped():
        dead = open_dead_letters(config, tmp_path)
    dead.put("kind", "reason", b"value")
    limit = time.monotonic() + 60
    while copies(own_broker, topic) != [("kind", "", -1, b"value")]:
        assert time.monotonic() < limit
    dead.close()


@pytest.mark.parametrize(
    ("section", "error", "says"),
    [
        ({"url": "file:letters"}, ConfigError, r"\[dead_letters\] url = 'file:letters': give lmdb:///folder or kafka://"),
        ({"url": "kafka://{servers}"}, ConfigError, r"\[dead_letters\] url = .*: write kafka://host:port/topic"),
        ({"url": "kafka://{servers}/{topic}", "options": {"ack": 1}}, ConfigError, r"\[dead_letters.options\] ack: "),
        ({"url": "lmdb://{folder}/letters", "options": {"sink": 1}}, ConfigError, r"\[dead_letters.options\] .*'sink'"),
        ({"url": "kafka://{servers}/nowhere"}, NoTopic, "there is no topic 'nowhere'"),
    ],
)
def test_mistakes_are_refused_by_name(
    section: dict[str, Any], error: type[Exception], says: str, broker: Broker, tmp_path: Path, make_config: MakeConfig
) -> None:
    url = section["url"].format(servers=broker.servers, topic=broker.topic(), folder=tmp_path)
    with pytest.raises(error, match=says):
        open_runtime(make_config(tmp_path / "data", dead_letters=section | {"url": url}))
    open_runtime(make_config(tmp_path / "data")).stop()


def test_the_fingerprint_does_not_follow_where_letters_go(make_config: MakeConfig) -> None:
    assert make_config(dead_letters={"url": "kafka://broker:9092/dead"}).fingerprint == make_config().fingerprint
