"""Numbers beyond float32 are rejected, wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.config import Config, ConfigError, parse
from service.learning.validation import EventValidator
from service.tables.rows import RewardRule
from streams.codec import BadEvent
from streams.events import Event, Impression, Interaction, ItemUpdate, UserUpdate
from tests.service.running import serving

ADMISSION = EventValidator({"click": 1.0, "buy": 1e30, "rating": RewardRule(at_least=4.0)}, 300.0)
LARGEST = 3.4028234e38


def shown(**more: Any) -> Impression:
    return Impression(request_id="r", user="u", items=("a", "b"), **more)


def interaction(**more: Any) -> Interaction:
    return Interaction(user="u", item="a", **more)


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (interaction(value=1e39), "value"),
        (interaction(value=-1e39, kind="rating"), "value"),
        (interaction(value=1e9, kind="buy"), "value"),
        (interaction(context={"x": 1.0, "y": 1e300}), "context.y"),
        (ItemUpdate(item="a", attributes={"price": 1e308}), "attributes.price"),
        (UserUpdate(user="u", attributes={"age": -4e38}), "attributes.age"),
        (shown(context={"x": 4e38}), "context.x"),
        (shown(scores=(0.0, 1e39)), "scores[1]"),
        (shown(propensities=(0.5, 1e39)), "propensities[1]"),
        (shown(propensities=(-0.1, 0.5)), "propensities[0]"),
        (shown(propensities=(0.1, 1.1)), "propensities[1]"),
    ],
)
def test_what_float32_cannot_hold_is_refused_by_its_field(event: Event, field: str) -> None:
    with pytest.raises(BadEvent, match=r"correct it|send") as refused:
        ADMISSION.check(event, now=0.0)
    assert refused.value.field == field
    assert refused.value.kind == "not_an_event"


@pytest.mark.parametrize(
    "event",
    [
        interaction(value=LARGEST, context={"x": -LARGEST, "y": True, "z": "1e308"}),
        interaction(value=1e-300),
        interaction(value=1e8, kind="buy"),
        interaction(value=1e38, kind="rating"),
        ItemUpdate(item="a", attributes={"price": LARGEST, "tags": ["1e308"], "name": "1e308", "new": True}),
        shown(scores=(-LARGEST, 1e-45), propensities=(0.0, 1.0)),
    ],
)
def test_what_it_can_hold_passes(event: Event) -> None:
    ADMISSION.check(event, now=0.0)


@pytest.mark.parametrize(
    "document",
    [
        {"reward": {"click": 1e39}},
        {"reward": {"click": float("nan")}},
        {"reward": {"click": {"at_least": 1.0, "then": 1e39}}},
        {"features": {"item": {"x": {"type": "number", "mean": float("inf")}}}},
    ],
)
def test_a_config_cannot_make_what_float32_cannot_hold(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"click|mean"):
        parse(document)


@pytest.mark.anyio
async def test_over_http_the_field_is_named(make_config: Callable[..., Config]) -> None:
    async with serving(make_config()) as service:
        put = await service.send("PUT", "/v1/items/a", {"attributes": {"price": 1e308}})
        assert (put.status_code, put.json()["field"]) == (422, "attributes.price")
        posted = await service.post("/v1/events", {"type": "interaction", "user": "u", "item": "a", "value": 1e39})
        assert posted.json()["results"][0]["field"] == "value"
        for path, body in (("recommend", {"n": 2}), ("rank", {"items": ["a"]})):
            asked = await service.post(f"/v1/{path}", {"user": "u", "context": {"x": 1e39}, **body})
            assert (asked.status_code, asked.json()["field"]) == (422, "context.x")
        assert [letter.kind for letter in service.letters()] == ["not_an_event"]
        assert service.logged() == []
