"""Every door refuses what is longer than ``[limits]``, and admits what is as long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.config import Config
from streams.codec import encode, partition_key
from streams.events import Interaction, ItemUpdate
from tests.service.running import click, serving

pytestmark = pytest.mark.anyio

CONTEXT = {"c": "x" * 12}  # 20 bytes as JSON
LONGER = {"c": "x" * 13}


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(
        limits={"id": 8, "text": 16, "attributes": 20, "context": 20}, server={"max_body": 20_000, "flush": 0.001}
    )


@pytest.mark.parametrize(
    ("path", "good", "bad", "field"),
    [
        ("/v1/recommend", {"user": "u" * 8}, {"user": "u" * 9}, "user"),
        ("/v1/recommend", {"user": "u", "context": CONTEXT}, {"user": "u", "context": LONGER}, "context"),
        ("/v1/recommend", {"user": "u", "exclude": ["e" * 8]}, {"user": "u", "exclude": ["a", "e" * 9]}, "exclude[1]"),
        ("/v1/recommend", {"user": "u", "request_id": "r" * 8}, {"user": "u", "request_id": "r" * 9}, "request_id"),
        ("/v1/rank", {"user": "u", "items": ["i" * 8]}, {"user": "u", "items": ["a", "i" * 9]}, "items[1]"),
        (
            "/v1/rank",
            {"user": "u", "items": ["i"], "context": CONTEXT},
            {"user": "u", "items": ["i"], "context": LONGER},
            "context",
        ),
        ("/v1/events", click("u", "i", context=CONTEXT), click("u", "i", context=LONGER), "context"),
        ("/v1/events", click("u" * 8, "i"), click("u" * 9, "i"), "user"),
        (
            "/v1/events",
            {"type": "item", "item": "i", "attributes": CONTEXT},
            {"type": "item", "item": "i", "attributes": LONGER},
            "attributes",
        ),
        (
            "/v1/events",
            {"type": "impression", "request_id": "r", "user": "u", "items": ["i"], "source": "s" * 256},
            {"type": "impression", "request_id": "q", "user": "u", "items": ["i"], "source": "s" * 257},
            "source",
        ),
    ],
)
async def test_a_body_with_too_long_a_text_is_answered_422(
    config: Config, path: str, good: dict[str, Any], bad: dict[str, Any], field: str
) -> None:
    async with serving(config) as service:
        await service.post("/v1/events", click("known", "i"))
        assert (await service.post(path, good)).status_code in (200, 202)
        answer = await service.post(path, bad)
        assert answer.status_code == 422
        said = answer.json()["results"][0] if path == "/v1/events" else answer.json()
        assert said["field"] == field and said["error"].startswith(f"{field}: got ")


@pytest.mark.parametrize("noun", ["item", "user"])
async def test_the_routes_of_items_and_users_have_the_same_limits(config: Config, noun: str) -> None:
    async with serving(config) as service:
        path = f"/v1/{noun}s/"
        assert (await service.send("PUT", path + "n" * 8, {"attributes": CONTEXT})).status_code == 200
        assert (await service.send("GET", path + "n" * 8)).json()["attributes"] == CONTEXT
        assert (await service.send("PUT", path + "n", {"attributes": LONGER})).json()["field"] == "attributes"
        for method in ("PUT", "GET", "DELETE"):
            answer = await service.send(method, path + "n" * 9, {} if method == "PUT" else None)
            assert answer.status_code == 422 and answer.json()["field"] == noun, (method, answer.text)
        assert (await service.send("DELETE", path + "n" * 8)).status_code == 200
        if noun == "user":
            assert (await service.send("POST", path + "n" * 8 + "/forget")).status_code == 200
            assert (await service.send("POST", path + "n" * 9 + "/forget")).status_code == 422


async def test_records_of_other_producers_become_dead_letters(config: Config) -> None:
    async with serving(config) as service:
        events = [
            Interaction(user="u" * 8, item="i", context=CONTEXT),
            Interaction(user="u" * 9, item="i"),
            Interaction(user="u", item="i", context=LONGER),
            ItemUpdate(item="i", attributes={"a": "x" * 17}),
        ]
        service.runtime.log.append([(partition_key(event), encode(event)) for event in events])
        service.runtime.engine.wake()
        await service.learned()
        letters = service.letters()
        assert [letter.kind for letter in letters] == ["too_long"] * 3
        assert [letter.reason.partition(":")[0] for letter in letters] == ["user", "context", "attributes.a"]
        assert service.runtime.updater.reader.counts["interactions"] == 1
