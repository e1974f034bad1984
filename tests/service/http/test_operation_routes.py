from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.config import Config
from tests.service.running import Service, click

MakeConfig = Callable[..., Config]

pytestmark = pytest.mark.anyio


async def test_metrics_can_be_parsed_and_count_what_happened(service: Service) -> None:
    await service.post("/v1/events", [click("u", "a"), {"type": "nonsense"}])
    await service.post("/v1/recommend", {"user": ""})
    await service.recommend("u")
    await service.learned()
    answer = await service.send("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["freshet_learned_rows_total",] >= 1
    assert samples["freshet_request_seconds_count",] == 1
    assert samples["freshet_freshness_seconds_count",] == 1
    assert samples["freshet_dead_total", "not_an_event"] == 1
    assert samples["freshet_refused_total", "422"] == 1
    assert samples["freshet_lag",] == 0
    assert any(name[0] == "freshet_memory_bytes" for name in samples)


async def test_status_health_and_the_digest(service: Service) -> None:
    assert (await service.send("GET", "/healthz")).json() == {"status": "alive"}
    while (await service.send("GET", "/readyz")).status_code != 200:
        await asyncio.sleep(0.01)
    status = (await service.send("GET", "/v1/status")).json()
    assert status["ranker"] == "fm" and "digest" not in status
    before = (await service.send("GET", "/v1/status?digest=1")).json()["digest"]
    await service.post("/v1/events", click("u", "a"))
    await service.learned()
    assert (await service.send("GET", "/v1/status?digest=1")).json()["digest"] != before
    assert (await service.send("GET", "/v1/status?digest=0")).json().keys() == status.keys()
    wrong = await service.send("GET", "/v1/status?digest=yes")
    assert (wrong.status_code, wrong.json()["field"]) == (422, "digest")
