"""A service on a Kafka topic, in the process of the tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from service.config import Config
from service.http.app import create_app
from service.process.runtime import Runtime, open_runtime
from tests.broker import Broker

# The test broker answers a waiting fetch only when its time is over; Kafka answers when something comes.
QUICK = {"fetch_max_wait_ms": 10}


def on(broker: Broker, topic: str, folder: Path | None, **stream: Any) -> dict[str, Any]:
    """Sections of a config that serves a topic."""
    stream = {"url": f"kafka://{broker.servers}/{topic}", "options": QUICK} | stream
    return {"stream": stream, "checkpoint": {"every": 0.05} | ({"folder": str(folder)} if folder else {})}


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[tuple[Runtime, httpx.AsyncClient]]:
    runtime = open_runtime(config)
    app = create_app(runtime)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
            yield runtime, client


async def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not true():
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)
