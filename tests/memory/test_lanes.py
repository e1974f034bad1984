"""Comparisons of several queries with several vectors at a time: the numbers, and that they depend on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from memory.lanes import LANES, TOGETHER, distances, fetch, lowest, products, reached


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
def lowest_of(bits):  # type: ignore[no-untyped-def]
    return lowest(bits)


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


def test_the_lowest_bit() -> None:
    assert [lowest_of(np.uint64(bits)) for bits in (1, 0b1000, 0b10100, 1 << 63)] == [0, 3, 2, 63]
