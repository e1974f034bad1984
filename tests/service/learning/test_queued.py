"""Events that are acknowledged before they are in the topic, while the broker hangs."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.config import Config
from streams.codec import decode
from streams.events import Interaction
from streams.kafka.log import KafkaLog
from tests.broker import Broker
from tests.service.running import Service, click, serving

# See tests/streams/kafka/test_log.py.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::ResourceWarning")]


async def metric(service: Service, name: str) -> float:
    found = re.findall(rf"^{re.escape(name)} (\S+)", (await service.send("GET", "/metrics")).text, re.MULTILINE)
    return float(found[0]) if found else 0.0


async def reaches(service: Service, name: str, value: float) -> None:
    limit = time.monotonic() + 60
    while await metric(service, name) < value:
        assert time.monotonic() < limit, f"{name} never came to {value}"
        await asyncio.sleep(0.05)


async def test_events_accepted_while_the_broker_hangs_are_learned_once(
    own_broker: Broker, tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.process.logs.TIMEOUT", 1.0)
    topic = own_broker.topic()
    stream = {"url": f"kafka://{own_broker.servers}/{topic}", "ack": "queued", "options": {"fetch_max_wait_ms": 10}}
    config = make_config(stream=stream, checkpoint={"folder": str(tmp_path)}, server={"flush": 0.05})
    async with serving(config) as service:
        while (await service.send("GET", "/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        with own_broker.stopped():
            for n in range(20):
                assert (await service.post("/v1/events", click("u", f"i{n}"))).status_code == 202
            await reaches(service, 'freshet_failures_total{what="append"}', 2)
        await reaches(service, "freshet_learned_rows_total", 20)
        assert (await service.post("/v1/events", click("u", "last"))).status_code == 202
        await reaches(service, "freshet_learned_rows_total", 21)
    log = KafkaLog(own_broker.servers, topic, readonly=True)
    kept = [event for record in log.read(log.begin(), 1_000) if isinstance(event := decode(record.value), Interaction)]
    log.close()
    assert {event.item for event in kept} == {*(f"i{n}" for n in range(20)), "last"}
    assert len({event.id for event in kept}) == 21
