from __future__ import annotations

from collections import OrderedDict

import numpy as np

from memory import Column, Table


def make(capacity: int) -> Table:
    return Table(capacity, total=Column(None, np.float64), vector=Column(2, np.float32, 1.5))


def test_equals_an_ordered_dict_of_rows() -> None:
    rng = np.random.default_rng(0)
    table, model = make(20), OrderedDict[int, float]()
    for _ in range(400):
        keys = rng.integers(1, 50, rng.integers(1, 20))
        if rng.random() < 0.2:
            table.delete(keys[:2])
            for key in keys[:2].tolist():
                model.pop(key, None)
            continue
        amounts = rng.integers(1, 9, keys.size).astype(float)
        np.add.at(table["total"], table.insert(keys), amounts)
        for key, amount in zip(keys.tolist(), amounts.tolist(), strict=True):
            if key not in model and len(model) == table.capacity:
                model.popitem(last=False)
            model[key] = model.get(key, 0.0) + amount
            model.move_to_end(key)
        assert table.keys[table.slots()].tolist() == list(model)
        assert table["total"][table.slots()].tolist() == list(model.values())
        assert len(table) == len(model)
    assert table.evictions > 100


def test_reused_rows_hold_the_fill_value() -> None:
    table = make(2)
    table["vector"][table.insert(np.array([1, 2]))] = 9
    slots = table.insert(np.array([3]))
    assert slots.tolist() == [0]
    assert table["vector"].tolist() == [[1.5, 1.5], [9, 9]]
    table.delete(np.array([2, 77]))
    assert table["vector"].tolist() == [[1.5, 1.5], [1.5, 1.5]]


def test_shapes_and_types_of_columns() -> None:
    table = Table(5, a=Column(), b=Column(3, np.int64, -1), c=Column(None, np.bool_))
    assert [(table[name].shape, table[name].dtype) for name in "abc"] == [
        ((5, 1), np.float32),
        ((5, 3), np.int64),
        ((5,), np.bool_),
    ]
    assert table["b"].min() == table["b"].max() == -1


def test_columns_stay_the_same_objects() -> None:
    table, other = make(4), make(4)
    column = table["total"]
    other["total"][other.insert(np.array([4, 5]))] = 7
    table.load_state_dict(other.state_dict())
    assert table["total"] is column
    assert column.tolist() == [7, 7, 0, 0]


def test_key_zero_changes_nothing() -> None:
    table = make(3)
    assert table.insert(np.array([0, 0])).tolist() == [-1, -1]
    assert len(table) == 0
    assert table["vector"].tolist() == [[1.5, 1.5]] * 3
    assert table.take_changes() == {}


def test_only_touched_rows_are_shipped() -> None:
    table = make(100)
    table.insert(np.arange(1, 61))
    table.take_changes()
    table["total"][table.insert(np.array([5]))] += 1
    table.delete(np.array([9]))
    table.dirty[table.find(np.array([30]))] = True
    changes = table.take_changes()
    assert changes["rows.rows"].tolist() == [4, 8, 29]
    assert changes["index.slots"].tolist() == [8, 4]
