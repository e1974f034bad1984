from __future__ import annotations

import numpy as np
import pytest

from memory.arrays import Arrays
from memory.keyed.table import Column, Table
from memory.stateful import Stateful, without_private


def initial() -> dict[str, np.ndarray]:
    return {"w": np.arange(1000.0).reshape(500, 2)}


def test_made_arrays_save_only_changed_rows() -> None:
    store = Arrays.from_factory(initial)
    assert store.state_dict()["rows"].size == 0
    store["w"][[3, 7]] = -1.0
    store.mark(np.array([3, 7]))
    store.take_changes()
    store["w"][9] = -2.0
    store.mark(np.array([9]))
    saved = store.state_dict()
    assert saved["rows"].tolist() == [3, 7, 9], "rows that differ from the initial values are saved, shipped or not"
    assert saved["w"].tolist() == [[-1, -1], [-1, -1], [-2, -2]]


def test_loading_restores_the_initial_values_of_all_other_rows() -> None:
    saved = Arrays.from_factory(initial).state_dict()
    store = Arrays.from_factory(initial)
    live = store["w"]
    store["w"][:] = 5.0
    store.mark()
    store.load_state_dict(saved)
    assert (store["w"] == initial()["w"]).all()
    assert store["w"] is live
    assert store.take_changes() == {}


def test_private_arrays_are_saved_and_not_shipped() -> None:
    leader, follower = (Arrays(w=np.zeros(4), squares=np.ones(4), private=["squares"]) for _ in range(2))
    leader["w"][2], leader["squares"][2] = 5.0, 9.0
    leader.mark(np.array([2]))
    changes = leader.take_changes()
    assert {name: array.tolist() for name, array in changes.items()} == {"rows": [2], "w": [5.0]}
    follower.apply_changes(changes)
    assert follower["w"].tolist() == [0, 0, 5, 0]
    assert follower["squares"].tolist() == [1, 1, 1, 1], "as of its last checkpoint"
    saved = leader.state_dict()
    assert saved["squares"].tolist() == [1, 1, 9, 1]
    assert without_private(leader, saved).keys() == {"w"}
    follower.load_state_dict(saved)
    assert follower["squares"].tolist() == [1, 1, 9, 1]


def test_arrays_that_are_all_private_ship_nothing() -> None:
    store = Arrays.from_factory(initial, private=["w"])
    store["w"][3] = -1.0
    store.mark(np.array([3]))
    assert store.take_changes() == {}
    saved = store.state_dict()
    assert saved["rows"].tolist() == [3], "they are saved"
    assert without_private(store, saved) == {}


def test_changes_with_arrays_that_are_private_here_are_refused() -> None:
    leader, follower = Arrays(w=np.zeros(4), squares=np.ones(4)), Arrays(w=np.zeros(4), squares=np.ones(4), private=["squares"])
    leader.mark()
    with pytest.raises(ValueError, match="another configuration"):
        follower.apply_changes(leader.take_changes())


def test_an_unknown_private_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"private: \['square'\] where there are \['squares', 'w'\]"):
        Arrays(w=np.zeros(4), squares=np.ones(4), private=["square"])


def test_columns_and_whole_attributes_can_be_private() -> None:
    class Model(Stateful):
        private = frozenset({"clock"})

        def __init__(self) -> None:
            self.table = Table(4, bias=Column(None), squares=Column(None, private=True))
            self.clock = Arrays(step=np.zeros(1, np.int64))

    model = Model()
    model.table.insert(np.array([7]))
    model.clock.mark()
    assert model.take_changes().keys() == {"table.index.slots", "table.index.keys", "table.rows.rows", "table.rows.bias"}
    state = model.state_dict()
    assert state.keys() - without_private(model, state).keys() == {"clock.step", "table.rows.squares"}
