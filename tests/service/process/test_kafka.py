"""The service on a Kafka topic: learned once whatever is killed, rankings while the broker hangs, and what is refused."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service import config as configs
from service.config import Config, ConfigError
from service.evaluation.replay import replay
from service.process.runtime import Runtime, open_runtime
from streams.codec import decode, encode
from streams.events import Event, Interaction, Tick
from streams.kafka.log import KafkaLog
from streams.log import Record
from tests.broker import Broker
from tests.service.on_topic import on, running, until
from tests.service.processes import DEADLINE, JSON, serving, settle
from tests.worlds import SMALL, busy_world

MakeConfig = Callable[..., Config]

# See tests/conftest.py.
pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


def topic_of(broker: Broker, topic: str) -> list[Record]:
    log = KafkaLog(broker.servers, topic, readonly=True)
    found: list[Record] = []
    offsets = log.begin()
    while read := log.read(offsets, 10_000):
        found += read
        offsets = {0: read[-1].offset + 1}
    log.close()
    return found


CONFIG = """
[stream]
url = "kafka://{servers}/{topic}"
window = 0.2
lateness = 20.0
batch_rows = 16
[stream.options]
fetch_max_wait_ms = 10
[checkpoint]
folder = "{folder}"
every = 0.05
"""


def test_killed_again_and_again_it_learns_every_event_once(broker: Broker, tmp_path: Path) -> None:
    topic, config = broker.topic(), tmp_path / "service.toml"
    config.write_text(CONFIG.format(servers=broker.servers, topic=topic, folder=tmp_path / "state") + SMALL)
    events = [event for event in busy_world(seed=3, length=200) if not isinstance(event, Interaction) or event.id]
    bodies = [msgspec.json.encode(events[start : start + 20]) for start in range(0, len(events), 20)]
    fatal, sent, versions = [len(bodies) // 3, 2 * len(bodies) // 3], 0, [0]
    unlearned = None
    while sent < len(bodies):
        with serving(config, tmp_path) as process, httpx.Client(base_url=process.url, timeout=DEADLINE) as client:
            versions.append(client.get("/v1/status").json()["version"])
            # Not logged, and items without a click are learned soon: otherwise every item would look liked.
            ask = {"user": "u1", "items": ["i1", "i8"], "log": False}
            unlearned = unlearned or client.post("/v1/rank", json=ask).json()
            try:
                while sent < len(bodies):
                    if sent in fatal:
                        fatal.remove(sent)
                        threading.Timer(0.01, process.process.kill).start()
                    client.post("/v1/events", content=bodies[sent], headers=JSON).raise_for_status()
                    sent += 1
                    time.sleep(0.02)
                status = settle(client)
                learned = client.post("/v1/rank", json=ask).json()
                status = settle(client)
            except httpx.TransportError:
                assert process.process.wait(DEADLINE) == -signal.SIGKILL
    assert len(versions) >= 3, "a new life after each kill"
    assert versions[-1] > 0, "it went on from a checkpoint, not from nothing"

    kept: list[Event] = [decode(record.value) for record in topic_of(broker, topic)]
    assert {e.id for e in kept if isinstance(e, Interaction)} == {e.id for e in events if isinstance(e, Interaction)}
    assert {item["item"]: item["score"] for item in learned["items"]} != {
        item["item"]: item["score"] for item in unlearned["items"]
    }
    assert [item["item"] for item in learned["items"]] == ["i1", "i8"], "u1 belongs to the tribe that likes i1"
    done = replay(configs.load(config))
    assert done.digest == status["digest"]


async def learned(runtime: Runtime) -> str:
    """Digest once everything has been learned, ticks included."""
    seen: tuple[int, str] | None = None
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        lag, pending, now, digest = runtime.engine.call(
            lambda: (runtime.updater.lag(), runtime.updater.reader.pending, runtime.updater.next, runtime.updater.digest())
        ).result()
        if lag == 0 and not pending and seen == (now, digest):
            return digest
        seen = now, digest
        await asyncio.sleep(0.2)
    raise AssertionError("the service never came to rest")


@pytest.mark.anyio
async def test_rankings_go_on_while_the_broker_hangs(
    own_broker: Broker, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.process.logs.TIMEOUT", 1.0)
    topic = own_broker.topic()
    config = make_config(**on(own_broker, topic, tmp_path), server={"flush": 0.05})
    click = {"type": "interaction", "id": "c1", "user": "u1", "item": "i1"}
    async with running(config) as (runtime, client):
        assert (await client.post("/v1/events", json=click)).status_code == 202
        await until(lambda: runtime.pipeline.version > 0)
        version = runtime.pipeline.version
        with own_broker.stopped():
            refused = await client.post("/v1/events", json=click | {"id": "c2"})
            assert refused.status_code == 503
            assert "Retry-After" in refused.headers
            assert "may be in the topic or not; append them again" in refused.text
            slowest = 0.0
            for _ in range(20):
                asked = time.monotonic()
                answer = await client.post("/v1/rank", json={"user": "u1", "items": ["i1", "i2"]})
                slowest = max(slowest, time.monotonic() - asked)
                assert answer.status_code == 200
            assert slowest < 0.9, "no request waits for the broker, whose timeout is one second"
        for _ in range(2):
            # The second of these is the same event, sent again.
            assert (await client.post("/v1/events", json=click | {"id": "c2"})).status_code == 202
        await until(lambda: runtime.updater.reader.counts["duplicates"] >= 1 and runtime.pipeline.version > version)
        ranked = {"type": "impression", "request_id": "r", "user": "u1", "items": ["i1"], "features": "AAAA" * 500_000}
        large = await client.post("/v1/events", json=ranked)
        assert large.status_code == 413
        assert "max_request_size" in large.text
        digest = await learned(runtime)
    assert replay(config).digest == digest


def test_bad_records_become_dead_letters_with_their_offset(broker: Broker, tmp_path: Path, make_config: MakeConfig) -> None:
    topic = broker.topic()
    config = make_config(**on(broker, topic, tmp_path))
    log = KafkaLog(broker.servers, topic)
    log.append([(b"", b"no json"), (b"", b'{"type": "item"}'), (b"u1", encode(Interaction(user="u1", item="i1", id="c1")))])
    log.append([(b"", encode(Tick(timestamp=time.time())))])
    log.close()
    for _ in range(2):
        with open_runtime(config) as runtime:
            limit = time.monotonic() + 20
            while runtime.pipeline.version < 1 and time.monotonic() < limit:
                time.sleep(0.02)
            letters = [(letter.kind, letter.partition, letter.offset, letter.source) for letter in runtime.dead.read()]
        url = f"kafka://{broker.servers}/{topic}"
        assert letters == [("not_json", 0, 0, url), ("not_an_event", 0, 1, url)]
    assert (tmp_path / "dead" / "data.mdb").exists()


def test_transactions_of_others_do_not_keep_it_from_being_ready(
    broker: Broker, tmp_path: Path, make_config: MakeConfig
) -> None:
    from kafka import KafkaProducer

    topic = broker.topic()
    other = KafkaProducer(bootstrap_servers=broker.servers, transactional_id=topic)
    other.init_transactions()
    for n in range(3):
        other.begin_transaction()
        other.send(topic, encode(Interaction(user="u1", item="i1", id=f"c{n}", timestamp=time.time())), partition=0)
        other.commit_transaction()
    other.close()
    config = make_config(**on(broker, topic, tmp_path), server={"flush": 0.02})
    for _ in range(2):
        with open_runtime(config) as runtime:
            limit = time.monotonic() + 20
            while not (runtime.updater.caught_up and runtime.pipeline.version) and time.monotonic() < limit:
                time.sleep(0.02)
            assert runtime.engine.failure is None
            assert runtime.updater.caught_up
            digest = asyncio.run(learned(runtime))
    assert replay(config).digest == digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"url": "kafka://{servers}"}, r"\[stream\] url = .*: write kafka://host:port/topic"),
        ({"url": "kafka://{servers}/a/b"}, r"\[stream\] url = .*: write kafka://host:port/topic"),
        ({"url": "kafka://me:secret@{servers}/a"}, r"\[stream\] url: credentials do not belong in it; see sasl_plain_username"),
        ({"options": {"fetch_min_byte": 1}}, r"\[stream.options\] fetch_min_byte: .*did you mean fetch_min_bytes"),
        ({"options": {"sasl_plain_password": "secret"}}, r"\[stream.options\] sasl_plain_password: a secret does not belong"),
        ({"retain": 5}, r"\[stream\] retain = 5: a topic keeps what its retention.ms"),
    ],
)
def test_configs_are_refused_by_name(
    change: dict[str, Any], says: str, broker: Broker, tmp_path: Path, make_config: MakeConfig
) -> None:
    if "url" in change:
        change = {"url": change["url"].format(servers=broker.servers)}
    with pytest.raises(ConfigError, match=says) as caught:
        open_runtime(make_config(**on(broker, broker.topic(), tmp_path, **change)))
    assert "secret@" not in str(caught.value)
    open_runtime(make_config(**on(broker, broker.topic(), tmp_path))).stop()


def test_a_topic_needs_a_folder(broker: Broker, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"\[checkpoint\] folder: missing; with a Kafka topic, name a folder"):
        open_runtime(make_config(**on(broker, broker.topic(), None)))


def test_a_folder_belongs_to_one_topic(broker: Broker, tmp_path: Path, make_config: MakeConfig) -> None:
    first, second = broker.topic(), broker.topic()
    open_runtime(make_config(**on(broker, first, tmp_path))).stop()
    with pytest.raises(ConfigError, match=f"its checkpoints belong to the topic '{first} .*', and this one is '{second} "):
        open_runtime(make_config(**on(broker, second, tmp_path)))
    open_runtime(make_config(**on(broker, first, tmp_path))).stop()


def test_a_recreated_topic_is_folded_from_its_beginning(own_broker: Broker, tmp_path: Path, make_config: MakeConfig) -> None:
    """The old checkpoints count other records: they are skipped with a notice, and the service starts."""
    topic = own_broker.topic()
    config = make_config(**on(own_broker, topic, tmp_path))
    click = encode(Interaction(user="u1", item="i1", id="c1", timestamp=time.time()))

    def fold(value: bytes) -> tuple[Runtime, list[bytes], dict[str, int]]:
        runtime = open_runtime(config)
        runtime.log.append([(b"u1", one) for one in (value, click)])
        with runtime:
            limit = time.monotonic() + 20
            while not runtime.pipeline.version and time.monotonic() < limit:
                time.sleep(0.02)
            return runtime, [letter.value for letter in runtime.dead.read()], runtime.updater.gauges()["failures"]

    first, letters, failures = fold(b"bad")
    assert (letters, failures) == ([b"bad"], {})
    assert not first.updater.notices
    own_broker.delete(topic)
    own_broker.topic(name=topic)
    second, letters, failures = fold(b"worse")
    assert second.engine.failure is None
    assert second.updater.next[0] <= first.updater.next[0], "from its beginning"
    assert "log: the checkpoint is of log" in second.updater.notices[0]
    assert failures["checkpoint_unusable"] >= 1
    assert letters == [b"bad", b"worse"], "of the same offset, but another topic"
