"""Comparisons of several queries with several vectors at a time: the numbers, and that they depend on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from memory.simd import LANES, TOGETHER, distances, fetch, packed, products, reached
from memory.vectors.blocks import LARGEST, empty_blocks, put


@njit
def compared(queries, rows, blocks, angular, close):  # type: ignore[no-untyped-def]
    for block in range(blocks.shape[0]):
        fetch(blocks, block)
        if angular:
            products(queries, rows, 0, blocks, block, close[block])
        else:
            distances(queries, rows, 0, blocks, block, close[block])


@njit
def bits_of(numbers, row, least):  # type: ignore[no-untyped-def]
    return reached(numbers, row, least)


@njit
def pack(numbers, row, bits, more, into, at):  # type: ignore[no-untyped-def]
    return packed(numbers, row, bits, more, into, at)


def aligned(*shape: int) -> np.ndarray:
    raw = np.zeros(4 * int(np.prod(shape)) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * int(np.prod(shape))].view(np.float32).reshape(shape)


@pytest.mark.parametrize("angular", [True, False])
@pytest.mark.parametrize("width", [1, 3, 8, 33])
def test_four_queries_and_sixteen_vectors(width: int, angular: bool) -> None:
    rng = np.random.default_rng(width)
    blocks, close = aligned(3, width, LANES), aligned(3, TOGETHER, LANES)
    blocks[:] = rng.normal(size=blocks.shape)
    queries, rows = rng.normal(size=(9, width)).astype(np.float32), np.array([7, 0, 7, 3])
    compared(queries, rows, blocks, angular, close)
    told = queries[rows].astype(np.float64)[None, :, :, None], blocks.astype(np.float64)[:, None]
    true = (told[0] * told[1]).sum(2) if angular else -np.square(told[0] - told[1]).sum(2)
    assert close == pytest.approx(true, rel=1e-5, abs=1e-5)
    assert np.array_equal(close[:, 0], close[:, 2]), "the same query, whatever its side"


@pytest.mark.parametrize("angular", [True, False])
@pytest.mark.parametrize("width", [1, 6, 33])
def test_vectors_of_whole_numbers_with_a_scale_of_their_own(width: int, angular: bool) -> None:
    rng = np.random.default_rng(width)
    vectors, blocks = rng.normal(size=(3 * LANES, width)).astype(np.float32), empty_blocks(3, width + 2, np.int16)
    vectors[7] = 0
    vectors[20] *= 1e-20
    for n, vector in enumerate(vectors):
        put(vector, blocks, n // LANES, n % LANES, True)
    queries, close = rng.normal(size=(TOGETHER, width)).astype(np.float32), aligned(3, TOGETHER, LANES)
    compared(queries, np.arange(TOGETHER), blocks, angular, close)
    step = np.abs(vectors).max(axis=1, keepdims=True) / LARGEST
    rounded = np.rint(np.divide(vectors, step, out=np.zeros_like(vectors), where=step > 0)) * step
    assert (np.abs(rounded - vectors) <= 0.51 * step).all()
    true = queries @ rounded.T if angular else -np.square(queries[:, None] - rounded).sum(-1)
    assert close.swapaxes(0, 1).reshape(TOGETHER, -1) == pytest.approx(true, rel=1e-5, abs=1e-5)


def test_a_vector_is_as_close_in_every_lane() -> None:
    rng = np.random.default_rng(0)
    blocks, close = aligned(1, 21, LANES), aligned(1, TOGETHER, LANES)
    blocks[:] = rng.normal(size=21).astype(np.float32)[None, :, None]
    compared(rng.normal(size=(4, 21)).astype(np.float32), np.arange(4), blocks, True, close)
    assert (close == close[:, :, :1]).all()


def test_which_numbers_are_large_enough() -> None:
    numbers = aligned(2, LANES)
    numbers[1] = np.arange(LANES)
    assert bits_of(numbers, 1, np.float32(13)) == 0b111 << 13
    assert bits_of(numbers, 1, np.float32(-np.inf)) == (1 << LANES) - 1
    assert bits_of(numbers, 1, np.float32(np.inf)) == 0
    numbers[1, 3] = np.nan
    assert bits_of(numbers, 1, np.float32(0)) == ((1 << LANES) - 1) ^ (1 << 3)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_with_a_bit_are_put_side_by_side(kind: type) -> None:
    numbers, into = aligned(2, LANES).view(kind), np.full(40, -1, kind)
    numbers[1] = np.arange(LANES)
    assert pack(numbers, 1, np.uint64(0b1000_0000_0001_0110), kind(100), into, 5) == 4
    assert into[5:9].tolist() == [101, 102, 104, 115]
    assert (into[:5] == -1).all() and (into[5 + LANES :] == -1).all()
    assert pack(numbers, 1, np.uint64(0), kind(0), into, 9) == 0
    assert into[5:9].tolist() == [101, 102, 104, 115]
    assert pack(numbers, 1, np.uint64((1 << LANES) - 1), kind(0), into, 9) == LANES
    assert into[5 : 9 + LANES].tolist() == [101, 102, 104, 115, *range(LANES)]


def test_numbers_may_be_put_where_they_come_from() -> None:
    numbers = aligned(3, LANES).reshape(-1)
    numbers[:] = np.arange(3 * LANES)
    kept = 0
    for row in range(3):
        kept += pack(numbers, row, np.uint64(0b1010_1010_1010_1010), np.float32(0), numbers, kept)
    assert numbers[:kept].tolist() == list(range(1, 3 * LANES, 2))
