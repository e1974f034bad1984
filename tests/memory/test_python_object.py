from __future__ import annotations

import collections
import functools
import random
import sys
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from memory import PythonObject, digest
from memory.object_graph import decoded, encoded

NOTHING: tuple[str, ...] = ()


def again(value: Any) -> Any:
    return decoded(encoded(value, NOTHING), NOTHING)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [True, 1, -(1 << 63), 1 << 70, 0.1, float("inf"), "text", b"bytes"],
        (1, (2, [3]), frozenset({4, 5}), {6, 7}),
        {"a": {1: 2.0, -3: 4.5}, (1, 2): {}, None: {"b": 1}, 1 << 70: {1 << 70: 1.0}},
        collections.deque([1, 2, 3], maxlen=5),
        collections.OrderedDict(b=1, a=2),
        collections.defaultdict(
            functools.partial(collections.defaultdict, float), {"x": collections.defaultdict(float, {"y": 1.0})}
        ),
        Counter(a=3),
        {"class": dict, "number": float},
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_as_they_were(value: Any) -> None:
    made = again(value)
    assert made == value and type(made) is type(value)
    assert encoded(made, NOTHING) == encoded(value, NOTHING)


def test_arrays_scalars_and_generators_of_numbers_come_back() -> None:
    grid = np.arange(6.0).reshape(2, 3)
    for array in (
        grid,
        np.asfortranarray(grid),
        np.array([1, "a", None], dtype=object),
        np.array(["x", "yy"]),
        np.empty((0, 3)),
    ):
        made = again(array)
        assert made.dtype == array.dtype and made.shape == array.shape and (made == array).all() and made.flags.writeable
        assert made.flags.f_contiguous == array.flags.f_contiguous
    assert again(np.float64(0.5)) == 0.5 and type(again(np.float64(0.5))) is np.float64
    for source in (random.Random(3), np.random.RandomState(3)):
        copy = again(source)
        assert [copy.random() for _ in range(5)] == [source.random() for _ in range(5)]


def test_what_is_shared_stays_shared_and_cycles_close() -> None:
    inner: list[Any] = [1]
    inner.append(inner)
    made = again({"a": inner, "b": inner, "array": np.arange(3)})
    assert made["a"] is made["b"] and made["a"][1] is made["a"]


def test_equal_objects_give_equal_bytes() -> None:
    name = "feature"
    assert encoded([name, name], NOTHING) == encoded([name, "".join(["fea", "ture"])], NOTHING)
    assert encoded({"b", "a", "c"}, NOTHING) == encoded({"c", "b", "a"}, NOTHING)


class Foreign:
    pass


@pytest.mark.parametrize("value", [Foreign(), Foreign, len, lambda: None, sys, [{"deep": Foreign()}], (n for n in ())])
def test_what_cannot_be_saved_is_refused_at_once(value: Any) -> None:
    with pytest.raises(ValueError, match="cannot be saved"):
        encoded(value, NOTHING)


NAME, NEW, CALL, METHOD, OBJECTS = 7, 12, 13, 11, 9


@pytest.mark.parametrize(
    "node",
    [
        [CALL, "os.system", ["exit 3"], None, [], []],
        [CALL, "builtins.eval", ["1"], None, [], []],
        [CALL, "builtins.getattr", ["a", "upper"], None, [], []],
        [CALL, "tests.memory.test_python_object.Foreign", [], None, [], []],
        [CALL, "memory.stateful.os.system", ["exit 3"], None, [], []],
        [CALL, "collections.namedtuple", ["x", "y"], None, [], []],
        [CALL, "collections.OrderedDict.fromkeys", [[1]], None, [], []],
        [CALL, "copy.deepcopy", [1], None, [], []],
        [CALL, "functools.reduce", [1, 2], None, [], []],
        [CALL, "importlib.import_module", ["this"], None, [], []],
        [CALL, "river.stream.iter_csv.iter_csv", ["/etc/passwd"], None, [], []],
        [CALL, "river.base.base.importlib.import_module", ["this"], None, [], []],
        [NEW, "subprocess.Popen", [], None, [], []],
        [NEW, "builtins.type", ["X", [1], {}], None, [], []],
        [NAME, "os.system"],
        [NAME, "builtins.exec"],
        [METHOD, "text", "format"],
        [8, "O", [1], "C", b"01234567"],
        [10, "O", b"01234567"],
        [99],
        [],
        [0, 5],
    ],
)
def test_data_cannot_name_other_code(node: list[Any]) -> None:
    data = msgspec.msgpack.encode(node)
    with pytest.raises(ValueError, match="does not load here"):
        decoded(data, ("river",))


def test_damaged_data_are_refused_and_nothing_changes() -> None:
    store = PythonObject(Counter(a=1), NOTHING)
    before = digest(store.state_dict())
    whole = store.state_dict()["object"]
    with pytest.raises(ValueError, match="holds a dict where a Counter is configured"):
        store.load_state_dict(PythonObject({"a": 1}, NOTHING).state_dict())
    for damaged in (whole[:-3], whole[:0], np.zeros(50, np.uint8)):
        with pytest.raises(ValueError, match=r"does not load|holds a"):
            store.load_state_dict({"object": damaged})
    assert digest(store.state_dict()) == before


def test_an_unchanged_object_is_not_shipped_again() -> None:
    store = PythonObject(Counter(), NOTHING)
    assert store.take_changes()
    assert store.take_changes() == {}
    store.value["a"] += 1
    assert store.take_changes()
    assert store.nbytes == store.state_dict()["object"].size


def test_a_restored_river_model_continues_like_the_original() -> None:
    linear_model = pytest.importorskip("river.linear_model")
    rng = np.random.default_rng(0)
    rows = [({f"f{i}": float(x) for i, x in enumerate(rng.normal(size=3)) if x > -1}, bool(rng.integers(2))) for _ in range(60)]
    whole, restored = (PythonObject(linear_model.LogisticRegression(), ["river"]) for _ in range(2))
    for x, y in rows[:30]:
        whole.value.learn_one(x, y)
    restored.load_state_dict(whole.state_dict())
    for x, y in rows[30:]:
        whole.value.learn_one(x, y)
        restored.value.learn_one(dict(x), y)
    assert digest(restored.state_dict()) == digest(whole.state_dict())
