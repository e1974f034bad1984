"""The first places of orders that change by one item at a time, kept exact without sorting.

Items have a key in each of several orders. Keys only grow, so an item that has changed moves up, past those with lower keys;
of equal keys, the one that came first stays ahead. Numbers that decay alike for all items can be kept so, too: as a key that
does not change while they decay, such as the logarithm of the number plus the time over the half-life.

An item that gives way leaves its place empty, and who comes next is not known without looking at all items. So each order has a
`floor`, the highest key that an item outside its head can have: an item enters only if its key reaches it. A head is shorter
than it could be then, but what is in it are the first items, without gaps; when half of it is gone, all items are sorted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learners.kernels.flags import set_all
from memory.arrays import Arrays
from memory.jit import njit
from streams.batch import Bools, Floats, Ids

__all__ = ["BLOCK", "Heads", "Keys", "find", "lift", "live_heads", "new_blocks", "new_ends", "places", "take_out", "walk"]

Keys = npt.NDArray[np.float64]
"""(items, orders); -inf: the item is in no place of that order."""

BLOCK = 16
"""Places of a head that are shipped together when one of them changes."""


class Heads(NamedTuple):
    """The live arrays, as compiled functions take them.

    Attributes
    ----------
    order : (heads,) int64
        Column of the keys that each head is of.
    slot : (heads, places) int32
        Items, the highest key first; -1 from `used` on.
    blocks_dirty : (heads * places / BLOCK,) bool
    used : (heads,) int64
    floor : (heads,) float64
        No item outside the head has a higher key.
    ends_dirty : (heads,) bool
    """

    order: Ids
    slot: npt.NDArray[np.int32]
    blocks_dirty: Bools
    used: Ids
    floor: npt.NDArray[np.float64]
    ends_dirty: Bools


def new_blocks(heads: int, places: int) -> Arrays:
    """Store of the items in so many heads of so many places (a multiple of 16)."""
    return Arrays(slot=np.full((heads * places // BLOCK, BLOCK), -1, np.int32))


def new_ends(heads: int) -> Arrays:
    """Store of where so many heads end."""
    return Arrays(used=np.zeros(heads, np.int64), floor=np.full(heads, -np.inf))


def live_heads(order: Ids, blocks: Arrays, ends: Arrays) -> Heads:
    """The live arrays of stores that `new_blocks` and `new_ends` made."""
    slot = blocks["slot"].reshape(order.size, -1)
    return Heads(order, slot, blocks.dirty, ends["used"], ends["floor"], ends.dirty)


@njit(cache=True, nogil=True)
def _first_below(row: npt.NDArray[np.int32], end: int, order: int, key: float, keys: Keys, equal: bool) -> int:
    """First place before `end` whose key is below `key`, or equal to it where `equal`; `end` where there is none."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        there = keys[row[middle], order]
        if there < key or (equal and there == key):
            high = middle
        else:
            low = middle + 1
    return low


@njit(cache=True, nogil=True)
def _mark(head: int, first: int, last: int, heads: Heads) -> None:
    blocks = heads.slot.shape[1] // BLOCK
    for block in range(first // BLOCK, last // BLOCK + 1):
        heads.blocks_dirty[head * blocks + block] = True
    heads.ends_dirty[head] = True


@njit(cache=True, nogil=True)
def find(head: int, slot: int, keys: Keys, heads: Heads) -> int:
    """Place of an item in a head by the key that it has, or -1. To be asked before the key grows."""
    order, row, used = heads.order[head], heads.slot[head], heads.used[head]
    key = keys[slot, order]
    if key == -np.inf or key < heads.floor[head]:
        return -1
    at = _first_below(row, used, order, key, keys, True)
    while at < used and keys[row[at], order] == key:
        if row[at] == slot:
            return at
        at += 1
    return -1


@njit(cache=True, nogil=True)
def lift(head: int, at: int, slot: int, keys: Keys, heads: Heads) -> None:
    """Move an item whose key has grown from its place, -1 if it had none, to where it belongs now."""
    order, row = heads.order[head], heads.slot[head]
    key = keys[slot, order]
    if at < 0:
        if key < heads.floor[head]:
            return
        if heads.used[head] < row.size:
            at = heads.used[head]
            heads.used[head] += 1
        elif key > keys[row[row.size - 1], order]:
            at = row.size - 1
            heads.floor[head] = keys[row[at], order]
        else:
            heads.floor[head] = key
            heads.ends_dirty[head] = True
            return
    to = _first_below(row, at, order, key, keys, False)
    for place in range(at, to, -1):
        row[place] = row[place - 1]
    row[to] = slot
    _mark(head, to, at, heads)


@njit(cache=True, nogil=True)
def take_out(head: int, slot: int, keys: Keys, heads: Heads) -> None:
    """Take an item out of a head and out of its order: its key becomes -inf."""
    order, row, at = heads.order[head], heads.slot[head], find(head, slot, keys, heads)
    keys[slot, order] = -np.inf
    if at < 0:
        return
    end = heads.used[head] - 1
    for place in range(at, end):
        row[place] = row[place + 1]
    row[end] = -1
    heads.used[head] = end
    _mark(head, at, end, heads)
    if 2 * end < row.size and heads.floor[head] > -np.inf:
        _fill(head, keys, heads)


@njit(cache=True, nogil=True)
def _fill(head: int, keys: Keys, heads: Heads) -> None:
    """Make a head anew from all items."""
    key, row = -keys[:, heads.order[head]], heads.slot[head]
    sorted_items = np.argsort(key, kind="mergesort")
    known = np.count_nonzero(key < np.inf)
    used = min(known, row.size)
    row[:] = -1
    row[:used] = sorted_items[:used]
    heads.used[head], heads.floor[head] = used, -np.inf if known == used else -key[sorted_items[used]]
    _mark(head, 0, row.size - 1, heads)


@njit(cache=True, nogil=True)
def places(items: int, heads: Heads) -> npt.NDArray[np.int32]:
    """Best place of each item in any head, plus 1; 0 where it is in none: (items,) int32."""
    best = np.zeros(items, np.int32)
    for place in range(heads.used.max()):
        for head in range(heads.used.size):
            if place < heads.used[head] and best[heads.slot[head, place]] == 0:
                best[heads.slot[head, place]] = place + 1
    return best


@njit(cache=True, nogil=True)
def walk(items: int, excluded: Ids, start: Ids, k: int, heads: Heads) -> tuple[Ids, Ids, Floats]:
    """For each request, the first `k` different items of all heads that are not excluded for it, place by place.

    Returns
    -------
    slot, request : (rows,) int64
    score : (rows,) float32
        1 / (1 + place), of the best place that the item has.
    """
    requests, length = start.size - 1, heads.used.max()
    room = requests * min(max(k, 0), heads.used.sum(), items)
    slot, request, score = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
    taken = np.zeros(items, np.bool_)  # excluded for the request, or among its items
    rows = 0
    for b in range(requests):
        own, first = excluded[start[b] : start[b + 1]], rows
        set_all(own, True, taken)
        place, end = 0, rows + max(k, 0)
        while place < length and rows < end:
            for head in range(heads.used.size):
                if place < heads.used[head] and rows < end:
                    s = heads.slot[head, place]
                    if not taken[s]:
                        taken[s] = True
                        slot[rows], request[rows], score[rows] = s, b, 1.0 / (1.0 + place)
                        rows += 1
            place += 1
        set_all(own, False, taken)
        set_all(slot[first:rows], False, taken)
    return slot[:rows], request[:rows], score[:rows]
