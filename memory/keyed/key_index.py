"""Map 64-bit keys to a fixed number of slots, with LRU eviction.

All slots are in one circular doubly linked list, oldest first. Free slots have key 0 and are at the oldest end, so taking a
free slot and evicting are the same step. A hash table (open addressing, linear probing, backward-shift deletion) maps keys to
slots. All data is in five arrays that the compiled functions share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Bools, Ids, check_fit
from memory.jit import njit
from memory.stateful import State, StateCopy, Stateful, copied

__all__ = ["KeyIndex"]

Slots = npt.NDArray[np.int32]
Int = int | np.integer[Any]

LINKS_PER_STEP = 20_000
"""Links followed in one step of a copy: one to three milliseconds where none of them is in the cache."""

NO_FLAGS: Bools = np.zeros(0, np.bool_)

OLDER, NEWER = 0, 1
USED, EVICTIONS = 0, 1


class KeyIndex(Stateful):
    """Exact LRU index of keys.

    Parameters
    ----------
    capacity : int
        Number of slots, 1 to 2**31 - 2.
    """

    def __init__(self, capacity: int) -> None:
        if not 1 <= capacity < 2**31 - 1:
            raise ValueError(f"capacity: {capacity}; give 1 to {2**31 - 2}")
        self.capacity = capacity
        self._keys: Ids = np.zeros(capacity, np.int64)
        self._links: Slots = np.empty((capacity + 1, 2), np.int32)
        self._buckets: Slots = np.empty(1 << (2 * capacity - 1).bit_length(), np.int32)
        self._dirty: Bools = np.zeros(capacity, np.bool_)
        self._counts: Ids = np.zeros(2, np.int64)
        self._raw = self._keys, self._links, self._buckets, self._dirty, self._counts
        _rebuild(*self._raw, np.arange(capacity, dtype=np.int32))

    def find(self, keys: Ids) -> Ids:
        """Slots of `keys` (N,) as (N,) int64, -1 if unknown and for key 0. It does not touch the keys."""
        keys = np.ascontiguousarray(keys, np.int64)
        slots = np.empty(keys.size, np.int64)
        _find(self._keys, self._buckets, keys, slots)
        return slots

    def insert(self, keys: Ids) -> tuple[Ids, Bools]:
        """Find or create `keys` in order. Each becomes the newest. If no slot is free, the least recently touched is evicted.

        Parameters
        ----------
        keys : (N,) int64
            Repeats are allowed. Key 0 means "none" and gets slot -1.

        Returns
        -------
        slots : (N,) int64
            Slot of each key right after its insertion. A batch of more than `capacity` different keys evicts some of its own
            keys. Then several keys have the same slot, and the last of them owns it.
        fresh : (N,) bool
            Whether the key was created.
        """
        keys = np.ascontiguousarray(keys, np.int64)
        slots = np.empty(keys.size, np.int64)
        fresh = np.empty(keys.size, np.bool_)
        _insert(*self._raw, keys, slots, fresh)
        return slots, fresh

    def delete(self, keys: Ids) -> Ids:
        """Free the slots of `keys` (N,). Return the slots as (N,) int64, -1 if unknown."""
        keys = np.ascontiguousarray(keys, np.int64)
        slots = np.empty(keys.size, np.int64)
        _delete(*self._raw, keys, slots)
        return slots

    def __len__(self) -> int:
        return int(self._counts[USED])

    @property
    def evictions(self) -> int:
        """Keys evicted since construction: a metric for operators, not part of the state."""
        return int(self._counts[EVICTIONS])

    @property
    def keys(self) -> Ids:
        """Key of each slot, (capacity,) int64, 0 if free. Live and read-only."""
        return self._keys

    @property
    def dirty(self) -> Bools:
        """Slots assigned, touched or freed since `take_changes`, (capacity,) bool.

        Read-only, because followers move these slots to the ends of their order.
        """
        return self._dirty

    def slots(self) -> Ids:
        """Used slots from the least recently touched to the newest, (len,) int64."""
        order = np.empty(self.capacity, np.int32)
        _follow(self._links, self.capacity, order)
        return order[self.capacity - len(self) :].astype(np.int64)

    def newest(self, count: int, skip: Bools, only: Bools | None = None) -> Ids:
        """Keys of up to `count` most recently touched slots, newest first. It costs what it passes, not the capacity.

        Parameters
        ----------
        count : int
        skip : (capacity,) bool
            Slots that are left out.
        only : (capacity,) bool, optional
            Slots that are not left out.
        """
        return _newest(self._keys, self._links, skip, NO_FLAGS if only is None else only, max(count, 0))

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def copy_in_steps(self) -> StateCopy:
        """Copy ``keys`` (capacity,) int64 and ``order`` (capacity,) int32: all slots, least recently touched first."""
        keys = yield from copied(self._keys)
        # The list jumps through memory: a step follows fewer links than it could copy numbers.
        order = np.empty(self.capacity, np.int32)
        last: Int = self.capacity
        for start in range(0, self.capacity, LINKS_PER_STEP):
            last = _follow(self._links, last, order[start : start + LINKS_PER_STEP])
            yield
        return {"keys": keys, "order": order}

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless `state` is a consistent index of this capacity."""
        check_fit(type(self).__name__, state, {"keys": self._keys, "order": self._links[:-1, 0]})
        keys, order = state["keys"], state["order"]
        if not np.array_equal(np.sort(order), np.arange(self.capacity)):
            raise ValueError("order: not a permutation of the slots; the state is damaged, use the checkpoint before it")
        used = np.sort(keys[keys != 0])
        if np.any(used[1:] == used[:-1]) or np.any(keys[order][: self.capacity - used.size]):
            raise ValueError(
                "keys: a key twice, or free slots between used ones; the state is damaged, use the checkpoint before it"
            )

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Copy `state` into this index. Later changes are relative to it, so a follower must load the same state."""
        self.check_state_dict(state)
        self._keys[:] = state["keys"]
        _rebuild(*self._raw, state["order"].astype(np.int32))
        self._dirty[:] = False

    def take_changes(self) -> State:
        """Return the changed ``slots`` (n,) int32, oldest first, and their ``keys`` (n,) int64. Empty if none changed."""
        slots = _take(self._keys, self._links, self._dirty)
        return {"slots": slots, "keys": self._keys[slots]} if slots.size else {}

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Apply the changes of a leader. Freed slots go to the oldest end, the others to the newest, in the leader's order."""
        if not changes:
            return
        size = changes["slots"].size if "slots" in changes else 0
        check_fit(type(self).__name__, changes, {"slots": self._links[:0, 0], "keys": self._keys[:0]}, rows=size)
        slots, keys = changes["slots"].astype(np.int32), changes["keys"].astype(np.int64)
        if size and not 0 <= slots.min() <= slots.max() < self.capacity:
            raise ValueError(f"slots: not slots below {self.capacity}; the changes were taken under another configuration")
        if not _apply(*self._raw, slots, keys):
            raise ValueError("keys: another slot has one of them, so changes were missed; load the newest checkpoint")

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        return sum(array.nbytes for array in self._raw)


# Compiled part. Types: keys int64 (capacity,); links int32 (capacity + 1, 2), whose last row is the sentinel of the list;
# buckets int32 (power of two >= 2 * capacity,) with slots or -1; dirty bool (capacity,); counts int64 (2,).


@njit(cache=True, nogil=True)
def _first_bucket(key: Int, buckets: Slots) -> Int:
    """First bucket to search for a key. Keys may be small numbers, so murmur3's 64-bit finalizer mixes the bits."""
    mixed = np.uint64(key)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return np.int64(mixed & np.uint64(buckets.size - 1))


@njit(cache=True, nogil=True)
def _slot_of(keys: Ids, buckets: Slots, key: Int) -> Int:
    if key == 0:
        return -1
    bucket = _first_bucket(key, buckets)
    while True:
        slot = np.int64(buckets[bucket])
        if slot < 0 or keys[slot] == key:
            return slot
        bucket = (bucket + 1) & (buckets.size - 1)


@njit(cache=True, nogil=True)
def _add_to_buckets(keys: Ids, buckets: Slots, slot: Int) -> None:
    bucket = _first_bucket(keys[slot], buckets)
    while buckets[bucket] >= 0:
        bucket = (bucket + 1) & (buckets.size - 1)
    buckets[bucket] = slot


@njit(cache=True, nogil=True)
def _remove_from_buckets(keys: Ids, buckets: Slots, slot: Int) -> None:
    """Remove a slot from the hash table. Shift later entries back, so that no tombstones are needed."""
    mask = buckets.size - 1
    hole = _first_bucket(keys[slot], buckets)
    while buckets[hole] != slot:
        hole = (hole + 1) & mask
    bucket = hole
    while True:
        bucket = (bucket + 1) & mask
        other = np.int64(buckets[bucket])
        if other < 0:
            break
        if ((bucket - _first_bucket(keys[other], buckets)) & mask) >= ((bucket - hole) & mask):
            buckets[hole] = other
            hole = bucket
    buckets[hole] = -1


@njit(cache=True, nogil=True)
def _move(links: Slots, slot: Int, older: Int) -> None:
    """Move a slot right after `older` in the list. After the sentinel it is the oldest."""
    if older == slot:
        return
    links[links[slot, OLDER], NEWER] = links[slot, NEWER]
    links[links[slot, NEWER], OLDER] = links[slot, OLDER]
    newer = links[older, NEWER]
    links[slot, OLDER] = older
    links[slot, NEWER] = newer
    links[older, NEWER] = slot
    links[newer, OLDER] = slot


@njit(cache=True, nogil=True)
def _rebuild(keys: Ids, links: Slots, buckets: Slots, dirty: Bools, counts: Ids, order: Slots) -> None:
    buckets[:] = -1
    counts[USED] = 0
    previous: Int = keys.size
    for slot in order:
        links[previous, NEWER] = slot
        links[slot, OLDER] = previous
        previous = np.int64(slot)
        if keys[slot] != 0:
            counts[USED] += 1
            _add_to_buckets(keys, buckets, slot)
    links[previous, NEWER] = keys.size
    links[keys.size, OLDER] = previous


@njit(cache=True, nogil=True)
def _follow(links: Slots, slot: Int, order: Slots) -> Int:
    """Write the slots after `slot` in the list to `order`, from the oldest on, and return the last of them."""
    for position in range(order.size):
        slot = np.int64(links[slot, NEWER])
        order[position] = slot
    return slot


@njit(cache=True, nogil=True)
def _newest(keys: Ids, links: Slots, skip: Bools, only: Bools, count: int) -> Ids:
    """Walk back from the newest. Without elements, `only` leaves nothing out."""
    found = np.empty(min(count, keys.size), np.int64)
    rows, slot = 0, np.int64(links[keys.size, OLDER])
    while rows < found.size and slot < keys.size and keys[slot] != 0:
        if not skip[slot] and (only.size == 0 or only[slot]):
            found[rows] = keys[slot]
            rows += 1
        slot = np.int64(links[slot, OLDER])
    return found[:rows]


@njit(cache=True, nogil=True)
def _find(keys: Ids, buckets: Slots, wanted: Ids, slots: Ids) -> None:
    for row in range(wanted.size):
        slots[row] = _slot_of(keys, buckets, wanted[row])


@njit(cache=True, nogil=True)
def _insert(keys: Ids, links: Slots, buckets: Slots, dirty: Bools, counts: Ids, wanted: Ids, slots: Ids, fresh: Bools) -> None:
    end = keys.size
    for row in range(wanted.size):
        key = wanted[row]
        slot = _slot_of(keys, buckets, key)
        fresh[row] = slot < 0 and key != 0
        slots[row] = slot
        if key == 0:
            continue
        if slot < 0:
            slot = np.int64(links[end, NEWER])
            if keys[slot] != 0:
                _remove_from_buckets(keys, buckets, slot)
                counts[EVICTIONS] += 1
            else:
                counts[USED] += 1
            keys[slot] = key
            _add_to_buckets(keys, buckets, slot)
            slots[row] = slot
        _move(links, slot, links[end, OLDER])
        dirty[slot] = True


@njit(cache=True, nogil=True)
def _delete(keys: Ids, links: Slots, buckets: Slots, dirty: Bools, counts: Ids, wanted: Ids, slots: Ids) -> None:
    for row in range(wanted.size):
        slot = _slot_of(keys, buckets, wanted[row])
        slots[row] = slot
        if slot >= 0:
            _remove_from_buckets(keys, buckets, slot)
            keys[slot] = 0
            counts[USED] -= 1
            _move(links, slot, keys.size)
            dirty[slot] = True


@njit(cache=True, nogil=True)
def _take(keys: Ids, links: Slots, dirty: Bools) -> Slots:
    """List dirty slots, oldest first. Freed slots are a prefix of the list, touched ones a suffix: scan from both ends."""
    end = keys.size
    slots = np.empty(np.count_nonzero(dirty), np.int32)
    low, slot = 0, links[end, NEWER]
    while slot != end and keys[slot] == 0 and dirty[slot]:
        slots[low] = slot
        dirty[slot] = False
        low, slot = low + 1, links[slot, NEWER]
    high, slot = slots.size, links[end, OLDER]
    while slot != end and dirty[slot]:
        high -= 1
        slots[high] = slot
        dirty[slot] = False
        slot = links[slot, OLDER]
    return slots


@njit(cache=True, nogil=True)
def _apply(keys: Ids, links: Slots, buckets: Slots, dirty: Bools, counts: Ids, slots: Slots, new: Ids) -> bool:
    end = keys.size
    for slot in slots:
        if keys[slot] != 0:
            _remove_from_buckets(keys, buckets, slot)
            keys[slot] = 0
            counts[USED] -= 1
        dirty[slot] = True
    for row in range(slots.size):
        slot = np.int64(slots[row])
        if new[row] != 0:
            if _slot_of(keys, buckets, new[row]) >= 0:
                return False
            keys[slot] = new[row]
            _add_to_buckets(keys, buckets, slot)
            counts[USED] += 1
            _move(links, slot, links[end, OLDER])
    for row in range(slots.size - 1, -1, -1):
        if new[row] == 0:
            _move(links, slots[row], end)
    return True
