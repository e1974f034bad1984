from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from service.config import Config, parse
from streams.codec import encode, partition_key
from streams.events import Event
from tests.service.running import Service, serving

LEARNERS: dict[str, Any] = {
    "statistics": {"users": 100, "items": 100},
    "negatives": {"n": 2, "source": "popular"},
    "features": {
        "retrieval": True,
        "user": {"id": "category", "tribe": "category"},
        "item": {"id": "category", "colour": "category", "price": {"type": "bucket", "width": 3.0}},
        "context": {"device": "category"},
        "crosses": ["user.tribe * item.colour"],
    },
    "retrievers": {
        "popularity": {"capacity": 100},
        "diag_linucb": {
            "clusters": 3,
            "width": 8,
            "items": 100,
            "first": 100,
            "epoch": 300,
            "refresh": 70,
            "sample": 64,
            "dim": 4,
            "hidden": 4,
            "bits": 8,
        },
    },
    "ranker": {"fm": {"factors": 4, "bits": 10}},
    "rerankers": {"reloop2": {"capacity": 200, "lists": 4, "probes": 2, "neighbours": 10, "weight": "learned"}},
    "items": {"capacity": 100},
    "users": {"capacity": 100},
    "history": {"capacity": 100, "length": 10},
}
"""A small service that has one of everything."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def make_config() -> Callable[..., Config]:
    def make(url: str | Path = "memory://", **sections: Any) -> Config:
        stream = {
            "url": str(url) if isinstance(url, str) else f"lmdb://{url}",
            "window": 20.0,
            "lateness": 20.0,
            "batch_rows": 16,
        }
        stream |= sections.pop("stream", {})
        return parse(LEARNERS | {"stream": stream} | sections, "test")

    return make


@pytest.fixture
async def service(make_config: Callable[..., Config]) -> AsyncIterator[Service]:
    async with serving(make_config(server={"max_body": 20_000, "max_events": 20, "flush": 0.001})) as running:
        yield running


def records(events: list[Event]) -> list[tuple[bytes, bytes]]:
    """What a log is given for these events."""
    return [(partition_key(event), encode(event)) for event in events]
