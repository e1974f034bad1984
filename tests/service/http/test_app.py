from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from starlette.routing import Route

from service.config import Config
from service.http.routes.route import Route as Described
from service.http.routes.route import Scope
from tests.service.running import Service, click, serving

MakeConfig = Callable[..., Config]

pytestmark = pytest.mark.anyio


async def test_every_error_has_one_shape(service: Service) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("POST", "/v1/rank/", 404),
        ("GET", "/v1/events", 405),
        ("PUT", "/v1/rank", 405),
    ):
        answer = await service.send(method, path)
        assert answer.status_code == status
        assert set(answer.json()) <= {"error", "field"} and path in answer.json()["error"]
    broken = await service.post("/v1/rank", b"{")
    assert broken.status_code == 400 and "JSON" in broken.json()["error"]


async def test_a_wrong_method_is_told_all_that_there_are(service: Service) -> None:
    for path, methods in (("/v1/items/a", {"DELETE", "GET", "PUT"}), ("/v1/rank", {"POST"}), ("/v1/status", {"GET"})):
        answer = await service.send("PATCH", path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == methods


async def test_the_openapi_page_describes_what_the_config_allows(make_config: MakeConfig) -> None:
    async with serving(make_config(reward={"click": 1.0, "buy": 5.0})) as service:
        schemas = service.app.openapi()["components"]["schemas"]
        assert schemas["Interaction"]["properties"]["kind"]["enum"] == ["buy", "click"]
        assert schemas["RankRequest"]["properties"]["by"]["enum"] == ["popularity", "diag_linucb", None]
        for operations in service.app.openapi()["paths"].values():
            for operation in operations.values():
                for status, answer in operation["responses"].items():
                    assert answer["content"], "every answer has a schema"
                    assert ("Retry-After" in answer.get("headers", {})) == (status == "503")


async def test_the_openapi_page_describes_every_route_and_nothing_else(make_config: MakeConfig) -> None:
    undescribed = {"/", "/docs", "/openapi.json"}
    for serves in (True, False):
        async with serving(make_config(), serves=serves) as service:
            paths = service.app.openapi()["paths"]
            described = {(method.upper(), path) for path, operations in paths.items() for method in operations}
            routes = [route for route in service.app.routes if isinstance(route, Route)]
            answered = {(method, re.sub(r":\w+}", "}", route.path)) for route in routes for method in route.methods or ()}
            assert described == {(method, path) for method, path in answered if path not in undescribed and method != "HEAD"}
            assert ("GET", "/healthz") in described and (("POST", "/v1/events") in described) == serves
            assert undescribed < {path for _, path in answered}


async def test_the_openapi_page_describes_bodies_by_the_structs_that_decode(service: Service) -> None:
    document = (await service.send("GET", "/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"RankRequest", "RecommendRequest", "RankingResponse", "ItemDocument", "Written", "Problem"} <= schemas.keys()
    assert schemas["RankRequest"]["properties"]["items"]["maxItems"] == 1000
    assert "\n    " not in schemas["Interaction"]["description"].split("\n\n")[0]
    posted = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    listed, single = sorted(posted["anyOf"], key=lambda schema: "items" not in schema)
    assert listed == {"type": "array", "items": single, "maxItems": service.runtime.config.server.max_events}
    events = {"Impression", "Interaction", "ItemUpdate", "UserUpdate", "Forget"}
    assert {schema["$ref"].rsplit("/", 1)[1] for schema in single["anyOf"]} == events <= schemas.keys()
    assert single["discriminator"]["mapping"]["item"] == "#/components/schemas/ItemUpdate"
    removing = document["paths"]["/v1/users/{id}"]["delete"]
    (parameter,) = removing["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("id", "path", True)
    assert "requestBody" not in removing and removing["responses"].keys() == {
        *("200", "202", "400", "401", "403", "413", "421", "422", "503", "507")
    }

    def references(node: Any) -> Iterable[str]:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            if key == "$ref":
                yield value.rsplit("/", 1)[1]
            yield from references(value)

    assert set(references(document)) <= schemas.keys()
    for path, operations in document["paths"].items():
        for method in operations:
            answer = await service.send(method.upper(), path.replace("{id}", "x")) if path != "/v1/live" else None
            assert answer is None or answer.status_code not in (404, 405) or "there is no" in answer.text, (method, path)
    assert (await service.send("GET", "/docs")).status_code == 200


@pytest.mark.parametrize(("method", "scope"), [("GET", "write"), ("POST", "metrics"), ("DELETE", "open")])
def test_a_route_whose_scope_contradicts_its_method_is_refused(method: str, scope: Scope) -> None:
    async def nothing(request: Any) -> Any: ...

    with pytest.raises(ValueError, match=f"{method} /x: scope = '{scope}'"):
        Described(method, "/x", nothing, scope=scope, summary="", answers={})


async def test_a_process_that_does_not_serve_has_only_the_operator_routes(make_config: MakeConfig) -> None:
    async with serving(make_config(), serves=False) as service:
        document = (await service.send("GET", "/openapi.json")).json()
        shown = {"/healthz", "/readyz", "/metrics", "/v1/status", "/v1/live"}
        assert document["paths"].keys() == shown
        assert document["components"]["schemas"].keys() == {"Health", "LiveEvent", "Problem", "Status"}
        for path in [*sorted(shown - {"/v1/live"}), "/"]:
            while (answer := await service.send("GET", path)).status_code == 503:
                await asyncio.sleep(0.01)
            assert answer.status_code == 200, path
        for method, path in (("POST", "/v1/events"), ("POST", "/v1/recommend"), ("PUT", "/v1/items/a"), ("GET", "/v1/users/u")):
            assert (await service.send(method, path, {})).status_code == 404, path
        assert service.logged() == []


async def test_a_dead_engine_is_a_503_and_not_ready(make_config: MakeConfig) -> None:
    async with serving(make_config(server={"flush": 0.001})) as service:

        def breaks(*_: Any) -> None:
            raise ArithmeticError("learning went wrong")

        service.runtime.pipeline.learn = breaks  # type: ignore[method-assign]
        await service.post("/v1/events", click("u", "a"))
        while service.runtime.engine.failure is None:
            await asyncio.sleep(0.01)
        answer = await service.post("/v1/recommend", {"user": "u"})
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        ready = await service.send("GET", "/readyz")
        assert ready.status_code == 503 and "learning went wrong" in ready.json()["error"]
        assert (await service.send("GET", "/healthz")).status_code == 200
        # What is in the log is safe: it will be learned after a restart.
        assert (await service.post("/v1/events", click("u", "b"))).status_code == 202


async def test_overload_is_answered_at_once_and_cancelled_requests_are_not_ranked(make_config: MakeConfig) -> None:
    async with serving(make_config(server={"queue": 2, "timeout": 1.0})) as service:
        ranked: list[str] = []
        rank = service.runtime.pipeline.rank

        def noted(requests: Any) -> Any:
            ranked.extend(request.user for request in requests)
            return rank(requests)

        service.runtime.pipeline.rank = noted  # type: ignore[method-assign]
        gate = threading.Event()
        busy = service.runtime.engine.call(gate.wait)
        waiting = [asyncio.create_task(service.post("/v1/recommend", {"user": f"u{n}"})) for n in range(2)]
        while service.runtime.engine.gauges()["waiting"] < 2:
            await asyncio.sleep(0.001)
        refused = await service.post("/v1/recommend", {"user": "late"})
        assert not any(request.done() for request in waiting), "refused before any timeout"
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert "2 requests already wait" in refused.json()["error"]
        for request in waiting:
            answer = await request
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert "timeout = 1 s" in answer.json()["error"]
        gate.set()
        await asyncio.to_thread(busy.result)
        while (await service.post("/v1/recommend", {"user": "next"})).status_code != 200:
            await asyncio.sleep(0.01)
        assert set(ranked) == {"next"}
        metrics = (await service.send("GET", "/metrics")).text
        assert "freshet_waiting 0.0" in metrics and 'freshet_engine_seconds_total{work="serve"}' in metrics
