"""Vectors stored in blocks of 16, dimension by dimension, and their similarity to queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Floats
from memory.jit import njit
from memory.simd import LANES, QUERIES_AT_ONCE, inner_products, mask_at_least, negative_distances

__all__ = ["MAX_INT16", "compare", "compare_all", "empty_blocks", "nearest", "similarities", "to_blocks", "write_lane"]

MAX_INT16 = 32767
"""Largest int16: quantized vectors use whole numbers from -32767 to 32767."""


def empty_blocks(blocks: int, rows: int, dtype: type[np.number[Any]] = np.float32) -> npt.NDArray[Any]:
    """Allocate zeros (blocks, rows, LANES) at an address divisible by 64, the size of a cache line."""
    size = blocks * rows * LANES * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(blocks, rows, LANES)


def to_blocks(vectors: Floats) -> Floats:
    """Copy vectors (n, width) into blocks (b, width, LANES). Unused lanes of the last block are 0."""
    count, width = vectors.shape
    blocks = empty_blocks(-(-count // LANES), width)
    _to_blocks(vectors, blocks)
    return blocks


def similarities(queries: Floats, blocks: Floats, angular: bool) -> Floats:
    """Similarity of queries (q, width) to all vectors of some blocks.

    Returns
    -------
    (q, b * LANES) float32
        Inner products if `angular`, else negative squared distances. Each depends on its query and vector alone.
    """
    similarity = np.empty((len(queries), len(blocks) * LANES), np.float32)
    compare_all(queries, blocks, angular, empty_blocks(1, len(queries) + QUERIES_AT_ONCE)[0], similarity)
    return similarity


def nearest(queries: Floats, blocks: Floats, count: int, angular: bool) -> npt.NDArray[np.int32]:
    """Index of the most similar of the first `count` vectors for each of `queries` (q, width). Ties go to the lower index."""
    found = np.empty(len(queries), np.int32)
    _nearest(queries, blocks, count, angular, empty_blocks(1, QUERIES_AT_ONCE)[0], found)
    return found


# Compiled part.


@njit(cache=True, nogil=True)
def compare(queries, rows, first, blocks, block, angular, similarity):  # type: ignore[no-untyped-def]
    """Compare one block with `QUERIES_AT_ONCE` queries; see `memory.simd`."""
    if angular:
        inner_products(queries, rows, first, blocks, block, similarity)
    else:
        negative_distances(queries, rows, first, blocks, block, similarity)


@njit(cache=True, nogil=True)
def compare_all(queries, blocks, angular, scratch, similarity):  # type: ignore[no-untyped-def]
    """Write the result of `similarities` to `similarity`; `scratch` has room for the queries' results with one block."""
    rows = np.empty(queries.shape[0] + QUERIES_AT_ONCE, np.int64)
    for row in range(rows.size):
        rows[row] = min(row, queries.shape[0] - 1)
    for first in range(0, queries.shape[0], QUERIES_AT_ONCE):
        for block in range(blocks.shape[0]):
            compare(queries, rows, first, blocks, block, angular, scratch)
            for row in range(first, min(first + QUERIES_AT_ONCE, queries.shape[0])):
                for n in range(LANES):
                    similarity[row, block * LANES + n] = scratch[row, n]


@njit(cache=True, nogil=True)
def _nearest(queries, blocks, count, angular, scratch, found):  # type: ignore[no-untyped-def]
    """Keep the best of each query while going through the blocks: most have no lane that reaches it."""
    rows, best = np.empty(queries.shape[0] + QUERIES_AT_ONCE, np.int64), np.empty(QUERIES_AT_ONCE, np.float32)
    for row in range(rows.size):
        rows[row] = min(row, queries.shape[0] - 1)
    for first in range(0, queries.shape[0], QUERIES_AT_ONCE):
        best[:] = -np.inf
        group = min(QUERIES_AT_ONCE, queries.shape[0] - first)
        found[first : first + group] = 0
        for block in range(blocks.shape[0]):
            compare(queries, rows[first:], 0, blocks, block, angular, scratch)
            for row in range(group):
                if mask_at_least(scratch, row, best[row]) != 0:
                    for n in range(min(LANES, count - block * LANES)):
                        if scratch[row, n] > best[row]:
                            best[row], found[first + row] = scratch[row, n], block * LANES + n


@njit(cache=True, nogil=True)
def _to_blocks(vectors, blocks):  # type: ignore[no-untyped-def]
    for n in range(vectors.shape[0]):
        for d in range(vectors.shape[1]):
            blocks[n // LANES, d, n % LANES] = vectors[n, d]


@njit(cache=True, nogil=True)
def write_lane(vector, blocks, block, lane, quantized):  # type: ignore[no-untyped-def]
    """Write a vector into a lane of a block.

    In `quantized` blocks (int16, see `memory.simd`) the error of each number is at most 1/65,534 of the vector's largest.
    """
    if not quantized:
        for d in range(vector.size):
            blocks[block, d, lane] = vector[d]
        return
    scale = np.zeros(1, np.float32)
    for d in range(vector.size):
        scale[0] = max(scale[0], abs(vector[d]) / np.float32(MAX_INT16))
    for d in range(vector.size):
        blocks[block, d, lane] = np.rint(vector[d] / scale[0]) if scale[0] > 0.0 else 0.0
    halves = scale.view(np.int16)
    for half in range(2):
        at = 2 * lane + half
        blocks[block, vector.size + at // LANES, at % LANES] = halves[half]
