"""Vectors in blocks of sixteen, dimension by dimension, and how close queries are to them."""

from __future__ import annotations

import numpy as np
from numba import njit

from memory.arrays import Floats
from memory.lanes import LANES, TOGETHER, distances, products

__all__ = ["compare", "empty_blocks", "how_close", "in_blocks"]


def empty_blocks(blocks: int, width: int) -> Floats:
    """Make zeros (blocks, width, LANES), where each 16 numbers are one line of the cache."""
    size = 4 * blocks * width * LANES
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(blocks, width, LANES)


def in_blocks(vectors: Floats) -> Floats:
    """Copy vectors (n, width) into as few blocks (b, width, LANES) as hold them; what is left of the last is 0."""
    count, width = vectors.shape
    blocks = empty_blocks(-(-count // LANES), width)
    whole = count // LANES
    blocks[:whole] = vectors[: whole * LANES].reshape(whole, LANES, width).swapaxes(1, 2)
    if whole < len(blocks):
        blocks[whole, :, : count % LANES] = vectors[whole * LANES :].T
    return blocks


def how_close(queries: Floats, blocks: Floats, angular: bool) -> Floats:
    """Compare queries (q, width) with all vectors of some blocks.

    Returns
    -------
    (q, b * LANES) float32
        Inner products if `angular`, else minus squared distances. None of them depends on what else is compared.
    """
    near = np.empty((len(queries), len(blocks) * LANES), np.float32)
    _how_close(queries, blocks, angular, empty_blocks(1, len(queries) + TOGETHER)[0], near)
    return near


# Compiled part.


@njit(cache=True, nogil=True)
def compare(queries, rows, first, blocks, block, angular, close):  # type: ignore[no-untyped-def]
    """See `memory.lanes.products` and `memory.lanes.distances`."""
    if angular:
        products(queries, rows, first, blocks, block, close)
    else:
        distances(queries, rows, first, blocks, block, close)


@njit(cache=True, nogil=True)
def _how_close(queries, blocks, angular, close, near):  # type: ignore[no-untyped-def]
    rows = np.minimum(np.arange(queries.shape[0] + TOGETHER), queries.shape[0] - 1)
    for first in range(0, queries.shape[0], TOGETHER):
        for block in range(blocks.shape[0]):
            compare(queries, rows, first, blocks, block, angular, close)
            for row in range(first, min(first + TOGETHER, queries.shape[0])):
                for n in range(LANES):
                    near[row, block * LANES + n] = close[row, n]
