from __future__ import annotations

import numpy as np
import pytest

from memory import Arrays, Catalog, Stateful, digest


def test_the_digest_depends_on_names_types_shapes_and_bytes() -> None:
    states = [
        {"a": np.zeros(4, np.int32)},
        {"b": np.zeros(4, np.int32)},
        {"a": np.zeros(4, np.float32)},
        {"a": np.zeros((2, 2), np.int32)},
        {"a": np.array([0, 0, 0, 1], np.int32)},
        {"a": np.zeros(0, np.int32)},
        {"a": np.zeros((0, 2), np.int32)},
        {},
    ]
    assert len({digest(state) for state in states}) == len(states)
    assert digest({"a": states[0]["a"], "b": states[1]["b"]}) == digest({"b": states[1]["b"], "a": states[0]["a"]})
    assert digest({"a": np.arange(6).reshape(2, 3).T}) == digest({"a": np.arange(6).reshape(2, 3).T.copy()})


def test_stores_have_dotted_names() -> None:
    outer, inner = Stateful(), Stateful()
    inner.weights = Arrays(w=np.zeros(2))  # type: ignore[attr-defined]
    outer.rate = 3  # type: ignore[attr-defined]
    outer.inner = inner  # type: ignore[attr-defined]
    assert [name for name, _ in outer.stores()] == ["inner.weights"]
    assert list(outer.state_dict()) == ["inner.weights.w"]
    assert outer.nbytes == inner.weights.nbytes == 2 * 8 + 2  # type: ignore[attr-defined]


def test_an_attribute_without_state_is_ignored() -> None:
    whole = Stateful()
    whole.empty = Stateful()  # type: ignore[attr-defined]
    whole.load_state_dict(whole.state_dict())
    with pytest.raises(ValueError, match="surplus"):
        whole.load_state_dict({"surplus.x": np.zeros(1)})


def test_a_store_owns_its_arrays_and_keeps_the_objects() -> None:
    given = np.zeros((3, 2))
    store = Arrays(w=given, view=np.arange(6).reshape(2, 3).T, fixed=np.broadcast_to(np.float32(1), 3))
    live = store["w"]
    assert live is given
    assert store["view"].flags.c_contiguous
    assert store["fixed"].flags.writeable
    assert list(store) == ["w", "view", "fixed"]
    store.load_state_dict({name: array + 1 for name, array in store.state_dict().items()})
    assert store["w"] is live
    assert live.tolist() == [[1, 1]] * 3


def test_marked_rows_are_shipped_once() -> None:
    store = Arrays(w=np.zeros(5), n=np.zeros((5, 2), np.int8))
    store["w"][[1, 3]] = 2
    store.mark(np.array([3, 1, 3]))
    changes = store.take_changes()
    assert changes["rows"].tolist() == [1, 3]
    assert changes["w"].tolist() == [2, 2]
    assert changes["n"].shape == (2, 2)
    assert store.take_changes() == {}
    store.mark()
    assert store.take_changes()["rows"].tolist() == [0, 1, 2, 3, 4]


def test_changes_of_another_configuration_are_refused() -> None:
    store = Arrays(w=np.zeros((3, 2)))
    for changes, problem in (
        ({"rows": np.array([3]), "w": np.ones((1, 2))}, "rows"),
        ({"rows": np.array([-1]), "w": np.ones((1, 2))}, "rows"),
        ({"w": np.ones((1, 2))}, "rows"),
        ({"rows": np.array([0]), "w": np.ones((1, 3))}, "w"),
        ({"rows": np.array([0]), "v": np.ones((1, 2))}, "v"),
    ):
        with pytest.raises(ValueError, match=problem):
            store.apply_changes(changes)
    assert not store["w"].any()


def test_arrays_that_cannot_be_a_store_are_refused() -> None:
    for arrays, problem in (
        ({}, "none given"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "same number"),
        ({"rows": np.zeros(2)}, "reserved"),
        ({"a.b": np.zeros(2)}, "reserved"),
        ({"a": np.array(1.0)}, "first axis"),
        ({"a": np.array(["x"], object)}, "numbers"),
    ):
        with pytest.raises(ValueError, match=problem):
            Arrays(**arrays)


def test_a_state_is_copied_in_steps_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.stateful.CHUNK_BYTES", 1000)
    monkeypatch.setattr("memory.keyed.catalog.ENTRIES_PER_STEP", 3)
    whole = Stateful()
    whole.plain = Arrays(w=np.arange(1000.0).reshape(100, 10))  # type: ignore[attr-defined]
    whole.made = Arrays.from_factory(lambda: {"w": np.zeros((100, 10))})  # type: ignore[attr-defined]
    whole.made["w"][30:] = 1  # type: ignore[attr-defined]
    whole.made.mark(np.arange(30, 100))  # type: ignore[attr-defined]
    whole.items = Catalog(10, 1)  # type: ignore[attr-defined]
    for key in range(1, 9):
        whole.items.put(key, f"i{key}", {"n": key}, np.array([key]), np.ones(1, np.float32))  # type: ignore[attr-defined]
    steps, count = whole.copy_in_steps(), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            copy = end.value
            break
        count += 1
    # 8,000 bytes and 5,600 bytes of arrays in steps of 960 bytes (twelve rows), six small arrays, the order of the keys, ten
    # places of texts in threes, and their joining.
    assert count == 9 + 6 + 5 + 1 + 4 + 1
    assert digest(copy) == digest(whole.state_dict())
    assert copy["plain.w"].tolist() == np.arange(1000.0).reshape(100, 10).tolist()
    assert copy["made.rows"].tolist() == list(range(30, 100))
    again = Catalog(10, 1)
    again.load_state_dict({name.removeprefix("items."): array for name, array in copy.items() if name.startswith("items.")})
    assert [again.get(key) for key in (1, 8)] == [{"n": 1}, {"n": 8}]
