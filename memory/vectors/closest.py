"""The closest of what was found: which are among so many, and in what order. Called from compiled code only."""

from __future__ import annotations

import numpy as np

from memory.jit import njit
from memory.simd import LANES, packed, reached

__all__ = ["EXACT", "first_lanes", "largest", "least", "ordered", "strike_out"]

NEGATIVE_ZERO = np.int32(-(1 << 31))
"""Bits of -0.0, which is as large as 0.0."""

HALVINGS, EXACT = 16, 200
"""Of the span of some numbers, to find how large the wanted are: more or less; and until no number is between two others."""


@njit(cache=True, nogil=True)
def first_lanes(filled):  # type: ignore[no-untyped-def]
    """A bit for each of the first `filled` lanes."""
    return (np.uint64(1) << np.uint64(min(max(filled, 0), LANES))) - np.uint64(1)


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def largest(values, size):  # type: ignore[no-untyped-def]
    """The largest of the first `size` values."""
    high = np.float32(-np.inf)
    for n in range(size):
        high = max(high, values[n])
    return high


@njit(cache=True, nogil=True)
def least(values, size, wanted, more, halvings):  # type: ignore[no-untyped-def]
    """How close something must be to be among the `wanted` closest of the first `size` values, of at least so many, or `more`.

    After `EXACT` halvings of their span nothing is between it and the last one wanted.
    """
    low, high = _smallest(values, size), largest(values, size)
    for _ in range(halvings):
        middle = low + (high - low) * np.float32(0.5)
        if middle <= low:
            return high if _reach(values, size, high) >= wanted else low
        above = _reach(values, size, middle)
        if above < wanted:
            high = middle
        else:
            low = middle
            if above <= wanted + more:
                break
    return low


@njit(cache=True, nogil=True)
def strike_out(values, places, size, wanted):  # type: ignore[no-untyped-def]
    """Keep of what is noted the `wanted` closest, few more, and all that are as close as one kept; size, and what to reach."""
    if size < wanted:
        return size, np.float32(-np.inf)
    low = least(values, size, wanted, wanted // 8, HALVINGS)
    kept = 0
    for start in range(0, size, LANES):
        bits = reached(values, start // LANES, low) & first_lanes(size - start)
        packed(places, start // LANES, bits, np.int32(0), places, kept)
        kept += packed(values, start // LANES, bits, np.float32(0.0), values, kept)
    return kept, low


@njit(cache=True, nogil=True)
def ordered(values, slots, size, close, found):  # type: ignore[no-untyped-def]
    """The closest of `size` values, in order, with their slots; those that are equally close by slot."""
    keys, bits, told = np.empty(size, np.int64), values.view(np.int32), close.view(np.int32)
    for n in range(size):
        number = bits[n] if bits[n] != NEGATIVE_ZERO else np.int32(0)
        keys[n] = (np.int64(_rising(number) ^ np.int32(-1)) << 32) | slots[n]
    keys.sort()
    for n in range(min(size, found.size)):
        told[n] = _rising(np.int32(keys[n] >> 32) ^ np.int32(-1))
        found[n] = keys[n] & 0xFFFFFFFF


@njit(cache=True, nogil=True)
def _rising(bits):  # type: ignore[no-untyped-def]
    """Integers in the order of the numbers that have these bits; and back."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(cache=True, nogil=True)
def _reach(values, size, bar):  # type: ignore[no-untyped-def]
    above = np.int32(0)
    for n in range(size):
        above += np.int32(values[n] >= bar)
    return above


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _smallest(values, size):  # type: ignore[no-untyped-def]
    low = np.float32(np.inf)
    for n in range(size):
        low = min(low, values[n])
    return low
