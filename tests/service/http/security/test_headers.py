"""What every response tells browsers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.config import Config
from service.http.security.keys import Keys, new_key
from tests.service.running import Service, serving

MakeConfig = Callable[..., Config]

pytestmark = pytest.mark.anyio


def check(answer: httpx.Response) -> None:
    names = [name.lower() for name, _ in answer.headers.multi_items()]
    for name, value in (("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")):
        assert answer.headers[name] == value and names.count(name) == 1
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert names.count("content-security-policy") == names.count("cache-control") == 1
    assert "server" not in names


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/recommend", {"user": "u"}, 200),
        ("POST", "/v1/events", {"type": "interaction", "user": "u", "item": "a"}, 202),
        ("GET", "/v1/users/u", None, 404),
        ("POST", "/v1/rank", b"{", 400),
        ("POST", "/v1/rank", {"user": ""}, 422),
        ("GET", "/nowhere", None, 404),
        ("PUT", "/v1/rank", None, 405),
        ("GET", "/v1/status", None, 200),
        ("GET", "/healthz", None, 200),
        ("GET", "/openapi.json", None, 200),
    ],
)
async def test_an_answer_is_not_kept_or_executed(service: Service, method: str, path: str, body: Any, status: int) -> None:
    answer = await service.send(method, path, body)
    assert answer.status_code == status
    check(answer)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_refusals_of_the_guard_and_of_keys_have_them_too(make_config: MakeConfig) -> None:
    async with serving(make_config(), keys=Keys(new_key("a", ["read"])[1])) as service:
        other_name = await service.send("GET", "/v1/status", headers={"Host": "evil.example"})
        other_page = await service.send("POST", "/v1/events", {}, headers={"Origin": "https://evil.example"})
        no_key = await service.send("GET", "/v1/status")
        assert [answer.status_code for answer in (other_name, other_page, no_key)] == [421, 403, 401]
        for answer in (other_name, other_page, no_key):
            check(answer)


async def test_a_failure_of_the_service_has_them_too(make_config: MakeConfig) -> None:
    async with serving(make_config(), raise_errors=False) as service:

        def breaks() -> bytes:
            raise ArithmeticError

        service.runtime.monitor.metrics = breaks  # type: ignore[method-assign]
        answer = await service.send("GET", "/metrics")
        assert answer.status_code == 500
        check(answer)
        assert answer.headers["cache-control"] == "no-store"


async def test_pages_load_only_what_the_service_has(service: Service) -> None:
    for path in ("/", "/docs"):
        page = await service.send("GET", path)
        check(page)
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'") and "http" not in policy and "unsafe-eval" not in policy
        assert ("unsafe-inline" in policy) == (path == "/docs"), "Swagger UI brings styles in its script"
        assert "script-src" not in policy, "scripts from the service only, none inside the page"
        assert not re.search(r"<script>|\son\w+=|style=|//", page.text.replace("<!doctype html>", "")), path
        files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
        assert len(files) >= 3
        for file in files:
            answer = await service.send("GET", file)
            assert answer.status_code == 200, file
            check(answer)
            assert answer.headers["cache-control"] == "no-cache" and answer.headers["etag"]


async def test_a_stream_is_not_kept_either(service: Service) -> None:
    service.app.state.live.close()
    answer = await service.send("GET", "/v1/live")
    check(answer)
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-accel-buffering"] == "no"
