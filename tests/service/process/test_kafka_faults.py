"""The service on a topic behind a failing network: responses, metrics, dead letters, and what is learned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.cli import ExitCode, main
from service.config import Config
from service.evaluation.replay import replay
from streams.codec import encode
from streams.events import Interaction
from streams.kafka.log import KafkaLog
from tests.broker import Broker
from tests.proxy import PRODUCE, TO_BROKER, TO_CLIENT, Proxy
from tests.service.on_topic import on, running

Faults = tuple[Broker, Proxy]
MakeConfig = Callable[..., Config]

# See tests/conftest.py.
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("tidy"), pytest.mark.filterwarnings("ignore::ResourceWarning")]

IN_TIME = 10.0
"""Seconds within which every failure must be reported."""


def click(number: int) -> dict[str, Any]:
    return {"type": "interaction", "id": f"c{number}", "user": f"u{number % 7}", "item": f"i{number % 5}"}


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """A sample of /metrics; 0 if it is missing."""
    text = (await client.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


async def settled(client: httpx.AsyncClient) -> dict[str, Any]:
    """Status once everything in the topic has been learned, ticks included."""
    limit, before = time.monotonic() + 30, None
    while time.monotonic() < limit:
        status = (await client.get("/v1/status?digest=1")).json()
        now = status["next"], status["digest"]
        if status["lag"] == 0 and not status["pending"] and now == before:
            return status
        before = now
        await asyncio.sleep(0.2)
    raise AssertionError(f"the service never came to rest: {before}")


async def persist(client: httpx.AsyncClient, event: dict[str, Any]) -> int:
    """Send an event again until it is accepted; the number of refusals."""
    limit, refused = time.monotonic() + 30, 0
    while (answer := await client.post("/v1/events", json=event)).status_code != 202:
        assert answer.status_code == 503, answer.text
        assert "Retry-After" in answer.headers
        assert time.monotonic() < limit, answer.text
        refused += 1
    return refused


@pytest.mark.parametrize(("way", "twice"), [(TO_CLIENT, True), (TO_BROKER, False)], ids=["answer lost", "half arrives"])
async def test_a_broker_that_dies_under_an_append_costs_a_503_and_the_event_is_learned_once(
    faults: Faults, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, way: Any, twice: bool
) -> None:
    monkeypatch.setattr("service.process.logs.TIMEOUT", 1.0)
    broker, proxy = faults
    config = make_config(**on(broker, broker.topic(), tmp_path), server={"flush": 0.05})
    async with running(config) as (_, client):
        await persist(client, click(1))
        await settled(client)
        proxy.cut_after(0 if way is TO_CLIENT else 150, way, PRODUCE, die=True)
        started = time.monotonic()
        doubtful = await client.post("/v1/events", json=click(2))
        refused = await client.post("/v1/events", json=click(2))
        assert time.monotonic() - started < IN_TIME
        assert (doubtful.status_code, refused.status_code) == (503, 503)
        assert "may be in the topic or not; append them again" in doubtful.text
        assert "no broker at" in refused.text
        assert "nothing of this request was kept" in refused.text
        assert (await client.post("/v1/rank", json={"user": "u1", "items": ["i1"]})).status_code == 200
        proxy.heal()
        assert await persist(client, click(2)) <= 2
        status = await settled(client)
        assert await metric(client, "freshet_refused_total", status="503") >= 2
        assert await metric(client, "freshet_joiner_total", outcome="interactions") == 2
        assert await metric(client, "freshet_joiner_total", outcome="duplicates") == (1 if twice else 0)
    assert replay(config).digest == status["digest"]


async def test_connections_cut_again_and_again_lose_and_repeat_nothing(
    faults: Faults, tmp_path: Path, make_config: MakeConfig
) -> None:
    broker, proxy = faults
    config = make_config(**on(broker, broker.topic(), tmp_path), server={"flush": 0.05})
    cuts = proxy.cuts
    async with running(config) as (_, client):
        for n in range(60):
            if n % 6 == 0:
                proxy.cut_after(37 * n, TO_BROKER if n % 4 else TO_CLIENT)
            await persist(client, click(n))
        status = await settled(client)
        assert await metric(client, "freshet_joiner_total", outcome="interactions") == 60
    assert proxy.cuts > cuts
    assert replay(config).digest == status["digest"]


async def test_an_unreachable_broker_is_reported_in_status_and_metrics_without_any_request(
    faults: Faults, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.process.logs.TIMEOUT", 1.0)
    broker, proxy = faults
    config = make_config(**on(broker, broker.topic(), tmp_path), server={"flush": 0.05})
    async with running(config) as (_, client):
        await persist(client, click(1))
        before = await settled(client)
        assert before["notices"] == []
        proxy.refuse()
        proxy.cut()
        limit = time.monotonic() + IN_TIME
        while not (status := (await client.get("/v1/status")).json())["notices"]:
            assert time.monotonic() < limit
            await asyncio.sleep(0.05)
        assert "read: " in status["notices"][0]
        assert "no broker at" in status["notices"][0]
        assert (status["lag"], status["version"]) == (0, before["version"])
        await asyncio.sleep(1.1)  # longer than the result of a read is trusted
        assert await metric(client, "freshet_failures_total", what="read") == 1
        behind = await metric(client, "freshet_lag_seconds")
        assert behind > 2, "since the last response of the broker, not since the failure was noticed"
        assert (await client.post("/v1/rank", json={"user": "u1", "items": ["i1"], "log": False})).status_code == 200
        proxy.heal()
        await persist(client, click(2))
        await settled(client)
        assert await metric(client, "freshet_lag_seconds") < behind
        assert await metric(client, "freshet_joiner_total", outcome="interactions") == 2


async def test_bad_records_are_counted_and_kept_with_their_offset_and_block_nothing(
    broker: Broker, tmp_path: Path, make_config: MakeConfig
) -> None:
    topic = broker.topic(**{"max.message.bytes": "4000000"})
    log = KafkaLog(broker.servers, topic, options={"max_request_size": 4_000_000})
    good = [encode(msgspec.convert(click(n), Interaction)) for n in range(5)]
    bad = {
        "not_json": b'{"type": "item"',
        "not_an_event": b'{"type": "interaction", "user": "u1"}',
        "kind": b'{"type": "interaction", "user": "u1", "item": "i1", "kind": "stolen"}',
        "future": b'{"type": "interaction", "user": "u1", "item": "i1", "timestamp": 9e10}',
    }
    large = b'{"type": "item", "item": "' + b"x" * 3_000_000 + b'"}'
    for record, value in zip([*bad.values(), large], good, strict=True):
        log.append([(b"", record), (b"", value)])
    log.close()
    async with running(make_config(**on(broker, topic, tmp_path), server={"flush": 0.05})) as (runtime, client):
        await settled(client)
        assert await metric(client, "freshet_joiner_total", outcome="interactions") == 5
        for kind in bad:
            assert await metric(client, "freshet_dead_total", reason=kind) == (2 if kind == "not_an_event" else 1), kind
        letters = runtime.dead.read()
    assert [(letter.kind, letter.partition, letter.offset) for letter in letters] == [
        *((kind, 0, 2 * n) for n, kind in enumerate(bad)),
        ("not_an_event", 0, 8),
    ]
    assert {letter.source for letter in letters} == {f"kafka://{broker.servers}/{topic}"}
    assert all(letter.reason for letter in letters)


@pytest.mark.parametrize(
    ("servers", "says"),
    [("{broker}", "there is no topic 'evnets'; create "), ("127.0.0.1:1", "no broker at 127.0.0.1:1")],
)
def test_a_service_that_cannot_start_says_why(
    broker: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    servers: str,
    says: str,
) -> None:
    monkeypatch.setattr("service.process.logs.TIMEOUT", 2.0)
    config = tmp_path / "service.toml"
    url = f"kafka://{servers.format(broker=broker.servers)}/evnets"
    config.write_text(f'[stream]\nurl = "{url}"\nbroker_wait = 0\n[checkpoint]\nfolder = "{tmp_path}"\n')
    monkeypatch.setattr("sys.argv", ["freshet", "serve", "--config", str(config), "--port", "0"])
    started = time.monotonic()
    with pytest.raises(SystemExit) as left:
        main()
    assert time.monotonic() - started < IN_TIME
    assert left.value.code == ExitCode.SYSTEM
    assert says in capsys.readouterr().err
