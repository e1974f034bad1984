"""Select and sort the k largest of some values. Called from compiled code only."""

from __future__ import annotations

import numpy as np

from memory.jit import njit
from memory.simd import LANES, compress_store, mask_at_least

__all__ = ["EXACT", "find_threshold", "keep_top", "lane_mask", "maximum", "sort_top"]

NEGATIVE_ZERO = np.int32(-(1 << 31))
"""Bits of -0.0, which equals 0.0."""

HALVINGS, EXACT = 16, 200
"""Steps of the bisection in `find_threshold`: enough for a rough threshold; enough to split any two float32."""


@njit(cache=True, nogil=True)
def lane_mask(filled):  # type: ignore[no-untyped-def]
    """Mask of the first `filled` lanes."""
    return (np.uint64(1) << np.uint64(min(max(filled, 0), LANES))) - np.uint64(1)


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def maximum(values, size):  # type: ignore[no-untyped-def]
    """The largest of the first `size` values."""
    high = np.float32(-np.inf)
    for n in range(size):
        high = max(high, values[n])
    return high


@njit(cache=True, nogil=True)
def find_threshold(values, size, k, slack, halvings):  # type: ignore[no-untyped-def]
    """Find by bisection a threshold that at least `k` of the first `size` values reach.

    It stops as soon as at most ``k + slack`` values reach it, or after `halvings` steps. After `EXACT` steps no value lies
    between the threshold and the k-th largest value.
    """
    low, high = _minimum(values, size), maximum(values, size)
    for _ in range(halvings):
        middle = low + (high - low) * np.float32(0.5)
        if middle <= low:
            return high if _count_at_least(values, size, high) >= k else low
        above = _count_at_least(values, size, middle)
        if above < k:
            high = middle
        else:
            low = middle
            if above <= k + slack:
                break
    return low


@njit(cache=True, nogil=True)
def keep_top(values, positions, size, k):  # type: ignore[no-untyped-def]
    """Keep the `k` largest of the first `size` values, and a few more, in place. Ties are kept or dropped together.

    Returns
    -------
    size, threshold
        Values left, and the smallest value that may still be among the `k` largest.
    """
    if size < k:
        return size, np.float32(-np.inf)
    low = find_threshold(values, size, k, k // 8, HALVINGS)
    kept = 0
    for start in range(0, size, LANES):
        bits = mask_at_least(values, start // LANES, low) & lane_mask(size - start)
        compress_store(positions, start // LANES, bits, np.int32(0), positions, kept)
        kept += compress_store(values, start // LANES, bits, np.float32(0.0), values, kept)
    return kept, low


@njit(cache=True, nogil=True)
def sort_top(values, slots, size, similarity, found):  # type: ignore[no-untyped-def]
    """Write the largest of `size` values in descending order to `similarity`, and their slots to `found`; ties by slot."""
    keys, bits, similarity_bits = np.empty(size, np.int64), values.view(np.int32), similarity.view(np.int32)
    for n in range(size):
        number = bits[n] if bits[n] != NEGATIVE_ZERO else np.int32(0)
        keys[n] = (np.int64(_sortable(number) ^ np.int32(-1)) << 32) | slots[n]
    keys.sort()
    for n in range(min(size, found.size)):
        similarity_bits[n] = _sortable(np.int32(keys[n] >> 32) ^ np.int32(-1))
        found[n] = keys[n] & 0xFFFFFFFF


@njit(cache=True, nogil=True)
def _sortable(bits):  # type: ignore[no-untyped-def]
    """Map the bits of float32 to integers of the same order, and back."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(cache=True, nogil=True)
def _count_at_least(values, size, threshold):  # type: ignore[no-untyped-def]
    above = np.int32(0)
    for n in range(size):
        above += np.int32(values[n] >= threshold)
    return above


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _minimum(values, size):  # type: ignore[no-untyped-def]
    low = np.float32(np.inf)
    for n in range(size):
        low = min(low, values[n])
    return low
