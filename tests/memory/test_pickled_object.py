from __future__ import annotations

import os
import pickle
from collections import Counter

import numpy as np
import pytest

from memory import PickledObject, UntrustedPickle, digest, trusting


class Trap:
    """Unpickling one would run a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("exit 3",)


def test_a_pickle_is_refused_outside_trusting() -> None:
    blob = PickledObject(Counter(a=1))
    before = digest(blob.state_dict())
    trap = {"pickle": np.frombuffer(pickle.dumps(Trap()), np.uint8)}
    for load in (blob.load_state_dict, blob.check_state_dict, blob.apply_changes):
        with pytest.raises(UntrustedPickle, match="chmod go-w"):
            load(trap)
    assert digest(blob.state_dict()) == before


def test_trusting_ends_with_its_block_even_after_an_error() -> None:
    blob = PickledObject(Counter(a=1))
    with pytest.raises(KeyError), trusting():
        blob.load_state_dict(blob.state_dict())
        raise KeyError
    with pytest.raises(UntrustedPickle):
        blob.load_state_dict(blob.state_dict())


def test_another_class_and_a_damaged_pickle_are_refused() -> None:
    blob = PickledObject(Counter(a=1))
    before = digest(blob.state_dict())
    with trusting():
        with pytest.raises(ValueError, match="holds a dict where a Counter is configured"):
            blob.load_state_dict(PickledObject({"a": 1}).state_dict())
        with pytest.raises(ValueError, match="does not load"):
            blob.load_state_dict({"pickle": blob.state_dict()["pickle"][:-3]})
    assert digest(blob.state_dict()) == before


def test_equal_strings_give_equal_bytes_even_if_they_are_different_objects() -> None:
    name = "feature"
    shared, equal = [name, name], [name, "".join(["fea", "ture"])]
    assert equal[0] is not equal[1]
    assert pickle.dumps(shared) != pickle.dumps(equal)
    assert digest(PickledObject(shared).state_dict()) == digest(PickledObject(equal).state_dict())


def test_shared_references_are_kept() -> None:
    inner = [1]
    blob = PickledObject({"a": inner, "b": inner, "array": np.arange(3)})
    with trusting():
        blob.load_state_dict(blob.state_dict())
    assert blob.value["a"] is blob.value["b"]
    assert blob.value["array"].tolist() == [0, 1, 2]


def test_an_unchanged_object_is_not_shipped_again() -> None:
    blob = PickledObject(Counter())
    assert blob.take_changes()
    assert blob.take_changes() == {}
    blob.value["a"] += 1
    assert blob.take_changes()
    assert blob.nbytes == blob.state_dict()["pickle"].size


def test_an_object_that_cannot_be_pickled_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="value: function cannot be pickled"):
        PickledObject(lambda: None)


def test_a_restored_river_model_continues_like_the_original() -> None:
    linear_model = pytest.importorskip("river.linear_model")
    rng = np.random.default_rng(0)
    rows = [({f"f{i}": float(x) for i, x in enumerate(rng.normal(size=3)) if x > -1}, bool(rng.integers(2))) for _ in range(60)]
    whole, restored = PickledObject(linear_model.LogisticRegression()), PickledObject(linear_model.LogisticRegression())
    for x, y in rows[:30]:
        whole.value.learn_one(x, y)
    with trusting():
        restored.load_state_dict(whole.state_dict())
    for x, y in rows[30:]:
        whole.value.learn_one(x, y)
        restored.value.learn_one(dict(x), y)
    assert digest(restored.state_dict()) == digest(whole.state_dict())
