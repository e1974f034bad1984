from __future__ import annotations

import asyncio
import errno
import gzip
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from urllib.parse import quote

import pytest

from service.config import Config
from streams.codec import decode
from streams.events import Impression, Interaction
from streams.log import LogFull, MemoryLog, Offsets
from tests.service.running import Service, click, serving

MakeConfig = Callable[..., Config]

pytestmark = pytest.mark.anyio


async def test_a_single_event_and_a_list_are_in_the_log_when_the_answer_comes(service: Service) -> None:
    one = await service.post("/v1/events", click("u", "a"))
    assert (one.status_code, one.json()) == (202, {"accepted": 1, "rejected": 0, "results": [{"status": "accepted"}]})
    assert [event.item for event in service.logged() if isinstance(event, Interaction)] == ["a"]
    two = await service.post("/v1/events", [click("u", "b", timestamp=5.0), {"type": "item", "item": "c"}])
    assert two.status_code == 202 and two.json()["accepted"] == 2
    first, second, _ = service.logged()
    assert abs(first.timestamp - time.time()) < 60, "stamped on arrival"
    assert second.timestamp == 5.0
    none = await service.post("/v1/events", [])
    assert (none.status_code, none.json()) == (202, {"accepted": 0, "rejected": 0, "results": []})


async def test_a_bad_event_in_the_middle_harms_no_other(service: Service) -> None:
    batch = [
        click("u", "a"),
        {"type": "interaction", "user": "u", "itme": "b"},
        click("u", "c"),
        "not even an object",
        {"type": "tick"},
        click("u", "d", kind="clck"),
        click("u", "e", timestamp=time.time() + 1e6),
        {"type": "impression", "request_id": "r", "user": "u", "items": ["a", "b"], "scores": [0.5]},
        click("u", "f"),
    ]
    answer = await service.post("/v1/events", batch)
    assert answer.status_code == 207
    body = answer.json()
    assert (body["accepted"], body["rejected"]) == (3, 6)
    assert [result["status"] for result in body["results"]] == [
        "accepted",
        "rejected",
        "accepted",
        *["rejected"] * 5,
        "accepted",
    ]
    fields = [result.get("field") for result in body["results"]]
    assert fields == [None, "itme", None, None, "type", "kind", "timestamp", "scores", None]
    assert "click" in body["results"][5]["error"], "names the kinds there are"
    assert [event.item for event in service.logged() if isinstance(event, Interaction)] == ["a", "c", "f"]
    letters = service.letters()
    assert [letter.source for letter in letters] == ["http"] * 6
    assert b"itme" in letters[0].value and letters[0].reason == body["results"][1]["error"]
    assert {letter.kind for letter in letters} == {"not_an_event", "kind", "future"}


async def test_when_no_event_is_good_nothing_is_logged(service: Service) -> None:
    answer = await service.post("/v1/events", {"type": "interaction", "user": "u"})
    assert answer.status_code == 422
    (result,) = answer.json()["results"]
    assert result["field"] == "item" and "missing" in result["error"]
    assert service.logged() == []
    assert len(service.letters()) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[{]", b'{"type":"interaction","user":"u","item":"i","value":NaN}', b"\xff\xfe"])
async def test_what_is_not_json_is_refused_and_not_kept(service: Service, body: bytes) -> None:
    answer = await service.post("/v1/events", body)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]
    assert service.letters() == []


async def test_bodies_and_batches_have_limits(service: Service) -> None:
    large = await service.post("/v1/events", b'{"type":"item","item":"' + b"x" * 20_000 + b'"}')
    assert large.status_code == 413 and "max_body = 20000" in large.json()["error"]

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000

    streamed = await service.send("POST", "/v1/recommend", content=parts())
    assert streamed.status_code == 413, "without a Content-Length too"
    many = await service.post("/v1/events", [click("u", "a")] * 21)
    assert many.status_code == 413 and "max_events = 20" in many.json()["error"]
    assert service.logged() == []


async def test_an_item_is_added_deleted_and_stays_deleted(service: Service) -> None:
    put = await service.send("PUT", "/v1/items/caf%C3%A9%2F1", {"attributes": {"colour": "red", "tags": ["x"]}})
    assert (put.status_code, put.json()) == (200, {"visible": True})
    got = await service.send("GET", "/v1/items/caf%C3%A9%2F1")
    assert got.json() == {"item": "café/1", "attributes": {"colour": "red", "tags": ["x"]}}
    assert [ranked["item"] for ranked in (await service.recommend("u"))["items"]] == ["café/1"], "new, and already offered"
    deleted = await service.send("DELETE", "/v1/items/caf%C3%A9%2F1")
    assert (deleted.status_code, deleted.json()) == (200, {"visible": True})
    gone = await service.send("GET", "/v1/items/caf%C3%A9%2F1")
    assert gone.status_code == 404 and "café/1" in gone.json()["error"]
    await service.post("/v1/events", [click("u", "café/1"), click("v", "other")])  # a late interaction does not bring it back
    await service.learned()
    for user in ("u", "v", "w"):
        assert "café/1" not in [ranked["item"] for ranked in (await service.recommend(user, repeat=True))["items"]]
    ranked = (await service.post("/v1/rank", {"user": "u", "items": ["café/1", "other"]})).json()
    assert [ranked["item"] for ranked in ranked["items"]] == ["other"]


async def test_users_are_written_read_and_forgotten(service: Service) -> None:
    await service.send("PUT", "/v1/users/ann", {"user": "ann", "attributes": {"tribe": "red"}})
    assert (await service.send("GET", "/v1/users/ann")).json() == {"user": "ann", "attributes": {"tribe": "red"}}
    wrong = await service.send("PUT", "/v1/users/ann", {"user": "bob"})
    assert wrong.status_code == 422 and wrong.json()["field"] == "user"
    await service.post("/v1/events", [click("ann", "a"), click("bob", "b")])
    await service.learned()
    assert [ranked["item"] for ranked in (await service.recommend("ann"))["items"]] == ["b"], "a was seen"
    assert (await service.send("POST", "/v1/users/ann/forget")).json() == {"visible": True}
    assert len((await service.recommend("ann"))["items"]) == 2
    assert (await service.send("GET", "/v1/users/ann")).status_code == 404
    assert (await service.send("DELETE", "/v1/users/bob")).status_code == 200
    too_long = await service.send("PUT", "/v1/users/" + "x" * 300, {})
    assert too_long.status_code == 422 and too_long.json()["field"] == "user"


async def test_an_id_in_a_path_is_taken_as_it_is(service: Service) -> None:
    """A line break at its end is a part of it, too."""
    names = ["a\nb", "a\n", "\n", "/", "a//b/", "?", "#", "%25", " ", "\u2028", "\ufffd", "forget"]
    for noun, name in itertools.product(["item", "user"], names):
        path = f"/v1/{noun}s/{quote(name, safe='')}"
        assert (await service.send("PUT", path, {"attributes": {"colour": "red"}})).json() == {"visible": True}, (noun, name)
        assert getattr(service.logged()[-1], noun) == name
        assert (await service.send("GET", path)).json() == {noun: name, "attributes": {"colour": "red"}}
        assert (await service.send("DELETE", path)).json() == {"visible": True}
        assert (await service.send("GET", path)).status_code == 404


async def test_an_id_that_is_no_utf8_is_refused(service: Service) -> None:
    """Servers replace such bytes by one character: all these ids would be the same."""
    for method, path in (("PUT", "items/%FF"), ("GET", "users/%C3%28"), ("DELETE", "items/a%80"), ("POST", "users/%FE/forget")):
        answer = await service.send(method, f"/v1/{path}", {})
        assert (answer.status_code, answer.json()["field"]) == (400, "id"), path
        assert "UTF-8" in answer.json()["error"]
    assert service.logged() == []


async def test_forgetting_a_user_is_no_user(service: Service) -> None:
    """Who deletes it by mistake is told so, and does not believe that the user was forgotten."""
    for method in ("GET", "PUT", "DELETE"):
        answer = await service.send(method, "/v1/users/ann/forget", {})
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method
    assert service.logged() == []


class FullLog(MemoryLog):
    """A log that is full after `room` records."""

    room = 3

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        records = list(records)
        if self.end()[0] + len(records) > self.room:
            raise LogFull("the log has reached its size; raise max_bytes or trim it", "/data/events")
        return super().append(records)


async def test_a_full_log_is_reported_and_keeps_nothing_of_the_request(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.process.runtime.MemoryLog", FullLog)
    async with serving(make_config(server={"flush": 1e6})) as service:
        assert (await service.post("/v1/events", [{"type": "item", "item": "a"}] * 2)).status_code == 202
        full = await service.post("/v1/events", [{"type": "item", "item": "b"}, {"type": "bad"}, {"type": "item", "item": "c"}])
        assert full.status_code == 507
        assert "/data/events" in full.json()["error"] and "max_bytes" in full.json()["error"]
        assert service.letters() == [], "the client sends all of it again"
        assert (await service.post("/v1/events", {"type": "item", "item": "d"})).status_code == 202, "what fits is appended"
        await service.learned()
        assert (await service.recommend("u"))["items"], "rankings go on"
        while not service.letters():
            await asyncio.sleep(0.01)
        (letter,) = service.letters()
        assert letter.kind == "lost", "an impression that could not be logged is kept and counted"
        assert isinstance(decode(letter.value), Impression)
        assert len(service.logged()) == 3


class AwayLog(MemoryLog):
    """A log that cannot be reached while `away` is set."""

    away = True

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        if self.away:
            raise ConnectionError(errno.ETIMEDOUT, "no broker", "kafka://nowhere")
        return super().append(records)


async def test_queued_events_wait_in_memory_while_the_log_is_unreachable(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.process.runtime.MemoryLog", AwayLog)
    async with serving(make_config(stream={"ack": "queued", "buffer": 1_000}, server={"flush": 0.001})) as service:
        accepted = 0
        while (answer := await service.post("/v1/events", click("u", f"i{accepted}"))).status_code == 202:
            accepted += 1
        assert accepted > 3
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "nothing of this request was kept" in answer.json()["error"]
        assert service.logged() == []
        waiting = (await service.send("GET", "/metrics")).text
        assert 900 < float(re.findall(r'freshet_memory_bytes{store="buffer"} (\S+)', waiting)[0]) <= 1_000
        service.runtime.log.away = False
        while len(events := service.logged()) < accepted:
            await asyncio.sleep(0.01)
        assert [event.item for event in events] == [f"i{n}" for n in range(accepted)]
        assert len({event.id for event in events if event.id}) == accepted, "an event that is appended twice is learned once"
        after = (await service.send("GET", "/metrics")).text
        assert float(re.findall(r'freshet_failures_total{what="append"} (\S+)', after)[0]) >= 1
        assert (await service.send("PUT", "/v1/items/a", {})).json() == {"visible": True}, "changes still wait for the log"
        assert (await service.post("/v1/events", click("u", "a", id="mine"))).status_code == 202
        while len(events := service.logged()) < accepted + 2:
            await asyncio.sleep(0.01)
        assert events[-1].id == "mine"


async def test_others_are_served_while_a_large_body_is_read(make_config: Callable[..., Config]) -> None:
    """Of good events, of bad ones, and compressed: the event loop comes round many times meanwhile."""
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    async with serving(make_config(server={"max_events": 4000, "max_body": 1 << 22, "flush": 0.001})) as service:
        counting = asyncio.create_task(count())
        good, bad = json.dumps([click("u", "a")] * 4000).encode(), json.dumps([{"type": "impression", "x": 1}] * 4000).encode()
        headers = {"Content-Type": "application/json"}
        for body, more, status, least in (
            (good, {}, 202, 20),
            (bad, {}, 422, 20),
            (gzip.compress(b" " * (1 << 23)), {"Content-Encoding": "gzip"}, 413, 40),
        ):
            before = rounds
            answer = await service.send("POST", "/v1/events", content=body, headers=headers | more)
            assert answer.status_code == status and rounds - before > least, f"{rounds - before} rounds"
        counting.cancel()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/recommend", b'{"user":"u","context":{' + b",".join(b'"%d":1' % n for n in range(20_001)) + b"}}"),
        ("POST", "/v1/rank", b'{"user":"u","items":["a"' + b',"a"' * 20_001 + b"]}"),
        ("PUT", "/v1/items/a", b'{"attributes":{"t":["a"' + b',"a"' * 20_001 + b"]}}"),
    ],
)
async def test_more_values_than_a_request_can_have_are_refused(
    method: str, path: str, body: bytes, make_config: Callable[..., Config]
) -> None:
    async with serving(make_config(server={"flush": 0.001})) as service:
        answer = await service.send(method, path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413 and "more than the 20000 that any can have" in answer.json()["error"]
        event = b'{"type":"impression","request_id":"r","user":"u","items":["a"' + b',"a"' * 20_001 + b"]}"
        answer = await service.post("/v1/events", b"[" + event + b',{"type":"item","item":"a"}]')
        assert answer.status_code == 207 and "commas" in answer.json()["results"][0]["error"]
        assert [letter.kind for letter in service.letters()] == ["too_long"]
