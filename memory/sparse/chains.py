"""Compiled part of `BlockPool`. A row is a chain of blocks, ascending by number; the free blocks are another chain.

Blocks have a place in the pool, and a number within their row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memory.arrays import Bools, Floats, Ids
from memory.jit import njit

__all__ = [
    "FREE", "HAND", "KNOWN", "LEARNED", "RELEASED", "TICKS", "USED", "Pool", "Settings",
    "clear", "collect", "exchange", "gather", "learn", "missing_blocks", "read", "read_vector", "release_cold", "step",
    "step_size", "touch", "write",
]  # fmt: skip

FREE, USED, KNOWN, LEARNED, TICKS, HAND, RELEASED = range(7)
"""Entries of counts: first free block, used blocks, rows with blocks, rows learned, events, where room is sought next, and rows
that lost all their blocks to others."""

NONE = -1

WINDOW = 32
"""Rows among which the coldest gives way."""


class Pool(NamedTuple):
    """Arrays of a pool of P blocks for R rows."""

    values: Floats
    """(P, b)."""
    number: npt.NDArray[np.uint8]
    """(P,), number of each block within its row."""
    following: npt.NDArray[np.int32]
    """(P,), place of the row's next block, or of the next free one, or -1."""
    squares: Floats
    """(P,), AdaGrad's sums."""
    age: npt.NDArray[np.uint8]
    """(P,), events since it was added."""
    first: npt.NDArray[np.int32]
    """(R,), place of the row's first block, or -1."""
    heat: Floats
    """(R,), log2 of the decayed number of occurrences, as of the first row ever learned."""
    dirty: Bools
    """(R,), changed since the last shipment."""
    counts: Ids
    """(7,), see `FREE`."""


class Settings(NamedTuple):
    """Numbers of a pool that do not change; see `BlockPool`."""

    blocks: int
    prefix: int
    keep: int
    seed: int
    init: float
    grown: float
    rate: float
    start: float
    decay: float
    half_life: float
    admission: float


@njit(cache=True, nogil=True)
def _uniform(seed, at):  # type: ignore[no-untyped-def]
    """Uniform number of a counter (splitmix64), above 0 and up to 1."""
    mixed = np.uint64(seed) + np.uint64(at) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (np.float64(mixed >> np.uint64(11)) + 1.0) * 2.0**-53


@njit(cache=True, nogil=True)
def _initialise(values, seed, unit, deviation):  # type: ignore[no-untyped-def]
    """Fill a block with normal numbers (Box and Muller). They depend only on seed and unit, so reading has no state."""
    for n in range(values.size):
        if deviation == 0.0:
            values[n] = np.float32(0.0)
        else:
            at = 2 * (unit * values.size + n)
            radius = np.sqrt(-2.0 * np.log(_uniform(seed, at)))
            values[n] = np.float32(deviation * radius * np.cos(2.0 * np.pi * _uniform(seed, at + 1)))


@njit(cache=True, nogil=True)
def _insert(pool, row, block):  # type: ignore[no-untyped-def]
    """Take a free block and put it into a row's chain as this number. Returns its place in the pool."""
    at = pool.counts[FREE]
    pool.counts[FREE] = pool.following[at]
    pool.counts[USED] += 1
    before, after = NONE, pool.first[row]
    while after != NONE and pool.number[after] < block:
        before, after = after, pool.following[after]
    pool.following[at] = after
    if before == NONE:
        pool.first[row] = at
    else:
        pool.following[before] = at
    pool.number[at], pool.age[at] = block, 0
    pool.dirty[row] = True
    return at


@njit(cache=True, nogil=True)
def _remove(pool, row, block):  # type: ignore[no-untyped-def]
    """Take a block out of a row's chain and free it."""
    before, at = NONE, pool.first[row]
    while pool.number[at] != block:
        before, at = at, pool.following[at]
    if before == NONE:
        pool.first[row] = pool.following[at]
    else:
        pool.following[before] = pool.following[at]
    pool.following[at] = pool.counts[FREE]
    pool.counts[FREE] = at
    pool.counts[USED] -= 1
    pool.dirty[row] = True


@njit(cache=True, nogil=True)
def _size(pool, row):  # type: ignore[no-untyped-def]
    size, at = 0, pool.first[row]
    while at != NONE:
        size, at = size + 1, pool.following[at]
    return size


@njit(cache=True, nogil=True)
def _weakest(pool, row):  # type: ignore[no-untyped-def]
    """Number of the block with the smallest magnitude, of equal ones the first."""
    at, weakest, least = pool.first[row], np.int64(0), np.inf
    while at != NONE:
        size = np.float64(0.0)
        for n in range(pool.values.shape[1]):
            size += pool.values[at, n] * pool.values[at, n]
        if size < least:
            weakest, least = np.int64(pool.number[at]), size
        at = pool.following[at]
    return weakest


@njit(cache=True, nogil=True)
def _release(pool, row):  # type: ignore[no-untyped-def]
    """Free all blocks of a row."""
    while pool.first[row] != NONE:
        _remove(pool, row, pool.number[pool.first[row]])
    pool.counts[KNOWN] -= 1


@njit(cache=True, nogil=True)
def _give_way(pool, row, keep):  # type: ignore[no-untyped-def]
    """Reduce a row to its strongest blocks. If it has no more than these, it loses them all."""
    size = _size(pool, row)
    if size <= keep:
        _release(pool, row)
        pool.counts[RELEASED] += 1
    else:
        for _ in range(size - keep):
            _remove(pool, row, _weakest(pool, row))


@njit(cache=True, nogil=True)
def _make_room(pool, needed, keep):  # type: ignore[no-untyped-def]
    """Free blocks until `needed` are free. The coldest of the next few rows gives way."""
    while pool.following.size - pool.counts[USED] < needed:
        coldest, seen, row = NONE, 0, pool.counts[HAND]
        for _ in range(pool.first.size):
            if pool.first[row] != NONE:
                seen += 1
                if coldest == NONE or pool.heat[row] < pool.heat[coldest]:
                    coldest = row
            row = row + 1 if row + 1 < pool.first.size else 0
            if seen == WINDOW:
                break
        pool.counts[HAND] = row
        _give_way(pool, coldest, keep)


@njit(cache=True, nogil=True)
def read_vector(pool, settings, row, vector):  # type: ignore[no-untyped-def]
    """Fill `vector` (d,) with a row's blocks and 0. A row that has none yet is as it will begin."""
    size, at = pool.values.shape[1], pool.first[row]
    vector[:] = np.float32(0.0)
    if at == NONE:
        for block in range(settings.prefix):
            part = vector[block * size : (block + 1) * size]
            _initialise(part, settings.seed, row * settings.blocks + block, settings.init)
    while at != NONE:
        start = np.int64(pool.number[at]) * size
        for k in range(size):
            vector[start + k] = pool.values[at, k]
        at = pool.following[at]


@njit(cache=True, nogil=True)
def gather(pool, settings, rows, wide):  # type: ignore[no-untyped-def]
    """Fill `wide` (n, d) with the vectors of rows (n,); that of row -1 is 0."""
    for n in range(rows.size):
        if rows[n] >= 0:
            read_vector(pool, settings, rows[n], wide[n])
        else:
            wide[n] = np.float32(0.0)


@njit(cache=True, nogil=True)
def touch(pool, settings, row):  # type: ignore[no-untyped-def]
    """Count an occurrence of a row. It gets its first blocks if it has none and occurred often enough."""
    pool.counts[LEARNED] += 1
    now = pool.counts[LEARNED] / settings.half_life
    pool.heat[row] = np.float32(now + np.log2(1.0 + 2.0 ** (pool.heat[row] - now)))
    if pool.first[row] == NONE and 2.0 ** (pool.heat[row] - now) > settings.admission - 0.01:
        _make_room(pool, settings.prefix, settings.keep)
        pool.counts[KNOWN] += 1
        for block in range(settings.prefix):
            at = _insert(pool, row, block)
            _initialise(pool.values[at], settings.seed, row * settings.blocks + block, settings.init)
            pool.squares[at] = settings.start


@njit(cache=True, nogil=True)
def step_size(pool, settings, row, gradient):  # type: ignore[no-untyped-def]
    """Change of a value whose gradient by the row's vector is `gradient` (d,), to first order, by a step along it."""
    total, at, size = 0.0, pool.first[row], pool.values.shape[1]
    while at != NONE:
        start, squared = np.int64(pool.number[at]) * size, np.float32(0.0)
        for k in range(start, start + size):
            squared += gradient[k] * gradient[k]
        total += settings.rate * squared / np.sqrt(pool.squares[at])
        at = pool.following[at]
    return total


@njit(cache=True, nogil=True)
def step(pool, settings, row, gradient, weight, damping, evidence):  # type: ignore[no-untyped-def]
    """Do a step of a row's blocks, and collect evidence (d / b,) for all blocks.

    The gradient (d,) is that of `weight` equal rows. `damping` shortens the step only.
    """
    size, at = pool.values.shape[1], pool.first[row]
    if at == NONE:
        return
    pool.dirty[row] = True
    for block in range(settings.blocks):
        start, squared = block * size, np.float32(0.0)
        for k in range(start, start + size):
            squared += gradient[k] * gradient[k]
        evidence[block] += np.sqrt(squared)
        if at != NONE and pool.number[at] == block:
            pool.squares[at] += squared / np.float32(size * weight)
            rate = np.float32(settings.rate / np.sqrt(pool.squares[at]))
            for k in range(size):
                pool.values[at, k] -= rate * (damping * gradient[start + k] + settings.decay * pool.values[at, k])
            at = pool.following[at]


@njit(cache=True, nogil=True)
def learn(pool, settings, rows, gradient, slots, evidence):  # type: ignore[no-untyped-def]
    """Learn from gradients (n, d) of rows (n,) in order, whose evidence is in `slots` (n,). Row -1 is skipped."""
    one = np.float32(1.0)
    for n in range(rows.size):
        if rows[n] >= 0:
            touch(pool, settings, rows[n])
            step(pool, settings, rows[n], gradient[n], one, one, evidence[slots[n]])


@njit(cache=True, nogil=True)
def collect(pool, settings, shard, shards, grace):  # type: ignore[no-untyped-def]
    """Blocks of a shard's rows in order.

    Returns their units, that is row * blocks + number (n,), their rms magnitudes (n,), whether they are old enough to be pruned
    (n,), and the number of rows. The blocks get older by one event.
    """
    found, rows = 0, 0
    for row in range(shard, pool.first.size, shards):
        found += _size(pool, row)
    unit, magnitude, old = np.empty(found, np.int64), np.empty(found, np.float64), np.empty(found, np.bool_)
    n = 0
    for row in range(shard, pool.first.size, shards):
        at = pool.first[row]
        rows += at != NONE
        while at != NONE:
            total = 0.0
            for k in range(pool.values.shape[1]):
                total += pool.values[at, k] * pool.values[at, k]
            unit[n], magnitude[n] = row * settings.blocks + pool.number[at], np.sqrt(total / pool.values.shape[1])
            old[n] = pool.age[at] >= grace
            pool.age[at] = min(pool.age[at] + 1, 255)
            n, at = n + 1, pool.following[at]
    return unit, magnitude, old, rows


@njit(cache=True, nogil=True)
def missing_blocks(pool, settings, rows):  # type: ignore[no-untyped-def]
    """Which blocks rows (n,) lack, (n, blocks) bool. Rows without any block lack none, because they are not known."""
    missing = np.zeros((rows.size, settings.blocks), np.bool_)
    for n in range(rows.size):
        at = pool.first[rows[n]]
        missing[n] = at != NONE
        while at != NONE:
            missing[n, pool.number[at]] = False
            at = pool.following[at]
    return missing


@njit(cache=True, nogil=True)
def exchange(pool, settings, pruned, grown):  # type: ignore[no-untyped-def]
    """Remove the units `pruned` (n,) and add the units `grown` (m,)."""
    for unit in pruned:
        _remove(pool, unit // settings.blocks, unit % settings.blocks)
    for unit in grown:
        at = _insert(pool, unit // settings.blocks, unit % settings.blocks)
        _initialise(pool.values[at], settings.seed, unit, settings.grown)
        pool.squares[at] = settings.start


@njit(cache=True, nogil=True)
def release_cold(pool, settings, shard, shards, least):  # type: ignore[no-untyped-def]
    """Let rows of a shard give way whose decayed number of occurrences is below `least`."""
    now = pool.counts[LEARNED] / settings.half_life
    for row in range(shard, pool.first.size, shards):
        if pool.first[row] != NONE and 2.0 ** (pool.heat[row] - now) < least:
            _give_way(pool, row, settings.keep)


@njit(cache=True, nogil=True)
def clear(pool, rows):  # type: ignore[no-untyped-def]
    """Free all blocks of rows (n,)."""
    for row in rows:
        if pool.first[row] != NONE:
            _release(pool, row)


@njit(cache=True, nogil=True)
def read(pool, rows):  # type: ignore[no-untyped-def]
    """Number of blocks of each row (n,), and the places of these blocks in the pool (m,), row by row."""
    size = np.empty(rows.size, np.uint8)
    for n in range(rows.size):
        size[n] = _size(pool, rows[n])
    place, m = np.empty(size.sum(), np.int64), 0
    for row in rows:
        at = pool.first[row]
        while at != NONE:
            place[m] = at
            m, at = m + 1, pool.following[at]
    return size, place


@njit(cache=True, nogil=True)
def write(pool, rows, size, block):  # type: ignore[no-untyped-def]
    """Give rows (n,) without blocks these numbers of blocks, `size` (n,), called `block` (m,). Returns their places (m,)."""
    place, m = np.empty(block.size, np.int64), 0
    for n in range(rows.size):
        pool.counts[KNOWN] += size[n] > 0
        for _ in range(size[n]):
            place[m] = _insert(pool, rows[n], block[m])
            m += 1
    return place
