from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from memory import Catalog, digest


def put(catalog: Catalog, key: int, **attributes: object) -> None:
    catalog.put(key, f"n{key}", attributes, np.array([key, key + 1]), np.array([1, 0.5], np.float32))


def ensure(catalog: Catalog, *keys: int) -> None:
    catalog.ensure(np.array(keys), [f"n{key}" for key in keys])


def test_an_item_is_read_back() -> None:
    catalog = Catalog(4, 2)
    put(catalog, 7, genre=["a", "b"], year=1999, price=1.5, none=None)
    assert catalog.get(7) == {"genre": ["a", "b"], "year": 1999, "price": 1.5, "none": None}
    assert catalog.name(7) == "n7"
    slot = catalog.find(np.array([7]))[0]
    features, values = catalog.encoded
    assert features[slot].tolist() == [7, 8]
    assert values[slot].tolist() == [1, 0.5]
    assert catalog.get(8) is None
    assert catalog.name(8) is None


def test_a_tombstone_outlives_late_interactions() -> None:
    catalog = Catalog(4, 2)
    put(catalog, 7, genre="a")
    assert catalog.delete(7)
    assert not catalog.delete(7)
    ensure(catalog, 7, 8)
    assert catalog.alive(np.array([7, 8, 9])).tolist() == [False, True, True]
    assert catalog.get(7) is None
    assert catalog.name(7) == "n7"
    assert catalog.items().tolist() == [8]
    assert b"genre" not in catalog.state_dict()["texts.json"].tobytes()
    assert not catalog.encoded[0][catalog.find(np.array([7]))].any()
    put(catalog, 7, genre="b")
    assert catalog.alive(np.array([7])).tolist() == [True]
    assert catalog.get(7) == {"genre": "b"}


def test_known_items_are_those_with_a_name_that_may_be_shown() -> None:
    catalog = Catalog(4, 2)
    ensure(catalog, 7, 8)
    catalog.delete(7)
    keys = np.array([9, 8, 7, 0])
    assert catalog.known(keys).tolist() == [False, True, False, False]
    assert catalog.names(keys) == [None, "n8", "n7", None]
    assert catalog.names(np.empty(0, np.int64)) == []


def test_forgetting_removes_the_tombstone_too() -> None:
    catalog = Catalog(4, 2)
    put(catalog, 7)
    catalog.delete(7)
    assert catalog.forget(7)
    assert not catalog.forget(7)
    assert digest(catalog.texts.state_dict()) == digest(Catalog(4, 2).texts.state_dict())
    ensure(catalog, 7)
    assert catalog.alive(np.array([7])).tolist() == [True]


def test_an_unknown_item_cannot_be_deleted() -> None:
    catalog = Catalog(4, 2)
    assert not catalog.delete(7)
    assert not catalog.delete(0)
    assert len(catalog) == 0


def test_ensure_keeps_known_items() -> None:
    catalog = Catalog(3, 2)
    put(catalog, 7, year=1)
    ensure(catalog, 8, 7, 8, 0)
    assert catalog.get(7) == {"year": 1}
    assert catalog.get(8) == {}
    assert catalog.name(8) == "n8"
    assert catalog.items().tolist() == [7, 8]


def test_eviction_erases_all_data_of_the_item() -> None:
    catalog = Catalog(2, 2)
    put(catalog, 1, secret=1)
    put(catalog, 2)
    ensure(catalog, 2, 3)
    assert catalog.evictions == 1
    assert catalog.items().tolist() == [2, 3]
    assert catalog.get(3) == {}
    assert not catalog.encoded[0][catalog.find(np.array([3]))].any()
    assert b"secret" not in catalog.state_dict()["texts.json"].tobytes()


def test_more_new_items_in_a_batch_than_the_capacity() -> None:
    catalog = Catalog(2, 0)
    ensure(catalog, 1, 2, 3, 4, 1)
    assert [catalog.name(key) for key in (1, 2, 3, 4)] == ["n1", None, None, "n4"]


def test_attributes_are_copied_for_writers_and_readers() -> None:
    catalog = Catalog(2, 0)
    attributes = {"genre": ["a"]}
    catalog.put(5, "five", attributes, np.empty(0, np.int64), np.empty(0, np.float32))
    attributes["genre"].append("b")
    got = catalog.get(5)
    assert got == {"genre": ["a"]}
    got["genre"].append("c")
    assert catalog.get(5) == {"genre": ["a"]}


def test_the_order_of_attributes_does_not_matter() -> None:
    one, other = Catalog(2, 2), Catalog(2, 2)
    put(one, 5, a=1, b=2)
    put(other, 5, b=2, a=1)
    assert digest(one.state_dict()) == digest(other.state_dict())


def test_memory_counts_texts_beyond_the_estimate() -> None:
    catalog = Catalog(2, 2)
    planned = catalog.nbytes
    put(catalog, 5, plot="x" * 50)
    assert catalog.nbytes == planned
    put(catalog, 5, plot="x" * 50_000)
    assert planned + 48_000 < catalog.nbytes < planned + 52_000
    catalog.load_state_dict(Catalog(2, 2).state_dict())
    assert catalog.nbytes == planned
    put(catalog, 5, plot="x" * 50_000)
    put(catalog, 5)
    assert catalog.nbytes == planned


def test_bad_input_is_refused_and_changes_nothing() -> None:
    catalog = Catalog(2, 2)
    before = digest(catalog.state_dict())
    with pytest.raises(ValueError, match="key: 0"):
        put(catalog, 0)
    with pytest.raises(ValueError, match="features"):
        catalog.put(5, "five", {}, np.zeros(3, np.int64), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="attributes"):
        put(catalog, 5, unsayable=object())
    with pytest.raises(ValueError, match="columns: -1"):
        Catalog(2, -1)
    assert digest(catalog.state_dict()) == before


def test_damaged_texts_are_refused() -> None:
    catalog = Catalog(2, 0)
    state = catalog.state_dict()
    for text, problem in ((b"[[0,", "json"), (b'[[2,"n",{}]]', "slots beyond 2")):
        with pytest.raises(ValueError, match=problem):
            catalog.load_state_dict(state | {"texts.json": np.frombuffer(text, np.uint8)})


def test_beyond_its_bytes_the_least_recently_touched_items_are_evicted() -> None:
    catalog = Catalog(100, 2, text_bytes=40_000)
    for key in range(1, 40):
        put(catalog, key, text="x" * 700)  # about 950 bytes each
    assert len(catalog) == 39 and catalog.evictions == 0
    ensure(catalog, 1)  # touched again
    for key in range(40, 45):
        put(catalog, key, text="x" * 700)
    assert catalog.evictions == 44 - len(catalog) > 0
    assert catalog.known(np.array([1, 2, 3, 44])).tolist() == [True, False, False, True]
    assert catalog.name(2) is None and catalog.get(44) == {"text": "x" * 700}
    assert catalog.texts.used <= 40_000
    put(catalog, 50, text="x" * 100_000)
    assert catalog.known(np.array([50, 44])).tolist() == [True, False], "one that is too large alone stays"


def test_a_follower_evicts_what_its_leader_evicted() -> None:
    leader, follower = Catalog(100, 2, text_bytes=20_000), Catalog(100, 2, text_bytes=20_000)
    for key in range(1, 60):
        put(leader, key, text="x" * 700)
        if key % 7 == 0:
            follower.apply_changes(leader.take_changes())
    follower.apply_changes(leader.take_changes())
    assert leader.evictions > 30
    assert digest(follower.state_dict()) == digest(leader.state_dict())


def test_the_newest_that_were_put_cost_what_they_are_and_not_the_catalogue() -> None:
    catalog = Catalog(1_000_000, 0)
    catalog.newest(1, listed=True)  # compiled now
    for key in range(1, 8):
        catalog.put(key, f"n{key}", {}, np.empty(0, np.int64), np.empty(0, np.float32))
    ensure(catalog, 8, 9, 3)
    catalog.delete(6)
    tracemalloc.start()
    try:
        assert catalog.newest(3, listed=True).tolist() == [3, 7, 5]
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert catalog.newest(3).tolist() == [3, 9, 8]
    assert catalog.newest(99, listed=True).tolist() == [3, 7, 5, 4, 2, 1]
