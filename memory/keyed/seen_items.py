"""Which items each user has touched, so that they are not recommended again: long lists in a pool of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Bools, Ids
from memory.jit import njit
from memory.keyed.key_index import KeyIndex
from memory.stateful import Stateful

__all__ = ["SeenItems"]

BLOCK = 8
"""Items of a block. A user's list is a chain of blocks, so a short list takes little and a long one is walked quickly."""

NONE = -1

_Slots = npt.NDArray[np.int32]


class SeenItems(Stateful):
    """The items that users have touched, oldest first. The oldest leave when a user has too many, or when the pool is full.

    Lists are chains of blocks of 8 items, which take 10 bytes an item when they are full. The pool is a ring: the next block is
    the one that was handed out longest ago, whoever has it. An item is not added again while it is in the user's newest block;
    later it is, because a search through the whole list would take longer than all the rest of learning a row.

    Parameters
    ----------
    users : int
        Users at most; the one longest without a new interaction gives way.
    items : int
        Items of all users together, at most; rounded up to whole blocks.
    per_user : int
        Items of one user, at most; at least 8.

    Raises
    ------
    ValueError
        For a capacity that is too small.

    Examples
    --------
    >>> seen = SeenItems(users=10, items=100, per_user=50)
    >>> seen.add(np.array([1, 1, 2]), np.array([7, 9, 7]))
    >>> items, start = seen.of(np.array([1]))
    >>> items.tolist()
    [7, 9]
    """

    def __init__(self, users: int, items: int, per_user: int) -> None:
        for name, value, least in (("users", users, 1), ("items", items, BLOCK), ("per_user", per_user, BLOCK)):
            if value < least:
                raise ValueError(f"{name}: {value}; give at least {least}")
        blocks = -(-items // BLOCK)
        self.per_user = per_user
        self.index = KeyIndex(users)
        self.lists = Arrays(
            oldest=np.full(users, NONE, np.int32), newest=np.full(users, NONE, np.int32), count=np.zeros(users, np.int32)
        )
        self.blocks = Arrays(
            item=np.zeros((blocks, BLOCK), np.int64),
            owner=np.full(blocks, NONE, np.int32),
            newer=np.full(blocks, NONE, np.int32),
            filled=np.zeros(blocks, np.int32),
        )
        self.ring = Arrays(next=np.zeros(1, np.int64))
        self._raw = (
            self.lists["oldest"],
            self.lists["newest"],
            self.lists["count"],
            self.lists.dirty,
            self.blocks["item"],
            self.blocks["owner"],
            self.blocks["newer"],
            self.blocks["filled"],
            self.blocks.dirty,
        )

    def __len__(self) -> int:
        return len(self.index)

    @property
    def evictions(self) -> int:
        """Users that had to give way since construction; not part of the state."""
        return self.index.evictions

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def add(self, user: Ids, item: Ids) -> None:
        """Note that users touched items, in row order. Rows whose user or item is 0 are left out.

        Parameters
        ----------
        user, item : (N,) int64
            Hashed ids.
        """
        slots, fresh = self.index.insert(user)
        _add(slots, fresh, np.ascontiguousarray(item, np.int64), *self._raw, self.ring["next"], self.per_user)
        self.ring.mark()

    def of(self, user: Ids) -> tuple[Ids, Ids]:
        """Items that users (B,) have touched, some of them more than once.

        Returns
        -------
        items : (M,) int64
            Oldest first within a user.
        start : (B + 1,) int64
            User b has ``items[start[b]:start[b + 1]]``.
        """
        lists, blocks = self.lists, self.blocks
        return _of(self.index.find(user), lists["oldest"], lists["count"], blocks["item"], blocks["newer"], blocks["filled"])

    def has(self, user: Ids, item: Ids) -> Bools:
        """Whether each user has touched the item beside it: (N,) and (N,) int64 to (N,) bool."""
        blocks = self.blocks
        return _has(self.index.find(user), item, self.lists["oldest"], blocks["item"], blocks["newer"], blocks["filled"])

    def forget(self, users: Ids) -> None:
        """Erase what is known of `users` (N,)."""
        slots = self.index.delete(users)
        _erase(slots[slots >= 0], *self._raw)


@njit(cache=True, nogil=True)
def _drop_oldest(slot, oldest, newest, count, changed, item, owner, newer, filled, dirty):  # type: ignore[no-untyped-def]
    """Give the oldest block of a list back."""
    block = oldest[slot]
    oldest[slot] = newer[block]
    if newest[slot] == block:
        newest[slot] = NONE
    count[slot] -= filled[block]
    item[block] = 0
    owner[block], newer[block], filled[block] = NONE, NONE, 0
    changed[slot], dirty[block] = True, True


@njit(cache=True, nogil=True)
def _erase(slots, oldest, newest, count, changed, item, owner, newer, filled, dirty):  # type: ignore[no-untyped-def]
    for slot in slots:
        while oldest[slot] != NONE:
            _drop_oldest(slot, oldest, newest, count, changed, item, owner, newer, filled, dirty)


@njit(cache=True, nogil=True)
def _add(  # type: ignore[no-untyped-def]
    slots, fresh, items, oldest, newest, count, changed, item, owner, newer, filled, dirty, ring, per_user
):
    for row in range(slots.size):
        slot = slots[row]
        if slot < 0:
            continue
        if fresh[row]:  # in row order: a user that gave way within the batch leaves nothing to the next one
            _erase(slots[row : row + 1], oldest, newest, count, changed, item, owner, newer, filled, dirty)
        if items[row] == 0:
            continue
        block = newest[slot]
        known = False
        if block != NONE:
            for n in range(filled[block]):
                known |= item[block, n] == items[row]
        if known:
            continue
        if block == NONE or filled[block] == BLOCK:
            block = np.int32(ring[0])
            ring[0] = (ring[0] + 1) % owner.size
            if owner[block] != NONE:  # handed out longest ago of all, so it is the oldest of its list
                _drop_oldest(owner[block], oldest, newest, count, changed, item, owner, newer, filled, dirty)
            owner[block] = slot
            if newest[slot] == NONE:
                oldest[slot] = block
            else:
                newer[newest[slot]] = block
                dirty[newest[slot]] = True
            newest[slot] = block
        item[block, filled[block]] = items[row]
        filled[block] += 1
        count[slot] += 1
        changed[slot], dirty[block] = True, True
        if count[slot] > per_user:
            _drop_oldest(slot, oldest, newest, count, changed, item, owner, newer, filled, dirty)


@njit(cache=True, nogil=True)
def _of(slots: Ids, oldest: _Slots, count: _Slots, item: Ids, newer: _Slots, filled: _Slots) -> tuple[Ids, Ids]:
    start = np.zeros(slots.size + 1, np.int64)
    for row in range(slots.size):
        start[row + 1] = start[row] + (count[slots[row]] if slots[row] >= 0 else 0)
    found = np.empty(start[-1], np.int64)
    for row in range(slots.size):
        if slots[row] < 0:
            continue
        at, block = start[row], oldest[slots[row]]
        while block != NONE:
            for n in range(filled[block]):
                found[at] = item[block, n]
                at += 1
            block = newer[block]
    return found, start


@njit(cache=True, nogil=True)
def _has(slots: Ids, wanted: Ids, oldest: _Slots, item: Ids, newer: _Slots, filled: _Slots) -> Bools:
    found = np.zeros(slots.size, np.bool_)
    for row in range(slots.size):
        block = oldest[slots[row]] if slots[row] >= 0 else NONE
        while block != NONE and not found[row]:
            for n in range(filled[block]):
                found[row] |= item[block, n] == wanted[row]
            block = newer[block]
    return found
