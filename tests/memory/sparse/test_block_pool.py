"""The pool is exact about its blocks, small, and learns where the gradients are."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from memory.sparse.block_pool import BlockPool
from memory.stateful import digest

DIM, BLOCKS = 16, 4


def make(rows: int = 100, share: float = 0.5, **options: Any) -> BlockPool:
    return BlockPool(rows, DIM, share, **options)


def blocks_of(pool: BlockPool) -> dict[int, list[int]]:
    """Numbers of the blocks of each row, from the saved state."""
    state = pool.state_dict()
    parts = np.split(state["number"], np.cumsum(state["size"].astype(np.int64))[:-1])
    return {int(row): part.tolist() for row, part in zip(state["rows"], parts, strict=True)} if state["rows"].size else {}


def check(pool: BlockPool, keep: int) -> None:
    """Every block is either free or of one row, the budget holds, and no row has fewer blocks than it keeps."""
    number, following, first, counts = pool.pool.number, pool.pool.following, pool.pool.first, pool.pool.counts
    seen = np.zeros(pool.capacity, np.int64)
    at, free = int(counts[0]), 0
    while at >= 0:
        seen[at] += 1
        free, at = free + 1, int(following[at])
    used = 0
    for row in np.flatnonzero(first >= 0):
        at, size, before = int(first[row]), 0, -1
        while at >= 0:
            assert number[at] > before, "ascending"
            seen[at] += 1
            before, size, at = int(number[at]), size + 1, int(following[at])
        assert size >= keep
        used += size
    assert (seen == 1).all(), "no block is lost, free and used at once, or of two rows"
    assert used == pool.used and used + free == pool.capacity
    assert len(pool) == np.count_nonzero(first >= 0)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["learn", "learn", "learn", "event", "event", "forget", "ship", "load"]), st.integers(0, 2**31)),
    min_size=1_000,
    max_size=1_000,
)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=[Phase.generate])
@given(
    operations=OPERATIONS,
    share=st.sampled_from([0.5, 0.6, 1.0]),
    capacity=st.sampled_from([8, 40]),
    keep=st.sampled_from([1, 2]),
    shards=st.sampled_from([1, 3]),
)
def test_blocks_are_exact_in_10000_random_operations(
    operations: list[tuple[str, int]], share: float, capacity: int, keep: int, shards: int
) -> None:
    options: dict[str, Any] = {
        "capacity": capacity,
        "keep": keep,
        "prefix": 2,
        "shards": shards,
        "evidence": 5,
        "half_life": 100.0,
        "least": 0.05,
    }
    pool, follower = make(40, share, **options), make(40, share, **options)
    for kind, seed in operations:
        rng = np.random.default_rng(seed)
        rows = rng.integers(-1, 40, 3)
        if kind == "learn":
            pool.learn(rows, rng.normal(size=(3, DIM)) * rng.integers(0, 2, (3, 1)))
        elif kind == "event":
            before, evicted = pool.used, pool.evictions
            found = pool.prune_and_grow(float(rng.choice([0.05, 0.5, 1.0])))
            if pool.evictions == evicted and capacity == 40 and found.grown.size <= found.pruned.size:
                assert pool.used == before + found.grown.size - found.pruned.size
        elif kind == "forget":
            pool.forget(rows[rows >= 0][:1])
        elif kind == "ship":
            follower.apply_changes(pool.take_changes())
            assert blocks_of(follower) == blocks_of(pool)
        else:
            pool.load_state_dict(pool.state_dict())
            follower.load_state_dict(pool.state_dict())
        check(pool, keep)
        if capacity == 40 and kind == "event" and shards == 1:
            assert pool.used <= share * BLOCKS * len(pool) or found.grown.size == 0
    check(follower, keep)


def test_an_event_keeps_the_budget_exact() -> None:
    pool, rng = make(share=0.5, prefix=2, evidence=50), np.random.default_rng(0)
    everyone = np.arange(100)
    pool.learn(everyone, rng.normal(size=(100, DIM)))
    assert pool.used == 200 == pool.capacity
    for event in range(10):
        for _ in range(5):
            pool.learn(rng.integers(0, 100, 20), rng.normal(size=(20, DIM)))
        found = pool.prune_and_grow(0.3)
        assert found.pruned.size == found.grown.size
        assert (found.pruned.size > 0) == (event > 0), "in the first event all blocks are new, and spared"
        assert pool.used == 200
        assert min(len(numbers) for numbers in blocks_of(pool).values()) >= 1


def test_blocks_move_to_the_rows_and_dimensions_that_need_them() -> None:
    pool = make(rows=10, share=0.5, prefix=2, grace=0, learning_rate=0.1, init=0.01)
    rows = np.arange(10)
    gradient = np.zeros((10, DIM), np.float32)
    gradient[0] = 1.0
    gradient[1, 12:] = 1.0
    for _ in range(3):
        pool.learn(rows, gradient)
        pool.prune_and_grow(0.3)
    blocks = blocks_of(pool)
    assert blocks[0] == [0, 1, 2, 3], "all its dimensions have gradients"
    assert 3 in blocks[1] and 2 not in blocks[1]
    assert sum(map(len, blocks.values())) == 20


def test_new_rows_always_get_their_blocks() -> None:
    """Growth may use what the rows so far leave unused, and nothing more."""
    pool, rng = make(rows=200, share=0.5, prefix=1), np.random.default_rng(0)
    for known in range(10, 200, 10):
        pool.learn(np.arange(known), rng.normal(size=(known, DIM)))
        pool.prune_and_grow(1.0)
        assert pool.used == 2 * known, "growth fills the budget of known rows"
    assert pool.evictions == 0 and len(pool) == 190


def test_a_new_row_can_be_used_before_and_after_it_is_learned() -> None:
    pool = make(learning_rate=0.5)
    row, gradient = np.array([42]), np.zeros((1, DIM), np.float32)
    before = pool.gather(row)
    assert np.count_nonzero(before) == 4 and pool.used == 0, "reading adds nothing"
    pool.learn(row, gradient)
    np.testing.assert_array_equal(pool.gather(row), before)
    gradient[0, 0] = 1.0
    pool.learn(row, gradient)
    after = pool.gather(row)
    assert after[0, 0] == pytest.approx(before[0, 0] - 0.5 / np.sqrt(0.3 + 1 / 4))
    assert not pool.gather(np.array([-1])).any()


def test_rows_below_the_admission_get_no_blocks() -> None:
    pool, gradient = make(admission=2.0, half_life=1e6), np.ones((1, DIM), np.float32)
    pool.learn(np.array([5]), gradient)
    assert len(pool) == 0
    pool.learn(np.array([5]), gradient)
    assert len(pool) == 1


def test_the_coldest_rows_give_way_when_the_pool_is_full() -> None:
    pool, gradient = make(rows=100, share=0.5, capacity=10, prefix=2, half_life=4.0), np.ones((10, DIM), np.float32)
    pool.learn(np.arange(10), gradient)
    pool.learn(np.arange(5), gradient[:5])
    pool.learn(np.arange(50, 53), gradient[:3])
    blocks = blocks_of(pool)
    assert {0, 1, 2, 3, 4, 50, 51, 52} <= blocks.keys()
    assert not {5, 6, 7} & blocks.keys(), "without an occurrence for the longest time, and each had one"
    assert all(len(blocks[row]) == 2 for row in (0, 1, 2, 3, 4, 50, 51, 52))
    assert pool.used <= pool.capacity == 20


def test_rows_that_are_no_longer_seen_leave() -> None:
    pool, gradient = make(rows=10, half_life=10.0, least=0.01), np.ones((1, DIM), np.float32)
    pool.learn(np.array([1]), gradient)
    for _ in range(100):
        pool.learn(np.array([2]), gradient)
    for _ in range(3):
        pool.prune_and_grow(0.0)
    assert blocks_of(pool).keys() == {2}
    assert pool.evictions == 1


def test_all_blocks_are_a_dense_table() -> None:
    pool, rng = make(rows=30, share=1.0, learning_rate=0.2, accumulator=0.1), np.random.default_rng(0)
    rows = np.arange(30)
    dense = pool.gather(rows)
    squares = np.full((30, BLOCKS), 0.1, np.float32)
    for _ in range(20):
        chosen, gradient = rng.integers(0, 30, 8), rng.normal(size=(8, DIM)).astype(np.float32)
        pool.learn(chosen, gradient)
        for row, one in zip(chosen, gradient, strict=True):
            squares[row] += (one.reshape(BLOCKS, -1) ** 2).mean(1)
            dense[row] -= 0.2 * one / np.sqrt(np.repeat(squares[row], DIM // BLOCKS))
        assert pool.prune_and_grow(0.5).pruned.size == 0
    np.testing.assert_allclose(pool.gather(rows), dense, rtol=1e-4, atol=1e-6)


def test_a_restarted_pool_moves_the_same_blocks() -> None:
    pool, rng = make(evidence=20, shards=3), np.random.default_rng(0)
    batches = [(rng.integers(0, 100, 16), rng.normal(size=(16, DIM)).astype(np.float32)) for _ in range(60)]
    for n, batch in enumerate(batches):
        if n == 31:  # between two events: with collected evidence
            restarted = make(evidence=20, shards=3)
            restarted.load_state_dict(pool.state_dict())
            pool = restarted
        pool.learn(*batch)
        if n % 4 == 0:
            pool.prune_and_grow(0.2)
    whole = make(evidence=20, shards=3)
    for n, batch in enumerate(batches):
        whole.learn(*batch)
        if n % 4 == 0:
            whole.prune_and_grow(0.2)
    assert digest(pool.state_dict()) == digest(whole.state_dict())


def test_memory_is_a_share_of_a_dense_table_and_no_dense_table_exists() -> None:
    rows, dim = 100_000, 64
    pool, rng = BlockPool(rows, dim, 0.25, shards=64), np.random.default_rng(0)
    for _ in range(100):
        chosen = rng.integers(0, rows, 256)
        pool.gather(chosen)
        pool.learn(chosen, rng.normal(size=(256, dim)))
        pool.prune_and_grow(0.05)
    pool.state_dict(), pool.take_changes()
    dense = 4 * rows * dim
    assert pool.serving_nbytes < 0.35 * dense, "what serving reads, beside a dense table of float32"
    blocks = pool.capacity
    assert pool.serving_nbytes <= blocks * (4 * 4 + 1 + 4) + (4 + 1) * rows + 100
    assert pool.nbytes < 0.15 * 3 * dense + 4096 * 16 * 8, "with the optimizer, beside a dense table with Adam's moments"
    gc.collect()
    arrays = [one for one in gc.get_objects() if type(one) is np.ndarray]
    assert not [one.shape for one in arrays if one.ndim == 2 and one.shape[0] >= rows and one.shape[1] >= dim]
    assert not [one.shape for one in arrays if one.ndim and one.size >= rows * dim]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"block": 3}, "dim: 16 with blocks of 3"),
        ({"share": 0.1}, "share: 0.1 of 4 blocks"),
        ({"prefix": 3}, "prefix: 3 blocks"),
        ({"rows": 0}, "rows: 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make(**options)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [("number", 4, "do not ascend"), ("size", 3, "size"), ("rows", 100, "row numbers"), ("heat_rows", 100, "heat_rows")],
)
def test_damaged_states_are_refused(name: str, value: int, problem: str) -> None:
    pool = make()
    pool.learn(np.array([7, 9]), np.ones((2, DIM)))
    state = pool.state_dict()
    state[name][-1] = value
    with pytest.raises(ValueError, match=problem):
        pool.load_state_dict(state)
