"""Lists are cut as a JSON parser would cut them, and long ones are refused before they are built."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from service.http.routes import elements as module
from service.http.routes.elements import NotAList, TooMany, elements

pytestmark = pytest.mark.anyio

TEXTS = ["", 'a"b', "\\", '\\"', "[1,2]", "},{", "é\u2028", "x" * 50]


def value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(6 if depth else 3)
    if kind < 3:
        return rng.choice([rng.choice(TEXTS), rng.randrange(-5, 5), 1.5e300, None, True])
    if kind == 3:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS) + str(n): value(rng, depth - 1) for n in range(rng.randrange(4))}


@pytest.mark.parametrize("step", [1, 7, 1 << 18])
async def test_elements_are_those_of_a_parser(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP", step)
    rng = random.Random(18)
    for _ in range(100):
        wanted = [value(rng, 3) for _ in range(rng.randrange(6))]
        text = json.dumps(wanted, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1])).encode()
        found = list(await elements(b" \n" + text + b"\t ", 6))
        assert [json.loads(element) for element in found] == wanted
        assert found == [bytes(raw) for raw in msgspec.json.decode(text, type=list[msgspec.Raw])]


@pytest.mark.parametrize("text", [b"[", b"[1,2", b'["]', b"[}", b"[1}[[2]", b"[1] 2", b"[]]", b'[{"a":1]', b'["a\\"]'])
async def test_what_is_no_list_is_refused(text: bytes) -> None:
    with pytest.raises(NotAList):
        await elements(text, 10)


@pytest.mark.parametrize("text", [b"[,]", b"[1,]", b"[{]]", b"[1 2]", b"[nul]", b"[[}]"])
async def test_of_what_is_no_list_inside_an_element_is_no_json(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        for element in await elements(text, 10):
            msgspec.json.decode(element)


async def test_too_many_elements_are_refused() -> None:
    assert len(list(await elements(b"[{},{},{}]", 3))) == 3
    for text in (b"[{},{},{},{}]", b"[{},{},{},{},", b"[" + b"1," * 1_000_000):
        with pytest.raises(TooMany):
            await elements(text, 3)
