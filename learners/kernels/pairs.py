"""Weights of pairs of items, bounded for each item, and tags that tell the items that are still there: what retrievers share.

A tag names an item for as long as it keeps its slot: the slot in the low bits, above them a number that changes when the
slot is given to another item. So whatever still refers to an item that is gone is recognised and counts nothing.

An item's pairs lie in groups of 8 places; a pair belongs to the group that the other item's slot modulo the number of groups
says, and a new pair takes the place of the weakest of its group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays
from memory.jit import njit
from streams.batch import Bools, Floats, Ids

__all__ = [
    "LAST_TAG",
    "MANY",
    "NOTHING",
    "WAYS",
    "Pairs",
    "Tags",
    "add",
    "clear",
    "collect",
    "drop",
    "first_tags",
    "live_pairs",
    "new_pairs",
    "purge",
    "slot_of",
    "slots_of",
]

Tags = npt.NDArray[np.int32]

WAYS = 8
"""Places of a group: two cache lines, and what is shipped when one of them changes."""

NOTHING = -1
"""Tag of an empty place."""

LAST_TAG = 2**31 - 1

MANY = 16
"""Rows of a request from which on all pairs of the user's items are read in order. To look each row up in the pairs of each of
the user's items reads from as many places in memory, and takes longer then. The sums are the same to the bit."""


class Pairs(NamedTuple):
    """The live arrays of a store of pairs, as compiled functions take them: group g of item i is row i * groups + g.

    Attributes
    ----------
    tag : (items * groups, WAYS) int32
        Other item of each pair.
    weight : (items * groups, WAYS) float32
    dirty : (items * groups,) bool
    """

    tag: Tags
    weight: Floats
    dirty: Bools


def new_pairs(items: int, neighbours: int) -> Arrays:
    """Store of the pairs of so many items, each with `neighbours` places (a multiple of 8)."""
    groups = items * neighbours // WAYS
    return Arrays(tag=np.full((groups, WAYS), NOTHING, np.int32), weight=np.zeros((groups, WAYS), np.float32))


def live_pairs(store: Arrays) -> Pairs:
    """The live arrays of a store that `new_pairs` made."""
    return Pairs(store["tag"], store["weight"], store.dirty)


def first_tags(items: int) -> tuple[Tags, int]:
    """Tags of the first items in so many slots, (items,) int32, and the mask of a tag's bits that are the slot."""
    return np.arange(items, dtype=np.int32), (1 << (items - 1).bit_length()) - 1


@njit(cache=True, nogil=True)
def slot_of(tag: int, tags: Tags, mask: int) -> int:
    """Slot of the item that a tag names, or -1 when it is gone; `tags` (items,) has the present tag of each slot."""
    return tag & mask if tag >= 0 and tags[tag & mask] == tag else -1


@njit(cache=True, nogil=True)
def add(one: int, other: int, weight: float, pairs: Pairs, tags: Tags, mask: int) -> None:
    """Add to the pair that `one` keeps of `other`, in place of its group's weakest where it is new and there is no room."""
    groups = pairs.tag.shape[0] // tags.size
    row, tag = one * groups + other % groups, tags[other]
    pair, weights = pairs.tag[row], pairs.weight[row]
    place = 0
    for way in range(WAYS):
        if pair[way] == tag:
            place = way
            break
        # Pairs with items that are gone weigh nothing.
        if slot_of(pair[way], tags, mask) < 0:
            pair[way], weights[way] = NOTHING, 0
        if weights[way] < weights[place]:
            place = way
    if pair[place] != tag:
        pair[place], weights[place] = tag, 0
    weights[place] += weight
    pairs.dirty[row] = True


@njit(cache=True, nogil=True)
def clear(slot: int, pairs: Pairs, items: int) -> None:
    """Empty the pairs that the item in a slot keeps."""
    groups = pairs.tag.shape[0] // items
    for row in range(slot * groups, (slot + 1) * groups):
        if np.any(pairs.tag[row] != NOTHING):
            pairs.tag[row], pairs.weight[row], pairs.dirty[row] = NOTHING, 0, True


@njit(cache=True, nogil=True)
def purge(slot: int, pairs: Pairs, mask: int) -> None:
    """Empty all places that name any item which ever was in a slot: its tags begin anew."""
    for row in range(pairs.tag.shape[0]):
        for way in range(WAYS):
            if pairs.tag[row, way] >= 0 and pairs.tag[row, way] & mask == slot:
                pairs.tag[row, way], pairs.weight[row, way], pairs.dirty[row] = NOTHING, 0, True


@njit(cache=True, nogil=True)
def drop(slot: int, rings: Tags, dirty: Bools, mask: int) -> None:
    """The same for what users did last, (users, window) tags."""
    for user in range(rings.shape[0]):
        for age in range(rings.shape[1]):
            if rings[user, age] >= 0 and rings[user, age] & mask == slot:
                rings[user, age], dirty[user] = NOTHING, True


@njit(cache=True, nogil=True)
def slots_of(tags: Tags, known: Tags, mask: int, slots: Ids) -> int:
    """Write the slots of the items that are still there to `slots`, in the order of their tags, and return how many there are.

    `known` and `mask` are as in `slot_of`. No more are written than there is room for.
    """
    count = 0
    for tag in tags:
        slot = slot_of(tag, known, mask)
        if slot >= 0 and count < slots.size:
            slots[count] = slot
            count += 1
    return count


@njit(cache=True, nogil=True)
def collect(items: Ids, wanted: Bools, total: Floats, score: Floats) -> None:
    """Write the totals of items to `score`, and reset both arrays to what they were before the items were marked as wanted."""
    for n in range(items.size):
        score[n] = total[items[n]] if items[n] >= 0 else 0.0
    for c in items:
        if c >= 0:
            wanted[c], total[c] = False, 0.0
