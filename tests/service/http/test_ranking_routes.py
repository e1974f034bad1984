from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.config import Config
from tests.service.running import Service, click, serving

MakeConfig = Callable[..., Config]

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/rank", {"user": "u"}, "items"),
        ("/v1/rank", {"user": "u", "items": ["a", 3]}, "items[1]"),
        ("/v1/recommend", {"user": "u", "nn": 3}, "nn"),
        ("/v1/recommend", {"user": "u", "n": 0}, "n"),
        ("/v1/recommend", {"user": "u", "by": "horoscope"}, "by"),
    ],
)
async def test_a_bad_request_names_the_field_and_the_remedy(service: Service, path: str, body: Any, field: str) -> None:
    answer = await service.post(path, body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert answer.json()["error"].startswith(f"{field}: ")


async def test_interactions_join_by_request_id_and_change_the_next_ranking(service: Service) -> None:
    for n in range(6):
        await service.send("PUT", f"/v1/items/i{n}", {"attributes": {"colour": "red" if n < 3 else "blue"}})
    for _ in range(30):
        ranking = await service.recommend("u", n=6, repeat=True)
        shown = [ranked["item"] for ranked in ranking["items"]]
        await service.post(
            "/v1/events",
            [
                click("u", item, request_id=ranking["request_id"], id=f"{ranking['request_id']}/{item}")
                for item in shown
                if item == "i4"
            ],
        )
    await service.learned()
    counts = service.runtime.updater.reader.counts
    assert (counts["impressions"], counts["interactions"], counts["unjoined"]) == (30, 30, 0)
    ranking = await service.recommend("u", n=6, repeat=True)
    assert ranking["items"][0]["item"] == "i4"
    assert ranking["version"] > 0
    assert all(event.features and event.source == "fm" for event in await service.impressions(31))


async def test_explained_rankings_say_why(service: Service) -> None:
    await service.send("PUT", "/v1/items/a", {"attributes": {"colour": "red", "price": 4.0}})
    await service.post("/v1/events", click("v", "a"))
    await service.learned()
    ranking = await service.recommend("u", explain=True, log=False)
    (ranked,) = ranking["items"]
    assert ranked["reasons"]["retrievers"].keys() == {"popularity", "diag_linucb"}
    (neighbour,) = ranked["reasons"]["neighbours"]
    assert (neighbour["item"], neighbour["label"], neighbour["weight"]) == ("a", 1.0, 1.0)
    assert ranked["reasons"]["base"] < ranked["score"], "moved by the neighbour"
    assert {"item.id", "item.colour"} <= ranked["reasons"]["contributions"].keys()
    assert "reasons" not in (await service.recommend("u"))["items"][0]
    assert len(await service.impressions(1)) == 1, "log = false leaves no trace"


async def test_a_seed_repeats_a_random_policy(make_config: MakeConfig) -> None:
    config = make_config(policy={"plackett_luce": {}}, server={"flush": 0.001})
    async with serving(config) as service:
        body = {"user": "u", "items": [f"i{n}" for n in range(30)]}
        orders = [
            [ranked["item"] for ranked in (await service.post("/v1/rank", body | {"seed": seed})).json()["items"]]
            for seed in (1, 1, 2)
        ]
    assert orders[0] == orders[1] != orders[2]


async def test_by_gives_the_order_of_a_baseline(service: Service) -> None:
    await service.post(
        "/v1/events", [click(f"u{n}", item) for item, count in (("a", 1), ("b", 3), ("c", 2)) for n in range(count)]
    )
    await service.learned()
    ranking = await service.recommend("stranger", by="popularity")
    assert ranking["source"] == "popularity"
    assert [ranked["item"] for ranked in ranking["items"]] == ["b", "c", "a"]


async def test_an_item_that_was_only_ranked_is_not_recommended_to_others(service: Service) -> None:
    """An unknown id in a request is no item. An item that somebody clicked is one, even without attributes."""
    await service.post("/v1/events", {"type": "item", "item": "real"})
    ranking = (await service.post("/v1/rank", {"user": "ann", "items": ["real", "tpyo", "liked"]})).json()
    await service.post("/v1/events", click("ann", "liked", request_id=ranking["request_id"]))
    await service.impressions(1)
    await service.learned()
    assert {ranked["item"] for ranked in (await service.recommend("bob", n=10))["items"]} == {"real", "liked"}
