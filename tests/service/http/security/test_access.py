"""Who may use which route."""

from __future__ import annotations

import asyncio
import logging
import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Mount, Route

from service.config import Config
from service.http.security.keys import SCOPES, Keys, new_key
from tests.service.running import Service, click, serving

MakeConfig = Callable[..., Config]

ROUTES = {
    ("GET", "/healthz"): "open",
    ("GET", "/readyz"): "open",
    ("GET", "/docs"): "read",
    ("GET", "/openapi.json"): "read",
    ("POST", "/v1/rank"): "read",
    ("POST", "/v1/recommend"): "read",
    ("GET", "/v1/items/{id:id}"): "read",
    ("GET", "/v1/users/{id:user}"): "read",
    ("POST", "/v1/events"): "write",
    ("PUT", "/v1/items/{id:id}"): "write",
    ("DELETE", "/v1/items/{id:id}"): "write",
    ("PUT", "/v1/users/{id:user}"): "write",
    ("DELETE", "/v1/users/{id:user}"): "write",
    ("GET", "/metrics"): "metrics",
    ("GET", "/"): "admin",
    ("GET", "/v1/status"): "admin",
    ("GET", "/v1/live"): "admin",
    ("POST", "/v1/users/{id:id}/forget"): "admin",
}
"""Every route with its scope. A new route belongs here."""

MADE = {scope: new_key(scope, [scope]) for scope in SCOPES}
KEYS = {scope: key for scope, (key, _) in MADE.items()}
ENTRIES = "\n".join(line for _, line in MADE.values())

pytestmark = pytest.mark.anyio


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def asked(service: Service, method: str, path: str, headers: dict[str, str]) -> int:
    """Status of a request; 200 stands for a stream that would never end."""
    if path == "/v1/live" and headers.get("Authorization") == bearer(KEYS["admin"])["Authorization"]:
        return 200
    return (await service.send(method, re.sub(r"\{id:\w+\}", "x", path), headers=headers)).status_code


async def test_every_route_needs_the_key_of_its_scope(make_config: MakeConfig) -> None:
    async with serving(make_config(), keys=Keys(ENTRIES)) as service:
        routes = [route for route in service.app.routes if isinstance(route, Route)]
        answered = {(method, route.path) for route in routes for method in route.methods or ()}
        assert {one for one in answered if one[0] != "HEAD"} == ROUTES.keys()
        others = [route for route in service.app.routes if not isinstance(route, Route)]
        assert all(isinstance(route, Mount) and route.path.startswith("/static") for route in others), "files are open"
        for (method, path), scope in ROUTES.items():
            if scope == "open":
                assert await asked(service, method, path, {}) not in (401, 403)
                continue
            assert await asked(service, method, path, {}) == 401, path
            assert await asked(service, method, path, bearer("wrong")) == 401, path
            allowed = {scope, "admin"} if scope == "metrics" else {scope}
            for held, key in KEYS.items():
                status = await asked(service, method, path, bearer(key))
                assert (status not in (401, 403)) if held in allowed else (status == 403), (path, held)
            if method == "GET":
                assert await asked(service, "HEAD", path, {}) == 401, path
        # Two writes without a body, which are refused for their bodies, and three deletions.
        assert len(service.logged()) == 3


async def test_without_keys_everyone_may_do_everything(service: Service) -> None:
    for method, path in ROUTES:
        if path != "/v1/live":
            assert await asked(service, method, path, {}) not in (401, 403), path


@pytest.mark.parametrize(
    "headers",
    [
        bearer(KEYS["admin"]),
        {"Authorization": f"bearer  {KEYS['admin']}"},
        {"X-API-Key": KEYS["admin"]},
        {"Authorization": "Basic " + b64encode(f"anybody:{KEYS['admin']}".encode()).decode()},
        {"Authorization": "Bearer token-of-the-proxy", "X-API-Key": KEYS["admin"]},
        {"Authorization": f"Bearer {KEYS['admin']}", "X-API-Key": ""},
    ],
)
async def test_a_key_can_be_sent_in_three_ways(make_config: MakeConfig, headers: dict[str, str]) -> None:
    async with serving(make_config(), keys=Keys(ENTRIES)) as service:
        assert (await service.send("GET", "/v1/status", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": KEYS["admin"]},
        {"Authorization": "Basic ="},
        {"Authorization": "Basic " + b64encode(KEYS["admin"].encode()).decode()},
        {"Authorization": "Basic " + b64encode(f"{KEYS['admin']}:".encode()).decode()},
        {"Authorization": "Digest " + KEYS["admin"]},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEYS['admin']}"},
        {"Cookie": f"key={KEYS['admin']}"},
    ],
)
async def test_nothing_else_is_taken_for_a_key(make_config: MakeConfig, headers: dict[str, str]) -> None:
    async with serving(make_config(), keys=Keys(ENTRIES)) as service:
        assert (await service.send("GET", f"/v1/status?key={KEYS['admin']}", headers=headers)).status_code == 401


async def test_a_refusal_says_what_to_send_and_only_pages_make_a_browser_ask(make_config: MakeConfig) -> None:
    async with serving(make_config(), keys=Keys(ENTRIES)) as service:
        page, call = await service.send("GET", "/"), await service.post("/v1/recommend", {"user": "u"})
        assert page.headers.get_list("www-authenticate") == ['Bearer realm="freshet"', 'Basic realm="freshet", charset="UTF-8"']
        assert call.headers.get_list("www-authenticate") == ['Bearer realm="freshet"']
        assert "Authorization: Bearer KEY" in call.json()["error"]
        lacking = await service.send("POST", "/v1/users/u/forget", headers=bearer(KEYS["write"]))
        assert lacking.status_code == 403 and "www-authenticate" not in lacking.headers
        assert lacking.json()["error"] == "the key 'write' lacks the scope 'admin'; send a key that has it"


async def test_who_may_only_write_cannot_erase_a_user_through_the_events(make_config: MakeConfig) -> None:
    forget = {"type": "forget", "user": "u"}
    async with serving(make_config(), keys=Keys(ENTRIES + "\n" + (both := new_key("both", ["write", "admin"]))[1])) as service:
        alone = await service.send("POST", "/v1/events", forget, headers=bearer(KEYS["write"]))
        assert alone.status_code == 403 and alone.json()["field"] == "type"
        among = await service.send("POST", "/v1/events", [click("u", "a"), forget], headers=bearer(KEYS["write"]))
        assert among.status_code == 207
        assert [result["status"] for result in among.json()["results"]] == ["accepted", "rejected"]
        assert "scope 'admin'" in among.json()["results"][1]["error"]
        assert [type(event).__name__ for event in service.logged()] == ["Interaction"]
        assert (await service.send("POST", "/v1/events", forget, headers=bearer(both[0]))).status_code == 202


async def test_a_body_is_not_read_without_a_key(make_config: MakeConfig) -> None:
    async with serving(make_config(), keys=Keys(ENTRIES)) as service:

        async def parts() -> Any:
            yield b"["
            raise AssertionError("read")

        assert (await service.send("POST", "/v1/events", content=parts())).status_code == 401


async def test_refusals_are_counted_by_reason(make_config: MakeConfig) -> None:
    async with serving(make_config(), keys=Keys(ENTRIES)) as service:
        for headers in ({}, bearer("wrong"), bearer("wrong"), bearer(KEYS["read"])):
            await service.send("GET", "/v1/status", headers=headers)
        text = (await service.send("GET", "/metrics", headers=bearer(KEYS["metrics"]))).text
        for reason, count in (("missing", 1), ("wrong", 2), ("scope", 1)):
            assert f'freshet_denied_total{{reason="{reason}"}} {count}.0' in text
        assert 'freshet_refused_total{status="401"} 3.0' in text


async def test_no_key_is_ever_logged_or_shown(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    wrong = "freshet_wrongButPerhapsTheKeyOfAnotherService"
    with caplog.at_level(logging.DEBUG):
        async with serving(make_config(), keys=Keys(ENTRIES)) as service:
            shown = []
            for key in (*KEYS.values(), wrong):
                for headers in (
                    bearer(key),
                    {"X-API-Key": key},
                    {"Authorization": f"Basic {b64encode(f'x:{key}'.encode()).decode()}"},
                ):
                    for method, path in ROUTES:
                        if path != "/v1/live":
                            answer = await service.send(method, re.sub(r"\{id:\w+\}", "x", path), headers=headers)
                            shown += [answer.text, str(answer.headers)]
            shown.append(str(service.runtime.monitor.snapshot()))
            shown += [str(letter) for letter in service.letters()]
    for key in (*KEYS.values(), wrong):
        hidden = (key, b64encode(f"x:{key}".encode()).decode())
        assert not [text for text in (*shown, caplog.text) for one in hidden if one in text]
    assert not any(line.split("sha256:")[1] in text for line in ENTRIES.splitlines() for text in (*shown, caplog.text))


async def test_keys_of_the_file_can_change_while_the_service_runs(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.security.access.RELOAD_SECONDS", 0.01)
    file = tmp_path / "keys"
    old, new = new_key("old", ["admin"]), new_key("new", ["admin"])
    file.write_text(old[1])
    file.chmod(0o600)
    async with serving(make_config(), keys=Keys(file=file)) as service:
        stream = service.app.state.live.stream()
        await anext(stream)
        file.write_text(new[1])
        while (await service.send("GET", "/v1/status", headers=bearer(old[0]))).status_code != 401:
            await asyncio.sleep(0.01)
        assert (await service.send("GET", "/v1/status", headers=bearer(new[0]))).status_code == 200
        assert [part async for part in stream if not part.startswith(b"event: sample")] == [], "open pages have to ask again"
        file.write_text("nonsense")
        while 'freshet_failures_total{what="keys"} 0.0' in (await service.send("GET", "/metrics", headers=bearer(new[0]))).text:
            await asyncio.sleep(0.01)


async def test_the_reference_says_which_key_an_operation_needs(service: Service) -> None:
    document = (await service.send("GET", "/openapi.json")).json()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "header", "basic"}
    for (method, path), scope in ROUTES.items():
        operation = document["paths"].get(re.sub(r":\w+", "", path), {}).get(method.lower())
        if operation is None:
            assert path in ("/", "/docs", "/openapi.json")
        elif scope == "open":
            assert operation["security"] == [] and not {"401", "403"} & operation["responses"].keys()
        else:
            assert operation["security"] == [{"bearer": [scope]}, {"header": [scope]}, {"basic": [scope]}]
            assert {"401", "403"} <= operation["responses"].keys()


async def test_pages_of_listed_origins_may_send_keys(make_config: MakeConfig) -> None:
    origin = {"Origin": "https://shop.example"}
    async with serving(make_config(server={"origins": ["https://shop.example"]}), keys=Keys(ENTRIES)) as service:
        for header in ("authorization", "x-api-key"):
            preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": header}
            assert (await service.send("OPTIONS", "/v1/recommend", headers=preflight)).status_code == 200
        refused = await service.send("POST", "/v1/recommend", {"user": "u"}, headers=origin)
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://shop.example"
        assert "access-control-allow-credentials" not in refused.headers, "keys that a browser keeps are not for other pages"
