"""Requests from web pages that the service refuses, and the bodies that it accepts."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from service.config import Config, ConfigError, parse
from service.http.guard import Hosts
from tests.service.running import Service, click, serving

MakeConfig = Callable[..., Config]

ELSEWHERE = {"Origin": "https://evil.example"}
BODY = json.dumps(click("u", "a")).encode()

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("bound", "names", "admitted", "refused"),
    [
        (
            "127.0.0.1",
            (),
            ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]", "[::1]:8000"],
            ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.5", "127.0.0.2", "", "[", "[::2]:80"],
        ),
        ("10.0.0.5", (), ["10.0.0.5:8000", "localhost"], ["10.0.0.6", "machine"]),
        ("machine", (), ["machine:8000", "Machine", "localhost"], ["machine.evil.example"]),
        (
            "0.0.0.0",
            (),
            ["10.0.0.5:8000", "192.168.1.1", "[fe80::1]:80", "localhost"],
            ["evil.example", "1.2.3.4.evil.example"],
        ),
        ("::", ("shop.example",), ["10.0.0.5:8000", "shop.example"], ["evil.example", "www.shop.example"]),
        (
            "127.0.0.1",
            ("*.shop.example", "API"),
            ["a.shop.example", "b.a.shop.example:1", "api"],
            ["shop.example", "ashop.example"],
        ),
        ("127.0.0.1", ("*",), ["evil.example", ""], []),
    ],
)
def test_host_names_that_are_allowed(bound: str, names: tuple[str, ...], admitted: list[str], refused: list[str]) -> None:
    hosts = Hosts(bound, names)
    for _ in range(2):
        assert [name for name in admitted if not hosts.admit(name.encode())] == []
        assert [name for name in refused if hosts.admit(name.encode())] == []


@pytest.mark.parametrize(
    "server",
    [
        {"hosts": ["shop.example:8000"]},
        {"hosts": ["https://shop.example"]},
        {"hosts": ["shop.*"]},
        {"hosts": "shop.example"},
        {"origins": ["shop.example"]},
        {"origins": ["https://shop.example/"]},
    ],
)
def test_names_and_origins_that_could_never_match_are_refused(server: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"server.*shop"):
        parse({"server": server})


def test_names_and_addresses_can_be_listed() -> None:
    server = parse(
        {"server": {"hosts": ["a-b.example", "*.c.example", "10.0.0.1", "::1", "*"], "origins": ["http://d:80", "*"]}}
    )
    assert server.server.hosts[3] == "::1"


async def test_a_request_to_another_name_is_misdirected_but_probes_are_answered(service: Service) -> None:
    rebound = {"Host": "evil.example:8000"}
    for method, path in (
        ("GET", "/"),
        ("GET", "/v1/status"),
        ("GET", "/v1/items/a"),
        ("POST", "/v1/events"),
        ("GET", "/v1/live"),
    ):
        answer = await service.send(method, path, headers=rebound)
        assert answer.status_code == 421, path
        assert "evil.example:8000" in answer.json()["error"] and "[server] hosts" in answer.json()["error"]
    for path in ("/healthz", "/metrics"):
        assert (await service.send("GET", path, headers=rebound)).status_code == 200
    assert (await service.send("GET", "/readyz", headers=rebound)).status_code in (200, 503)
    assert 'freshet_refused_total{status="421"} 5.0' in (await service.send("GET", "/metrics")).text


async def test_the_host_of_the_command_line_is_allowed(make_config: MakeConfig) -> None:
    async with serving(make_config(), host="10.1.2.3") as service:
        assert (await service.send("GET", "/v1/status", headers={"Host": "10.1.2.3:8000"})).status_code == 200
        assert (await service.send("GET", "/v1/status", headers={"Host": "10.1.2.4:8000"})).status_code == 421


SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonx")
"""Content types that a browser sends to another origin without a preflight, and one that is almost right."""


@pytest.mark.parametrize("declared", SIMPLE)
async def test_what_a_page_can_send_without_a_preflight_changes_nothing(service: Service, declared: str) -> None:
    for method, path in (
        ("POST", "/v1/events"),
        ("POST", "/v1/rank"),
        ("POST", "/v1/recommend"),
        ("POST", "/v1/users/ann/forget"),
        ("PUT", "/v1/items/a"),
        ("PUT", "/v1/users/ann"),
    ):
        for body in (BODY, b""):
            answer = await service.send(method, path, body, headers={"Content-Type": declared})
            assert answer.status_code == 415, (method, path)
            assert "application/json" in answer.json()["error"]
    assert service.logged() == []
    assert service.letters() == []


@pytest.mark.parametrize("declared", ["application/json", "application/json; charset=utf-8", "Application/JSON ;charset=utf-8"])
async def test_json_may_be_declared_with_parameters(service: Service, declared: str) -> None:
    assert (await service.send("POST", "/v1/events", BODY, headers={"Content-Type": declared})).status_code == 202


async def test_no_page_of_another_origin_may_change_anything(service: Service) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1", "http://localhost.evil.example"):
        for method, path in (
            ("POST", "/v1/events"),
            ("POST", "/v1/users/ann/forget"),
            ("PUT", "/v1/items/a"),
            ("DELETE", "/v1/items/a"),
            ("DELETE", "/v1/users/a"),
        ):
            answer = await service.send(method, path, BODY, headers={"Origin": origin})
            assert answer.status_code == 403 and "[server] origins" in answer.json()["error"], (method, path, origin)
    assert service.logged() == []
    preflight = {**ELSEWHERE, "Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "content-type"}
    asked = await service.send("OPTIONS", "/v1/items/a", headers=preflight)
    assert asked.status_code == 405 and not [name for name in asked.headers if name.startswith("access-control")]
    read = await service.send("GET", "/v1/status", headers=ELSEWHERE)
    assert not [name for name in read.headers if name.startswith("access-control")], "the browser hides it from the page"


async def test_the_services_own_page_and_listed_origins_may(make_config: MakeConfig) -> None:
    async with serving(make_config(server={"origins": ["https://shop.example"], "flush": 0.001})) as service:
        own = await service.send("POST", "/v1/recommend", {"user": "u"}, headers={"Origin": "http://localhost"})
        assert own.status_code == 200
        listed = {"Origin": "https://shop.example"}
        answer = await service.send("POST", "/v1/events", BODY, headers=listed)
        assert answer.status_code == 202
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        preflight = {**listed, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
        asked = await service.send("OPTIONS", "/v1/items/a", headers=preflight)
        assert asked.status_code == 200 and "PUT" in asked.headers["access-control-allow-methods"]
        other = await service.send("POST", "/v1/events", BODY, headers=ELSEWHERE)
        assert other.status_code == 403 and "access-control-allow-origin" not in other.headers
        refused = await service.send("OPTIONS", "/v1/items/a", headers=preflight | ELSEWHERE)
        assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers


def deflated(data: bytes) -> bytes:
    return zlib.compress(data)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", deflated), ("GZIP", gzip.compress)])
async def test_compressed_bodies_are_read(service: Service, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    many = json.dumps([click("u", f"i{n}") for n in range(20)]).encode()
    answer = await service.send("POST", "/v1/events", pack(many), headers={"Content-Encoding": encoding})
    assert answer.status_code == 202 and answer.json()["accepted"] == 20
    assert [event.item for event in service.logged()] == [f"i{n}" for n in range(20)]
    half = len(many) // 2
    two = gzip.compress(many[:half]) + gzip.compress(many[half:])
    assert (await service.send("POST", "/v1/events", two, headers={"Content-Encoding": "gzip"})).status_code == 202


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", deflated)])
async def test_the_limit_applies_to_the_decompressed_body(
    service: Service, encoding: str, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, bomb = pack(BODY + b" " * (20_000 - len(BODY))), pack(BODY + b" " * 50_000_000)
    assert len(bomb) < 200_000
    header = {"Content-Encoding": encoding}
    assert (await service.send("POST", "/v1/events", fits, headers=header)).status_code == 202
    made: list[int] = []
    make = zlib.decompressobj

    class Counted:
        def __init__(self, *bits: int) -> None:
            self.stream = make(*bits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            part = self.stream.decompress(data, limit)
            made.append(len(part))
            return part

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    monkeypatch.setattr("service.http.bodies.zlib.decompressobj", Counted)

    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(bomb), 1000):
            yield bomb[at : at + 1000]

    answer = await service.send("POST", "/v1/events", headers=header, content=parts())
    assert answer.status_code == 413 and "max_body = 20000" in answer.json()["error"]
    assert sum(made) <= 2 * 20_001, "decompression stops at the limit"


@pytest.mark.parametrize(
    "body",
    [b"", gzip.compress(BODY)[:-9], b"\x1f\x8bnonsense", BODY, gzip.compress(BODY) + b"x" * 20],
    # gzip writes the time into its header, and every worker must collect the same names.
    ids=["empty", "cut short", "nonsense", "not compressed", "trailing bytes"],
)
async def test_a_body_that_cannot_be_decompressed_is_refused(service: Service, body: bytes) -> None:
    answer = await service.send("POST", "/v1/events", body, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert service.logged() == []


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
async def test_other_encodings_are_refused_by_name(service: Service, encoding: str) -> None:
    answer = await service.send("POST", "/v1/events", BODY, headers={"Content-Encoding": encoding})
    assert answer.status_code == 415 and encoding in answer.json()["error"]
    assert answer.headers["accept-encoding"] == "gzip, deflate"
