from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.config import Config
from service.runtime import Runtime, open_runtime
from streams.codec import decode
from streams.events import Event, Impression, Interaction, Tick
from streams.log import LogFull, MemoryLog, Offsets

MakeConfig = Callable[..., Config]

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Service:
    """A running app, and the runtime behind it."""

    def __init__(self, runtime: Runtime, client: httpx.AsyncClient) -> None:
        self.runtime, self._client = runtime, client

    async def send(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        if isinstance(body, bytes):
            more["content"] = body
        elif body is not None:
            more["json"] = body
        return await self._client.request(method, path, **more)

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.send("POST", path, body)

    async def recommend(self, user: str, **more: Any) -> dict[str, Any]:
        answer = await self.post("/v1/recommend", {"user": user, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def learned(self) -> None:
        """Wait until all that was posted has been learned."""
        seen = -1
        while seen != (seen := self.runtime.log.end()[0]) or self.runtime.trainer.lag() or self.runtime.trainer.joiner.pending:
            await asyncio.sleep(0.03)

    def logged(self) -> list[Event]:
        """Everything but ticks."""
        events = [decode(record.value) for record in self.runtime.log.read({0: 0}, 10_000)]
        return [event for event in events if not isinstance(event, Tick)]

    async def impressions(self, count: int) -> list[Impression]:
        """What was shown; waits until there are so many, for an answer does not wait for its own impression."""
        while len(shown := [event for event in self.logged() if isinstance(event, Impression)]) < count:
            await asyncio.sleep(0.01)
        return shown

    def letters(self) -> list[Any]:
        return self.runtime.dead.read()


@asynccontextmanager
async def serving(config: Config, raise_errors: bool = True) -> AsyncIterator[Service]:
    runtime = open_runtime(config)
    app = create_app(runtime)
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_errors)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Service(runtime, client)


@pytest.fixture
async def service(make_config: MakeConfig) -> AsyncIterator[Service]:
    async with serving(make_config(server={"max_body": 20_000, "max_events": 20, "flush": 0.001})) as running:
        yield running


def click(user: str, item: str, **more: Any) -> dict[str, Any]:
    return {"type": "interaction", "user": user, "item": item, **more}


async def test_a_single_event_and_a_list_are_in_the_log_when_the_answer_comes(service: Service) -> None:
    one = await service.post("/v1/events", click("u", "a"))
    assert (one.status_code, one.json()) == (200, {"accepted": 1, "rejected": 0, "results": [{"status": "accepted"}]})
    assert [event.item for event in service.logged() if isinstance(event, Interaction)] == ["a"]
    two = await service.post("/v1/events", [click("u", "b", timestamp=5.0), {"type": "item", "item": "c"}])
    assert two.status_code == 200 and two.json()["accepted"] == 2
    first, second, _ = service.logged()
    assert abs(first.timestamp - time.time()) < 60, "stamped on arrival"
    assert second.timestamp == 5.0
    assert (await service.post("/v1/events", [])).json() == {"accepted": 0, "rejected": 0, "results": []}


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
async def test_a_bad_request_is_told_the_field_and_the_remedy(service: Service, path: str, body: Any, field: str) -> None:
    answer = await service.post(path, body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert answer.json()["error"].startswith(f"{field}: ")


async def test_an_item_comes_goes_and_stays_gone(service: Service) -> None:
    put = await service.send("PUT", "/v1/items/caf%C3%A9%2F1", {"attributes": {"colour": "red", "tags": ["x"]}})
    assert (put.status_code, put.json()) == (200, {"visible": True})
    got = await service.send("GET", "/v1/items/caf%C3%A9%2F1")
    assert got.json() == {"item": "café/1", "attributes": {"colour": "red", "tags": ["x"]}}
    assert [place["item"] for place in (await service.recommend("u"))["items"]] == ["café/1"], "new, and already offered"
    deleted = await service.send("DELETE", "/v1/items/caf%C3%A9%2F1")
    assert (deleted.status_code, deleted.json()) == (200, {"visible": True})
    gone = await service.send("GET", "/v1/items/caf%C3%A9%2F1")
    assert gone.status_code == 404 and "café/1" in gone.json()["error"]
    await service.post("/v1/events", [click("u", "café/1"), click("v", "other")])  # a late interaction does not bring it back
    await service.learned()
    for user in ("u", "v", "w"):
        assert "café/1" not in [place["item"] for place in (await service.recommend(user, repeat=True))["items"]]
    ranked = (await service.post("/v1/rank", {"user": "u", "items": ["café/1", "other"]})).json()
    assert [place["item"] for place in ranked["items"]] == ["other"]


async def test_users_are_written_read_and_forgotten(service: Service) -> None:
    await service.send("PUT", "/v1/users/ann", {"user": "ann", "attributes": {"tribe": "red"}})
    assert (await service.send("GET", "/v1/users/ann")).json() == {"user": "ann", "attributes": {"tribe": "red"}}
    wrong = await service.send("PUT", "/v1/users/ann", {"user": "bob"})
    assert wrong.status_code == 422 and wrong.json()["field"] == "user"
    await service.post("/v1/events", [click("ann", "a"), click("bob", "b")])
    await service.learned()
    assert [place["item"] for place in (await service.recommend("ann"))["items"]] == ["b"], "a was seen"
    assert (await service.send("POST", "/v1/users/ann/forget")).json() == {"visible": True}
    assert len((await service.recommend("ann"))["items"]) == 2
    assert (await service.send("GET", "/v1/users/ann")).status_code == 404
    assert (await service.send("DELETE", "/v1/users/bob")).status_code == 200
    too_long = await service.send("PUT", "/v1/users/" + "x" * 300, {})
    assert too_long.status_code == 422 and too_long.json()["field"] == "user"


async def test_interactions_join_by_request_id_and_change_the_next_ranking(service: Service) -> None:
    for n in range(6):
        await service.send("PUT", f"/v1/items/i{n}", {"attributes": {"colour": "red" if n < 3 else "blue"}})
    for _ in range(30):
        ranking = await service.recommend("u", n=6, repeat=True)
        shown = [place["item"] for place in ranking["items"]]
        await service.post(
            "/v1/events",
            [
                click("u", item, request_id=ranking["request_id"], id=f"{ranking['request_id']}/{item}")
                for item in shown
                if item == "i4"
            ],
        )
    await service.learned()
    counts = service.runtime.trainer.joiner.counts
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
    (place,) = ranking["items"]
    assert place["reasons"]["retrievers"].keys() == {"popularity"}
    (neighbour,) = place["reasons"]["neighbours"]
    assert (neighbour["item"], neighbour["label"], neighbour["weight"]) == ("a", 1.0, 1.0)
    assert place["reasons"]["base"] < place["score"], "moved by the neighbour"
    assert {"item.id", "item.colour"} <= place["reasons"]["contributions"].keys()
    assert "reasons" not in (await service.recommend("u"))["items"][0]
    assert len(await service.impressions(1)) == 1, "log = false leaves no trace"


async def test_a_seed_repeats_a_random_policy(make_config: MakeConfig) -> None:
    config = make_config(policy={"plackett_luce": {}}, server={"flush": 0.001})
    async with serving(config) as service:
        body = {"user": "u", "items": [f"i{n}" for n in range(30)]}
        orders = [
            [place["item"] for place in (await service.post("/v1/rank", body | {"seed": seed})).json()["items"]]
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
    assert [place["item"] for place in ranking["items"]] == ["b", "c", "a"]


async def test_metrics_can_be_parsed_and_count_what_happened(service: Service) -> None:
    await service.post("/v1/events", [click("u", "a"), {"type": "nonsense"}])
    await service.post("/v1/recommend", {"user": ""})
    await service.recommend("u")
    await service.learned()
    answer = await service.send("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["freshet_learned_rows_total",] >= 1
    assert samples["freshet_request_seconds_count",] == 1
    assert samples["freshet_freshness_seconds_count",] == 1
    assert samples["freshet_dead_total", "not_an_event"] == 1
    assert samples["freshet_refused_total", "422"] == 1
    assert samples["freshet_lag",] == 0
    assert any(name[0] == "freshet_memory_bytes" for name in samples)


async def test_status_health_and_the_digest(service: Service) -> None:
    assert (await service.send("GET", "/healthz")).json() == {"status": "alive"}
    while (await service.send("GET", "/readyz")).status_code != 200:
        await asyncio.sleep(0.01)
    status = (await service.send("GET", "/v1/status")).json()
    assert status["ranker"] == "fm" and "digest" not in status
    before = (await service.send("GET", "/v1/status?digest=1")).json()["digest"]
    await service.post("/v1/events", click("u", "a"))
    await service.learned()
    assert (await service.send("GET", "/v1/status?digest=1")).json()["digest"] != before


async def test_every_error_has_one_shape(service: Service) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/v1/events", 405), ("PUT", "/v1/rank", 405)):
        answer = await service.send(method, path)
        assert answer.status_code == status
        assert set(answer.json()) <= {"error", "field"} and path in answer.json()["error"]
    broken = await service.post("/v1/rank", b"{")
    assert broken.status_code == 400 and "JSON" in broken.json()["error"]


async def test_the_openapi_page_describes_every_route_by_the_structs_that_decode(service: Service) -> None:
    document = (await service.send("GET", "/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"Impression", "Interaction", "RankRequest", "RecommendRequest", "RankingResponse", "Problem"} <= schemas.keys()
    assert schemas["RankRequest"]["properties"]["items"]["maxItems"] == 1000

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


class FullLog(MemoryLog):
    """Takes so many records, and no more."""

    room = 3

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        records = list(records)
        if self.end()[0] + len(records) > self.room:
            raise LogFull("the log has reached its size; raise max_bytes or trim it", "/data/events")
        return super().append(records)


async def test_a_full_log_is_said_so_and_keeps_nothing_of_the_request(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.runtime.MemoryLog", FullLog)
    monkeypatch.setattr("streams.dead_letters.DeadLetters.put", recorded := Recorded())
    async with serving(make_config(server={"flush": 1e6})) as service:
        assert (await service.post("/v1/events", [{"type": "item", "item": "a"}] * 2)).status_code == 200
        full = await service.post("/v1/events", [{"type": "item", "item": "b"}, {"type": "bad"}, {"type": "item", "item": "c"}])
        assert full.status_code == 507
        assert "/data/events" in full.json()["error"] and "max_bytes" in full.json()["error"]
        assert recorded.kinds == [], "the client sends all of it again"
        assert (await service.post("/v1/events", {"type": "item", "item": "d"})).status_code == 200, "what fits is taken"
        await service.learned()
        assert (await service.recommend("u"))["items"], "rankings go on"
        while not recorded.kinds:
            await asyncio.sleep(0.01)
        assert recorded.kinds == ["lost"], "an impression that could not be logged is kept and counted"
        assert len(service.logged()) == 3


class Recorded:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def __call__(self, kind: str, reason: str, value: bytes, **more: Any) -> None:
        self.kinds.append(kind)


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
        assert (await service.post("/v1/events", click("u", "b"))).status_code == 200
