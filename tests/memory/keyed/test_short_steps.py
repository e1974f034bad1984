"""Copies of large stores take many short steps, and a copy does not depend on their number."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from memory import Catalog, KeyIndex
from memory.keyed import catalog, key_index


def walked(steps: Generator[None, None, Any]) -> tuple[int, Any]:
    """Number of steps, and their result."""
    count = 0
    while True:
        count += 1
        try:
            next(steps)
        except StopIteration as end:
            return count, end.value


def test_the_order_of_an_index_is_copied_a_few_links_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    index = KeyIndex(100)
    index.insert(np.random.default_rng(0).permutation(80) + 1)
    whole = index.state_dict()["order"].tolist()
    assert whole[20:] == index.slots().tolist()
    monkeypatch.setattr(key_index, "LINKS_PER_STEP", 7)
    steps, state = walked(index.copy_in_steps())
    assert state["order"].tolist() == whole
    assert steps > 100 / 7


def test_texts_are_encoded_and_joined_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    items = Catalog(64, 1)
    for key in range(1, 51):
        items.put(key, f"n{key}", {"tag": key}, np.array([key]), np.ones(1, np.float32))
    items.forget(3)
    whole = items.state_dict()["texts.json"].tobytes()
    assert len(json.loads(whole)) == 49
    monkeypatch.setattr(catalog, "ENTRIES_PER_STEP", 4)
    monkeypatch.setattr(catalog, "PARTS_PER_STEP", 2)
    steps, state = walked(items.texts.copy_in_steps())
    assert state["json"].tobytes() == whole
    assert steps > 64 / 4 + 49 / 4 / 2


def test_a_catalogue_without_texts_is_copied() -> None:
    empty, other = Catalog(8, 1), Catalog(8, 1)
    assert empty.state_dict()["texts.json"].tobytes() == b"[]"
    other.load_state_dict(empty.state_dict())
    assert len(other) == 0
