from __future__ import annotations

import asyncio
import gzip
import re
import tracemalloc
from collections.abc import AsyncIterator, Callable

import pytest

from service.config import Config
from service.http.bodies import EXPANSION, SMALL, Account, Bodies, read
from service.http.failures import Failure
from tests.service.running import click, serving

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}


async def parts(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


async def test_a_body_counts_once_while_it_arrives_and_eight_times_when_it_is_there() -> None:
    bodies = Bodies(1 << 30)
    account = Account(bodies)
    sizes = []

    async def watched() -> AsyncIterator[bytes]:
        async for part in parts(b"x" * 5000):
            sizes.append(bodies.nbytes)
            yield part

    assert await read(JSON, watched(), 10_000, account) == b"x" * 5000
    assert sizes == [0, 1000, 2000, 3000, 4000] and bodies.nbytes == EXPANSION * 5000
    account.release()
    assert bodies.nbytes == 0


@pytest.mark.parametrize("compressed", [False, True])
async def test_all_bodies_together_have_a_limit_that_a_small_one_may_pass(compressed: bool) -> None:
    large = 4 * SMALL
    bodies = Bodies(EXPANSION * large)
    headers = JSON | ({"content-encoding": "gzip"} if compressed else {})

    def sent(size: int) -> AsyncIterator[bytes]:
        return parts(gzip.compress(b"x" * size) if compressed else b"x" * size)

    first, second, third = (Account(bodies) for _ in range(3))
    assert len(await read(headers, sent(large), 1 << 20, first)) == large  # as much as the limit
    with pytest.raises(Failure) as refused:
        await read(headers, sent(SMALL + 1), 1 << 20, second)
    assert refused.value.status == 503 and refused.value.headers["Retry-After"] == "1"
    assert "max_bodies = 524288; try again shortly" in str(refused.value)
    assert len(await read(headers, sent(SMALL), 1 << 20, third)) == SMALL
    for account in (first, second, third):
        account.release()
    assert bodies.nbytes == 0
    assert len(await read(headers, sent(SMALL + 1), 1 << 20, second)) == SMALL + 1


async def test_a_body_that_expands_is_refused_at_its_limit() -> None:
    with pytest.raises(Failure) as refused:
        await read(
            JSON | {"content-encoding": "gzip"}, parts(gzip.compress(b"x" * (8 << 20))), 1 << 20, Account(Bodies(1 << 30))
        )
    assert refused.value.status == 413


async def test_the_service_frees_a_body_when_it_has_answered(make_config: Callable[..., Config]) -> None:
    async with serving(make_config(server={"max_bodies": 8 * 60_000, "max_body": 100_000, "flush": 0.001})) as service:
        held = asyncio.Event()

        async def unfinished() -> AsyncIterator[bytes]:
            yield b" " * 50_000
            await held.wait()

        def padded(size: int) -> bytes:
            return b'{"user": "u"}' + b" " * (size - 13)

        await service.post("/v1/events", click("v", "i"))
        waiting = asyncio.create_task(service.send("POST", "/v1/recommend", content=unfinished()))
        await asyncio.sleep(0.05)
        answer = await service.send("POST", "/v1/recommend", padded(60_000))
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "1" and "max_bodies" in answer.json()["error"]
        assert (await service.send("POST", "/v1/recommend", padded(16_384))).status_code == 200
        held.set()
        assert (await waiting).status_code == 400
        assert (await service.send("POST", "/v1/recommend", padded(60_000))).status_code == 200


async def test_single_bytes_take_no_more_memory_than_one_text() -> None:
    async def singles() -> AsyncIterator[bytes]:
        for _ in range(200_000):
            yield bytes([120])

    tracemalloc.start()
    await read(JSON, singles(), 1 << 20, Account(Bodies(1 << 30)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


async def test_memory_bytes_is_the_same_in_status_and_metrics_and_reports_what_is_outside_of_the_state(
    make_config: Callable[..., Config],
) -> None:
    async with serving(make_config(server={"flush": 0.001})) as service:
        await service.post("/v1/events", [click("u", "i"), {"type": "nothing"}])
        await service.learned()
        status = (await service.send("GET", "/v1/status")).json()["memory_bytes"]
        metrics = (await service.send("GET", "/metrics")).text
        assert set(re.findall(r'freshet_memory_bytes{store="([^"]*)"}', metrics)) == set(status)
        outside = {
            "bodies",
            "buffer",
            "checkpoint",
            "connections",
            "dead_letters",
            "joiner",
            "live",
            "log",
            "monitor",
            "reader",
        }
        assert outside | {"pending"} < set(status)
        assert status["dead_letters"] > 400 and status["log"] > 250 and status["pending"] > 0
