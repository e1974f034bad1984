"""One suite for every store: each must keep the contract of `Stateful`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from memory import Arrays, Catalog, Column, History, KeyIndex, PythonObject, Stateful, Table, digest
from memory.error_memory import ErrorMemory, ErrorSketch
from memory.keyed.click_statistics import ClickStatistics
from memory.keyed.seen_items import SeenItems
from memory.moments import Moments
from memory.parameters import Parameters
from memory.sparse.block_pool import BlockPool
from memory.stateful import without_private
from memory.vectors.vector_index import VectorIndex

ROWS = 7
"""Rows of one operation."""


class Composite(Stateful):
    """Two stores (one nested), a child without state, and an attribute that is no state."""

    def __init__(self) -> None:
        self.rate = 0.5
        self.table = make_table()
        self.inner = Stateful()
        self.inner.history = History(5, 3)  # type: ignore[attr-defined]
        self.inner.nothing = Stateful()  # type: ignore[attr-defined]


def make_table() -> Table:
    return Table(6, total=Column(None), vector=Column(3, np.float64, 0.5), count=Column(1, np.int32, -1))


def keys_of(rng: np.random.Generator) -> np.ndarray:
    """More different keys than any store of this suite can hold, and 0."""
    return rng.integers(0, 12, ROWS)


def first_values() -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng(3).normal(size=(9, 2)).astype(np.float32), "n": np.full(9, 7)}


def change_arrays(store: Arrays, rng: np.random.Generator) -> None:
    rows = rng.integers(0, len(store), 3)
    store["w"][rows] = rng.normal(size=(3, 2))
    store["n"][rows] += 1
    store.mark(rows)


def change_index(store: KeyIndex, rng: np.random.Generator) -> None:
    store.insert(keys_of(rng))
    store.delete(keys_of(rng)[:3])


def change_table(store: Table, rng: np.random.Generator) -> None:
    slots = store.insert(keys_of(rng))
    slots = slots[slots >= 0]
    store["total"][slots] += 1
    store["vector"][slots] = rng.normal(size=(slots.size, 3))
    known = store.find(keys_of(rng))
    known = known[known >= 0]
    store["count"][known] += 2
    store.dirty[known] = True
    store.delete(keys_of(rng)[:2])


def change_history(store: History, rng: np.random.Generator) -> None:
    kind = rng.integers(1, 4, ROWS).astype(np.int32)
    store.append(keys_of(rng), keys_of(rng), rng.uniform(size=ROWS), kind, rng.uniform(size=ROWS) < 0.5)
    store.forget(keys_of(rng)[:1])


def change_seen(store: SeenItems, rng: np.random.Generator) -> None:
    store.add(keys_of(rng), rng.integers(1, 40, ROWS))
    store.forget(keys_of(rng)[:1])


def change_statistics(store: ClickStatistics, rng: np.random.Generator) -> None:
    rows = rng.uniform(0, 1e4, ROWS), rng.random(ROWS) < 0.5, rng.random(ROWS) < 0.9
    store.add(keys_of(rng) % 5, *rows)
    store.describe_in_order(keys_of(rng) % 5, *rows[:2])
    store.forget(keys_of(rng)[:1])


def read_statistics(store: ClickStatistics) -> np.ndarray:
    return store.describe(np.arange(12), np.full(12, 1e4))


def change_catalog(store: Catalog, rng: np.random.Generator) -> None:
    keys = keys_of(rng)
    store.ensure(keys, [f"item {key}" for key in keys])
    key = int(rng.integers(1, 12))
    store.put(key, f"item {key}", {"genre": ["a", "b"], "year": key}, rng.integers(1, 99, 2), np.array([1, key], np.float32))
    store.delete(int(rng.integers(1, 12)))
    store.forget(int(rng.integers(1, 12)))


def change_moments(store: Moments, rng: np.random.Generator) -> None:
    store.add(keys_of(rng)[1:].reshape(-1, 2), rng.normal(5.0, 2.0, (ROWS // 2, 2)).astype(np.float32))


def change_blob(store: PythonObject, rng: np.random.Generator) -> None:
    store.value.update(f"word {key}" for key in keys_of(rng))


def change_composite(store: Composite, rng: np.random.Generator) -> None:
    change_table(store.table, rng)
    change_history(store.inner.history, rng)  # type: ignore[attr-defined]


def change_vectors(store: VectorIndex, rng: np.random.Generator) -> None:
    slots = rng.permutation(store.capacity)[:5]
    store.write(slots, rng.normal(size=(5, 3)))
    store.delete(slots[:1])
    store.maintain(2, rows=5)


def change_errors(store: ErrorMemory, rng: np.random.Generator) -> None:
    keys, label, score = rng.normal(size=(ROWS, 3)), rng.integers(0, 2, ROWS), rng.uniform(size=ROWS)
    user, item = keys_of(rng), keys_of(rng)
    store.write(keys, label, score, timestamp=rng.uniform(size=ROWS), user=user, item=item, k=2)
    store.forget(keys_of(rng)[:1])
    store.remove(keys_of(rng)[:1])


def change_sketch(store: ErrorSketch, rng: np.random.Generator) -> None:
    store.write(rng.normal(size=(ROWS, 3)), rng.integers(0, 2, ROWS), rng.uniform(size=ROWS))


class Scorer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 3, sparse=True)
        self.head = torch.nn.Linear(3, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids)).sum()


def make_parameters() -> Parameters[Scorer]:
    def optimize(module: Scorer) -> list[torch.optim.Optimizer]:
        return [torch.optim.SparseAdam([module.embedding.weight]), torch.optim.Adam(module.head.parameters())]

    return Parameters(Scorer, optimize, tables=["embedding.weight"])


def change_parameters(store: Parameters[Scorer], rng: np.random.Generator) -> None:
    store.step(store.module(torch.from_numpy(rng.integers(0, 9, 3))))
    store.reset("embedding.weight", rng.integers(0, 9, 1))


def read_parameters(store: Parameters[Scorer]) -> None:
    with torch.no_grad():
        store.module(torch.arange(9))


def change_pool(store: BlockPool, rng: np.random.Generator) -> None:
    store.learn(keys_of(rng) - 1, rng.normal(size=(ROWS, 8)))
    store.prune_and_grow(0.3)
    store.forget(keys_of(rng)[:1])


def read_vectors(store: VectorIndex) -> None:
    store.search(np.eye(3), 2), len(store), store.recall(2), store.last_recall


def read_table(store: Table) -> None:
    store.find(np.arange(9)), store.slots(), len(store), store.keys, store.evictions


def read_history(store: History) -> None:
    store.recent(np.arange(9), 4), store.seen(np.arange(9)), store.entries(3), len(store)


def read_catalog(store: Catalog) -> None:
    store.find(np.arange(9)), store.alive(np.arange(9)), store.name(3), store.items(), store.encoded
    attributes = store.get(3)
    if attributes is not None:
        attributes["genre"] = "changed by the reader"


def read_composite(store: Composite) -> None:
    read_table(store.table)
    read_history(store.inner.history)  # type: ignore[attr-defined]


@dataclass
class Case:
    make: Callable[[], Stateful]
    change: Callable[..., None]
    read: Callable[..., object]
    array: str
    """Name of an array of its state."""
    needs_private: bool = False
    """Whether learning reads private state. If so, a follower can follow, but cannot continue to learn."""


CASES = {
    "arrays": Case(lambda: Arrays(w=np.ones((9, 2), np.float32), n=np.zeros(9, np.int64)), change_arrays, len, "w"),
    "arrays, one private": Case(
        lambda: Arrays(w=np.ones((9, 2), np.float32), n=np.zeros(9, np.int64), private=["n"]), change_arrays, len, "w"
    ),
    "made arrays, one private": Case(lambda: Arrays.from_factory(first_values, private=["n"]), change_arrays, len, "w"),
    "parameters": Case(make_parameters, change_parameters, read_parameters, "embedding.weight.value", True),
    "made arrays": Case(lambda: Arrays.from_factory(first_values), change_arrays, len, "w"),
    "key_index": Case(lambda: KeyIndex(6), change_index, lambda store: (store.find(np.arange(9)), store.slots()), "order"),
    "table": Case(make_table, change_table, read_table, "rows.vector"),
    "history": Case(lambda: History(5, 3), change_history, read_history, "rings.item"),
    "seen items": Case(lambda: SeenItems(5, 40, 16), change_seen, lambda store: store.of(np.arange(12)), "blocks.item"),
    "click statistics": Case(
        lambda: ClickStatistics(6, [60.0, 3600.0]), change_statistics, read_statistics, "counts.rows.clicks"
    ),
    "catalog": Case(lambda: Catalog(5, 2), change_catalog, read_catalog, "rows.features"),
    "vectors": Case(lambda: VectorIndex(30, 3), change_vectors, read_vectors, "rows.vector"),
    "vectors in lists": Case(
        lambda: VectorIndex(30, 3, kind="ivf", lists=4, probes=1), change_vectors, read_vectors, "inverted.centroids.now", True
    ),
    "errors": Case(
        lambda: ErrorMemory(20, 3, kind="ivf", lists=3), change_errors, lambda store: store.read(np.eye(3), 2), "rows.label"
    ),
    "sketch": Case(
        lambda: ErrorSketch(3, arrays=2, bits=3, decay=1e-9), change_sketch, lambda store: store.read(np.eye(3)), "sums.sums"
    ),
    "block pool": Case(
        lambda: BlockPool(12, 8, 0.5, block=2, capacity=6, evidence=5, shards=2, half_life=50.0),
        change_pool,
        lambda store: (store.gather(np.arange(-1, 12)), len(store), store.used),
        "values",
        True,
    ),
    "moments": Case(lambda: Moments([1, 0]), change_moments, lambda store: store.known, "rows.mean", True),
    "numbers in a catalog": Case(lambda: Catalog(5, 2, [1]), change_catalog, read_catalog, "moments.rows.mean", True),
    "blob": Case(lambda: PythonObject(Counter(), ()), change_blob, lambda store: store.value.most_common(2), "object"),
    "composite": Case(Composite, change_composite, read_composite, "inner.history.rings.item"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def changed(case: Case, seed: int = 0, times: int = 10) -> Stateful:
    store, rng = case.make(), np.random.default_rng(seed)
    for _ in range(times):
        case.change(store, rng)
    return store


def followed(store: Stateful) -> str:
    """Digest of what a follower must have: everything except private state."""
    return digest(without_private(store, store.state_dict()))


def test_a_loaded_copy_is_equal_and_continues_equally(case: Case) -> None:
    store, twin = changed(case), changed(case, seed=1)
    assert digest(store.state_dict()) != digest(twin.state_dict())
    twin.load_state_dict(store.state_dict())
    assert digest(twin.state_dict()) == digest(store.state_dict())
    one, other = np.random.default_rng(2), np.random.default_rng(2)
    for _ in range(30):
        case.change(store, one)
        case.change(twin, other)
        assert digest(twin.state_dict()) == digest(store.state_dict())


def test_a_fresh_copy_follows_by_changes(case: Case) -> None:
    leader, follower, second, rng = case.make(), case.make(), case.make(), np.random.default_rng(3)
    for step in range(40):
        case.change(leader, rng)
        if step % 3:
            follower.apply_changes(leader.take_changes())
            assert followed(follower) == followed(leader)
            if step % 2:
                second.apply_changes(follower.take_changes())
                assert followed(second) == followed(leader), "a follower can have followers"
    follower.apply_changes(leader.take_changes())
    assert leader.take_changes() == {}
    if not case.needs_private:
        case.change(leader, np.random.default_rng(4))
        case.change(follower, np.random.default_rng(4))
        assert followed(follower) == followed(leader), "the copy also behaves the same"


def test_private_state_is_saved_and_not_shipped(case: Case) -> None:
    leader, follower = changed(case), case.make()
    state = leader.state_dict()
    private = {name for name in state if leader.is_private(name)}
    assert private or not case.needs_private
    assert not private & leader.take_changes().keys()
    follower.load_state_dict(state)
    assert digest(follower.state_dict()) == digest(state), "a checkpoint includes private state"


def test_copies_of_one_loaded_state_follow_by_changes(case: Case) -> None:
    origin, leader, follower = changed(case), changed(case, seed=1), case.make()
    leader.load_state_dict(origin.state_dict())
    follower.load_state_dict(origin.state_dict())
    assert leader.take_changes() == {}, "loaded state is not shipped again"
    case.change(leader, np.random.default_rng(5))
    follower.apply_changes(leader.take_changes())
    assert followed(follower) == followed(leader)


def test_state_and_changes_are_copies(case: Case) -> None:
    store = changed(case)
    state, changes = store.state_dict(), store.take_changes()
    before, taken = digest(state), digest(changes)
    follower = case.make()
    follower.load_state_dict(state)
    case.change(store, np.random.default_rng(6))
    case.change(follower, np.random.default_rng(7))
    assert (digest(state), digest(changes)) == (before, taken)
    for array in (*state.values(), *changes.values()):
        array.fill(0)
    fresh = case.make()
    fresh.load_state_dict(case.make().state_dict())
    twin = changed(case)
    case.change(twin, np.random.default_rng(6))
    assert digest(store.state_dict()) == digest(twin.state_dict())


def test_reading_changes_nothing(case: Case) -> None:
    store = changed(case)
    before = digest(store.state_dict())
    store.take_changes()
    for _ in range(3):
        case.read(store)
        assert store.nbytes > 0
        assert [name for name, _ in store.stores("a.")]
        assert digest(store.state_dict()) == before
    assert store.take_changes() == {}


def test_memory_is_bounded(case: Case) -> None:
    store = changed(case, times=20)
    nbytes = store.nbytes
    rng = np.random.default_rng(8)
    for _ in range(200):
        case.change(store, rng)
        for _, leaf in store.stores():
            if hasattr(leaf, "capacity"):
                assert len(leaf) <= leaf.capacity  # type: ignore[arg-type]
    if not isinstance(store, PythonObject):  # an encoding is as large as its object
        assert store.nbytes == nbytes
        saved = sum(array.nbytes for name, array in store.state_dict().items() if not name.endswith("rows"))
        assert saved <= nbytes, "the saved state is not larger than the memory"


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "type"])
def test_a_state_that_does_not_fit_is_refused_by_name(case: Case, damage: str) -> None:
    store, other = changed(case), changed(case, seed=1)
    before, state = digest(store.state_dict()), other.state_dict()
    named = case.array.rpartition(".")[2]
    if damage == "missing":
        del state[case.array]
    elif damage == "extra":
        state[f"{case.array.rpartition('.')[0]}.surplus".lstrip(".")] = np.zeros(1)
        named = "surplus"
    elif damage == "shape":
        state[case.array] = state[case.array][None]
    else:
        state[case.array] = state[case.array].astype(np.complex64)
    with pytest.raises(ValueError, match=named):
        store.load_state_dict(state)
    assert digest(store.state_dict()) == before


def test_empty_changes_change_nothing(case: Case) -> None:
    store = changed(case)
    before = digest(store.state_dict())
    store.apply_changes({})
    assert digest(store.state_dict()) == before
