from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from service.http import live
from service.http.live import Live


def parsed(event: bytes) -> tuple[str, Any]:
    lines = dict(line.split(": ", 1) for line in event.decode().strip().splitlines())
    return lines["event"], json.loads(lines["data"])


def test_every_listener_gets_the_history_first_and_each_sample_once() -> None:
    numbers = itertools.count()

    async def run() -> list[list[tuple[str, Any]]]:
        page = Live(lambda: {"n": next(numbers)}, period=0.01)
        page.start()
        early = page.stream()
        first = [parsed(await anext(early)) for _ in range(4)]
        late = page.stream()
        heard = [[parsed(await anext(stream)) for _ in range(3)] for stream in (early, late)]
        page.close()
        assert [sample async for sample in early] == [sample async for sample in late] == []
        return [first, *heard]

    first, early, late = asyncio.run(run())
    assert first[0] == ("history", [])
    assert [sample["n"] for _, sample in first[1:]] == [0, 1, 2]
    assert late[0][0] == "history" and [sample["n"] for sample in late[0][1]] == list(range(len(late[0][1])))
    assert late[1][1]["n"] >= len(late[0][1])
    assert [kind for kind, _ in early] == ["sample"] * 3


def test_a_listener_that_leaves_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_LISTENERS", 1)

    async def run() -> None:
        page = Live(dict, period=0.01)
        page.start()
        assert not page.full
        stream = page.stream()
        await anext(stream)
        assert page.full
        await stream.aclose()
        assert not page.full
        page.close()

    asyncio.run(run())


def test_a_failed_sample_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    samples = itertools.chain([1, 0], itertools.repeat(2))

    def sample() -> dict[str, Any]:
        return {"inverse": 2 / next(samples)}

    async def run() -> list[Any]:
        page = Live(sample, period=0.001)
        page.start()
        stream = page.stream()
        received = [parsed(await anext(stream))[1] for _ in range(3)]
        page.close()
        return received[1:]

    assert asyncio.run(run()) == [{"inverse": 2.0}, {"inverse": 1.0}]
    assert "ZeroDivisionError" in caplog.text
