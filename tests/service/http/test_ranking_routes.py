from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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
    """An unknown id in a request is no item. Nor is one that was clicked, since there are item updates."""
    await service.post("/v1/events", {"type": "item", "item": "real"})
    ranking = (await service.post("/v1/rank", {"user": "ann", "items": ["real", "tpyo", "liked"]})).json()
    await service.post("/v1/events", click("ann", "liked", request_id=ranking["request_id"]))
    await service.impressions(1)
    await service.learned()
    assert {ranked["item"] for ranked in (await service.recommend("bob", n=10))["items"]} == {"real"}


@pytest.mark.parametrize("first", ["/v1/rank", "/v1/recommend", "/v1/events"])
@pytest.mark.parametrize("second", ["/v1/rank", "/v1/recommend"])
async def test_an_id_names_one_ranking(service: Service, first: str, second: str) -> None:
    await service.send("PUT", "/v1/items/a", {})
    bodies: dict[str, Any] = {
        "/v1/rank": {"user": "u", "items": ["a"], "request_id": "R"},
        "/v1/recommend": {"user": "u", "request_id": "R"},
        "/v1/events": {"type": "impression", "request_id": "R", "user": "u", "items": ["a"]},
    }
    assert (await service.post(first, bodies[first])).status_code in (200, 202)
    for _ in range(2):
        answer = await service.post(second, bodies[second])
        assert answer.status_code == 409
        assert answer.json()["field"] == "request_id"
        assert answer.json()["error"].startswith("request_id: 'R' was used for another ranking")
    assert (await service.post(second, bodies[second] | {"request_id": "S"})).status_code == 200
    assert (await service.post(second, bodies[second] | {"log": False})).status_code == 200
    assert len(await service.impressions(2)) == 2


async def test_an_id_that_the_service_made_is_used_too(service: Service) -> None:
    await service.send("PUT", "/v1/items/a", {})
    made = (await service.recommend("u"))["request_id"]
    assert (await service.post("/v1/rank", {"user": "u", "items": ["a"], "request_id": made})).status_code == 409


async def test_an_id_is_free_again_after_a_refused_request(service: Service) -> None:
    body: dict[str, Any] = {"user": "u", "items": ["a"], "request_id": "R"}
    assert (await service.post("/v1/rank", body | {"by": "horoscope"})).status_code == 422
    assert (await service.post("/v1/rank", body)).status_code == 200


async def test_an_id_is_still_used_after_a_restart(make_config: MakeConfig, tmp_path: Path) -> None:
    body = {"user": "u", "items": ["a"], "request_id": "R"}
    for answer in (200, 409):
        async with serving(make_config(tmp_path)) as service:
            assert (await service.post("/v1/rank", body)).status_code == answer
            await service.learned()


async def test_deleted_ids_are_named(service: Service) -> None:
    await service.send("PUT", "/v1/items/a", {})
    await service.send("DELETE", "/v1/items/gone")
    answer = await service.post("/v1/rank", {"user": "u", "items": ["a", "gone", "unknown"]})
    assert answer.json()["skipped"] == ["gone"]
    assert {ranked["item"] for ranked in answer.json()["items"]} == {"a", "unknown"}


@pytest.mark.parametrize(
    ("recommend", "listed", "expected"),
    [
        ("auto", ["real"], {"real"}),
        ("auto", [], {"tpyo"}),
        ("listed", [], set()),
        ("all", ["real"], {"real", "tpyo"}),
    ],
)
async def test_ids_that_only_interactions_have_named_are_recommended_if_the_config_says_so(
    recommend: str, listed: list[str], expected: set[str], make_config: MakeConfig
) -> None:
    config = make_config(items={"capacity": 100, "recommend": recommend}, server={"flush": 0.001})
    async with serving(config) as service:
        for item in listed:
            await service.send("PUT", f"/v1/items/{item}", {})
        await service.post("/v1/rank", {"user": "v", "items": ["ranked", *listed]})
        await service.post("/v1/events", [click("v", "tpyo", id=f"c{n}") for n in range(3)])
        await service.learned()
        for by in (None, "popularity", "diag_linucb"):
            ranking = await service.recommend("u", by=by, log=False)
            assert {ranked["item"] for ranked in ranking["items"]} == expected, by


async def test_as_many_items_as_asked_for_are_recommended_if_there_are_so_many(make_config: MakeConfig) -> None:
    """Also where popular ids are deleted or not listed, and where the user has seen many."""
    async with serving(make_config(items={"capacity": 1000}, server={"flush": 0.001})) as service:
        events: list[dict[str, Any]] = [{"type": "item", "item": f"i{n}"} for n in range(400)]
        events += [click("v", f"x{n}", id=f"x{n}") for n in range(100)] + [click("u", f"i{n}", id=f"u{n}") for n in range(90)]
        events += [{"type": "item", "item": f"i{n}", "deleted": True} for n in range(90, 100)]
        assert (await service.post("/v1/events", events)).status_code == 202
        await service.learned()
        assert len((await service.recommend("u", n=300))["items"]) == 300
        assert len((await service.recommend("u", n=301))["items"]) == 300, "90 are seen, 10 deleted"
