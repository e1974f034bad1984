from __future__ import annotations

import numpy as np

from memory.arrays import Arrays


def first() -> dict[str, np.ndarray]:
    return {"w": np.arange(1000.0).reshape(500, 2)}


def test_of_arrays_that_can_be_made_again_only_changed_rows_are_saved() -> None:
    store = Arrays.made_by(first)
    assert store.state_dict()["rows"].size == 0
    store["w"][[3, 7]] = -1.0
    store.mark(np.array([3, 7]))
    store.take_changes()
    store["w"][9] = -2.0
    store.mark(np.array([9]))
    saved = store.state_dict()
    assert saved["rows"].tolist() == [3, 7, 9], "shipped or not, what has changed since the first values is saved"
    assert saved["w"].tolist() == [[-1, -1], [-1, -1], [-2, -2]]


def test_loading_brings_back_the_first_values_of_all_other_rows() -> None:
    saved = Arrays.made_by(first).state_dict()
    store = Arrays.made_by(first)
    live = store["w"]
    store["w"][:] = 5.0
    store.mark()
    store.load_state_dict(saved)
    assert (store["w"] == first()["w"]).all()
    assert store["w"] is live
    assert store.take_changes() == {}
