"""Vectors in blocks of sixteen, dimension by dimension, and how close queries are to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Floats
from memory.jit import njit
from memory.simd import LANES, TOGETHER, distances, products

__all__ = ["LARGEST", "compare", "compare_all", "empty_blocks", "how_close", "in_blocks", "nearest", "put"]

LARGEST = 32767
"""Of the whole numbers that a vector is rounded to."""


def empty_blocks(blocks: int, rows: int, dtype: type[np.number[Any]] = np.float32) -> npt.NDArray[Any]:
    """Make zeros (blocks, rows, LANES) at an address divisible by 64, the bytes of a line of the cache."""
    size = blocks * rows * LANES * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(blocks, rows, LANES)


def in_blocks(vectors: Floats) -> Floats:
    """Copy vectors (n, width) into as few blocks (b, width, LANES) as hold them; what is left of the last is 0."""
    count, width = vectors.shape
    blocks = empty_blocks(-(-count // LANES), width)
    _in_blocks(vectors, blocks)
    return blocks


def how_close(queries: Floats, blocks: Floats, angular: bool) -> Floats:
    """Compare queries (q, width) with all vectors of some blocks.

    Returns
    -------
    (q, b * LANES) float32
        Inner products if `angular`, else minus squared distances. None of them depends on what else is compared.
    """
    near = np.empty((len(queries), len(blocks) * LANES), np.float32)
    compare_all(queries, blocks, angular, empty_blocks(1, len(queries) + TOGETHER)[0], near)
    return near


def nearest(queries: Floats, blocks: Floats, count: int, angular: bool) -> npt.NDArray[np.int32]:
    """Which of the first `count` vectors of some blocks is closest to each of `queries` (q, width); the first of several."""
    found = np.empty(len(queries), np.int32)
    near = empty_blocks(TOGETHER, len(blocks)).reshape(TOGETHER, -1)
    _nearest(queries, blocks, count, angular, empty_blocks(1, 2 * TOGETHER)[0], near, found)
    return found


# Compiled part.


@njit(cache=True, nogil=True)
def compare(queries, rows, first, blocks, block, angular, close):  # type: ignore[no-untyped-def]
    """See `memory.simd.products` and `memory.simd.distances`."""
    if angular:
        products(queries, rows, first, blocks, block, close)
    else:
        distances(queries, rows, first, blocks, block, close)


@njit(cache=True, nogil=True)
def compare_all(queries, blocks, angular, close, near):  # type: ignore[no-untyped-def]
    """See `how_close`: `near` is what it returns, `close` has room for the results of the queries and one block."""
    rows = np.empty(queries.shape[0] + TOGETHER, np.int64)
    for row in range(rows.size):
        rows[row] = min(row, queries.shape[0] - 1)
    for first in range(0, queries.shape[0], TOGETHER):
        for block in range(blocks.shape[0]):
            compare(queries, rows, first, blocks, block, angular, close)
            for row in range(first, min(first + TOGETHER, queries.shape[0])):
                for n in range(LANES):
                    near[row, block * LANES + n] = close[row, n]


@njit(cache=True, nogil=True)
def _nearest(queries, blocks, count, angular, close, near, found):  # type: ignore[no-untyped-def]
    for first in range(0, queries.shape[0], TOGETHER):
        compare_all(queries[first : first + TOGETHER], blocks, angular, close, near)
        for row in range(first, min(first + TOGETHER, queries.shape[0])):
            best = 0
            for n in range(count):
                if near[row - first, n] > near[row - first, best]:
                    best = n
            found[row] = best


@njit(cache=True, nogil=True)
def _in_blocks(vectors, blocks):  # type: ignore[no-untyped-def]
    for n in range(vectors.shape[0]):
        for d in range(vectors.shape[1]):
            blocks[n // LANES, d, n % LANES] = vectors[n, d]


@njit(cache=True, nogil=True)
def put(vector, blocks, block, lane, short):  # type: ignore[no-untyped-def]
    """Put a vector into a lane of a block.

    In `short` blocks, of int16 (see `memory.simd`), each number is off by 1/65,534 of the largest at most.
    """
    if not short:
        for d in range(vector.size):
            blocks[block, d, lane] = vector[d]
        return
    scale = np.zeros(1, np.float32)
    for d in range(vector.size):
        scale[0] = max(scale[0], abs(vector[d]) / np.float32(LARGEST))
    for d in range(vector.size):
        blocks[block, d, lane] = np.rint(vector[d] / scale[0]) if scale[0] > 0.0 else 0.0
    halves = scale.view(np.int16)
    for half in range(2):
        at = 2 * lane + half
        blocks[block, vector.size + at // LANES, at % LANES] = halves[half]
