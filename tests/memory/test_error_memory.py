"""The two memories keep, find, evict and forget rows. Golden vectors come from an independent implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory.error_memory import ErrorMemory, ErrorSketch

GOLDEN = Path(__file__).parents[1] / "golden"


def write(memory: ErrorMemory, keys: np.ndarray, first: int = 0, k: int = 3) -> None:
    n = len(keys)
    rows = np.arange(first, first + n)
    memory.write(keys, rows % 2, rows / 100, timestamp=rows * 1.0, user=rows + 1, item=rows + 1000, k=k)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_oldest_rows_are_overwritten(kind: Any) -> None:
    memory = ErrorMemory(5, 4, kind=kind, similarity="l2")
    keys = np.random.default_rng(0).normal(size=(13, 4))
    for first in (0, 3, 6, 9):
        write(memory, keys[first : first + 3], first)
    assert len(memory) == 5
    assert sorted(memory.rows["item"]) == [1007, 1008, 1009, 1010, 1011]
    found = memory.read(keys, 1)
    assert np.array_equal(memory.rows["item"][found.slots[7:12, 0]], np.arange(1007, 1012))
    assert (found.similarity[:7] < 0).all(), "the others are gone"


def test_of_more_rows_than_the_capacity_the_last_stay() -> None:
    memory, same = ErrorMemory(5, 4), ErrorMemory(5, 4)
    keys = np.random.default_rng(0).normal(size=(23, 4))
    write(memory, keys)
    for n in range(23):
        write(same, keys[n : n + 1], n)
    assert sorted(memory.rows["item"]) == [1018, 1019, 1020, 1021, 1022]
    assert np.array_equal(memory.rows["item"], same.rows["item"])
    assert np.array_equal(memory.index.rows["vector"], same.index.rows["vector"])


def test_written_rows_are_read_back() -> None:
    memory = ErrorMemory(10, 4, similarity="l2")
    keys = np.random.default_rng(0).normal(size=(4, 4))
    write(memory, keys)
    found = memory.read(keys[[2, 1]], 6)
    assert np.array_equal(found.slots[:, 0], [2, 1])
    assert np.array_equal(found.label[:, 0], [0, 1])
    assert np.allclose(found.base_score[:, 0], [0.02, 0.01])
    assert (found.slots[:, 4:] == -1).all()
    assert not found.label[:, 4:].any()
    assert np.isneginf(found.similarity[:, 4:]).all()


def test_age_is_the_number_of_rows_written_since() -> None:
    memory, keys = ErrorMemory(5, 4), np.random.default_rng(0).normal(size=(7, 4))
    write(memory, keys)
    assert memory.rows["item"].tolist() == [1005, 1006, 1002, 1003, 1004]
    evidence = memory.read(keys[2:].astype(np.float32), 1)
    assert evidence.slots[:, 0].tolist() == [2, 3, 4, 0, 1]
    assert evidence.age[:, 0].tolist() == [4, 3, 2, 1, 0]


def test_evidence_of_selected_queries() -> None:
    memory = ErrorMemory(10, 4)
    keys = np.random.default_rng(0).normal(size=(10, 4))
    write(memory, keys)
    some, alone = memory.read(keys, 3).of(np.array([7, 2])), memory.read(keys[[7, 2]], 3)
    for name in ("slots", "similarity", "label", "base_score"):
        assert np.array_equal(getattr(some, name), getattr(alone, name))


def test_users_and_items_are_forgotten_and_their_slots_are_used_again() -> None:
    memory = ErrorMemory(10, 4)
    keys = np.random.default_rng(0).normal(size=(25, 4))
    write(memory, keys[:10])
    memory.forget(np.array([3, 0, 77]))
    memory.remove(np.array([1005]))
    assert len(memory) == 8
    assert not np.isin(memory.rows["user"], [3, 6]).any()
    assert not np.isin(memory.read(keys[:10], 10).slots, [2, 5]).any()
    assert not memory.index.rows["vector"][[2, 5]].any(), "their vectors are erased"
    write(memory, keys[10:20], 10)
    assert len(memory) == 10
    memory.clear()
    assert len(memory) == 0
    assert (memory.read(keys, 3).slots == -1).all()


def test_golden_neighbours() -> None:
    golden = np.load(GOLDEN / "reloop2_knn.npz")
    for name, similarity in (("cos", "cosine"), ("l2", "l2")):
        for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
            memory = ErrorMemory(len(golden["H"]), 16, similarity=similarity, dtype=dtype)  # type: ignore[arg-type]
            none = np.zeros(len(golden["H"]), np.int64)
            memory.write(golden["H"], golden["y"], golden["yb"], timestamp=none * 0.0, user=none, item=none, k=10)
            for k in (1, 10, 70):
                found = memory.read(golden["Q"], k)
                assert np.array_equal(found.slots, golden[f"{name}_k{k}/idx"])
                scale = np.abs(golden[f"{name}_k{k}/s"]).max()
                assert np.abs(found.similarity - golden[f"{name}_k{k}/s"]).max() <= tolerance * max(scale, 1)


def sketch_of(golden: Any, rows: int) -> ErrorSketch:
    sketch = ErrorSketch(16, arrays=5, bits=6, centred=False)
    sketch.planes[...] = golden["W"]
    for start in range(0, rows, 7):
        part = slice(start, min(start + 7, rows))
        sketch.write(golden["H"][part], golden["y"][part], golden["yb"][part])
    return sketch


@pytest.mark.parametrize("rows", [10, 100, 600])
def test_golden_sketch(rows: int) -> None:
    golden = np.load(GOLDEN / "reloop2_sketch.npz")
    sketch = sketch_of(golden, rows)
    first = np.arange(5) * 64
    assert np.array_equal(sketch.buckets(golden["H"]) - first, golden["bucket_H"].T)
    assert np.array_equal(sketch.buckets(golden["Q"]) - first, golden[f"n{rows}/bucket_Q"].T)
    assert np.abs(sketch.sums["sums"].reshape(5, 64, 3) - golden[f"n{rows}/A"]).max() < 1e-10
    found, count = sketch.read(golden["Q"]), golden[f"n{rows}/count_Q"].T
    assert np.array_equal(found.slots < 0, count == 0)
    assert np.allclose(np.where(count > 0, found.similarity, 0) * rows, count, rtol=0, atol=1e-10)
    assert len(sketch) == rows


def test_a_sketch_with_decay_weights_rows_by_age() -> None:
    keys, ones = np.ones((1, 3)), np.ones(1)
    sketch = ErrorSketch(3, arrays=4, bits=3, centred=False, decay=0.5)
    for label in [1.0] + [0.0] * 200 + [1.0]:
        sketch.write(keys, ones * label, ones * 0)
    assert np.allclose(sketch.read(keys).label, 0.5, atol=1e-12)
    assert np.allclose(sketch.read(keys).similarity, 1.0)
    sketch.clear()
    assert (sketch.read(keys).slots == -1).all()


def test_centring_separates_keys_of_similar_directions() -> None:
    rng = np.random.default_rng(0)
    keys = 5 + np.maximum(rng.normal(size=(500, 16)), 0)
    spread = {}
    for centred in (False, True):
        sketch = ErrorSketch(16, arrays=10, bits=8, centred=centred)
        sketch.write(keys, np.zeros(500), np.zeros(500))
        spread[centred] = np.mean([np.unique(buckets).size for buckets in sketch.buckets(keys).T])
    assert spread[False] < 40
    assert spread[True] > 100


def test_a_row_of_weight_5_in_a_sketch_is_five_rows() -> None:
    rng = np.random.default_rng(0)
    keys, label, base = rng.normal(size=(20, 3)), rng.integers(0, 2, 20) * 1.0, rng.uniform(size=20)
    weighted, repeated = (ErrorSketch(3, arrays=4, bits=3) for _ in range(2))
    weighted.write(keys, label, base, np.where(np.arange(20) < 4, 5.0, 1.0))
    again = np.repeat(np.arange(20), np.where(np.arange(20) < 4, 5, 1))
    repeated.write(keys[again], label[again], base[again])
    one, other = weighted.read(keys), repeated.read(keys)
    assert len(weighted) == len(repeated) == 36
    for name in ("slots", "similarity", "label", "base_score", "weight"):
        assert np.allclose(getattr(one, name), getattr(other, name)), name


def test_weights_are_read_with_their_rows() -> None:
    memory = ErrorMemory(10, 4, similarity="l2")
    rows = np.arange(3)
    memory.write(
        np.eye(3, 4), rows * 1.0, rows * 0.0, timestamp=rows * 1.0, user=rows + 1, item=rows + 1, k=2, weight=rows + 2.0
    )
    found = memory.read(np.eye(3, 4)[1:2], 4)
    assert found.weight[0, 0] == 3.0
    assert (found.weight[found.slots < 0] == 0).all()
