"""What each user did last: a ring of the last L items per user, bounded in users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Bools, Ids, check_fit
from memory.jit import njit
from memory.keyed.keyed_store import KeyedStore
from memory.stateful import State

__all__ = ["History"]

Times = npt.NDArray[np.float64]
Kinds = npt.NDArray[np.int32]


class History(KeyedStore):
    """The last `length` interactions of each of the last `capacity` users.

    Parameters
    ----------
    capacity : int
        Users at most; the one longest without an interaction gives way.
    length : int
        Interactions kept per user.
    """

    state_version: ClassVar[int | str] = 2
    """1 shipped whole rings."""

    def __init__(self, capacity: int, length: int) -> None:
        if length < 1:
            raise ValueError(f"length: {length}; give at least 1")
        self.length = length
        super().__init__(capacity)
        self.rings = Arrays(
            item=np.zeros((capacity, length), np.int64),
            timestamp=np.zeros((capacity, length), np.float64),
            kind=np.zeros((capacity, length), np.int32),
            positive=np.zeros((capacity, length), np.bool_),
            count=np.zeros(capacity, np.int64),
        )
        # Of the interactions that were ever added to each ring, how many are known to followers; 0: nothing that is in it.
        self._shipped: Ids = np.zeros(capacity, np.int64)
        rings = self.rings
        self._raw = rings["item"], rings["timestamp"], rings["kind"], rings["positive"], rings["count"]

    def append(self, user: Ids, item: Ids, timestamp: Times, kind: Kinds, positive: Bools) -> None:
        """Add one interaction per row, in row order. Rows whose user or item is 0 are left out.

        Parameters
        ----------
        user, item : (N,) int64
            Hashed ids.
        timestamp : (N,) float64
            Unix seconds; kept, not sorted by.
        kind : (N,) int32
            Hashed kinds of the interactions.
        positive : (N,) bool
            Whether the reward was positive.
        """
        slots, fresh = self.index.insert(user)
        item = np.ascontiguousarray(item, np.int64)
        timestamp = np.ascontiguousarray(timestamp, np.float64)
        kind = np.ascontiguousarray(kind, np.int32)
        positive = np.ascontiguousarray(positive, np.bool_)
        _append(slots, fresh, *self._raw, item, timestamp, kind, positive, self.rings.dirty, self._shipped)

    def recent(self, user: Ids, length: int) -> tuple[Ids, Times, Kinds]:
        """Last interactions with a positive reward of users (B,), newest first, padded with 0.

        Returns
        -------
        item : (B, length) int64
        timestamp : (B, length) float64
        kind : (B, length) int32
        """
        shape = user.size, length
        item, timestamp, kind = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, np.int32)
        _recent(self.index.find(user), *self._raw, item, timestamp, kind)
        return item, timestamp, kind

    def seen(self, user: Ids) -> tuple[Ids, Ids]:
        """Different items still remembered, whatever their reward, for users (B,).

        Returns
        -------
        items : (M,) int64
            Ascending within a user.
        start : (B + 1,) int64
            User b has ``items[start[b]:start[b + 1]]``.
        """
        return _seen(self.index.find(user), self.rings["item"], self.rings["count"])

    def activity(self, user: Ids) -> Ids:
        """How many interactions of users (B,) were ever added, (B,) int64; 0 for a user who is not known."""
        slots = self.index.find(user)
        activity: Ids = np.where(slots >= 0, self.rings["count"][slots], 0)
        return activity

    def entries(self, user: int) -> tuple[Ids, Times, Bools]:
        """All that is remembered of one user, oldest first: items, timestamps and whether positive, each (n,)."""
        slot = int(self.index.find(np.array([user]))[0])
        count = 0 if slot < 0 else int(self.rings["count"][slot])
        places = np.arange(max(0, count - self.length), count) % self.length
        return self.rings["item"][slot, places], self.rings["timestamp"][slot, places], self.rings["positive"][slot, places]

    def forget(self, users: Ids) -> None:
        """Erase all that is remembered of `users` (N,)."""
        slots = self.index.delete(users)
        slots = slots[slots >= 0]
        for name in self.rings:
            self.rings[name][slots] = 0
        self.rings.mark(slots)
        self._shipped[slots] = 0

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Copy `state` into the rings; a follower must load the same state, for changes count from here."""
        super().load_state_dict(state)
        self._shipped[:] = self.rings["count"]

    def take_changes(self) -> State:
        """Changes of the index, and interactions that were added, not whole rings.

        Of each ring that changed, ascending, ``slot`` (n,) int64, and the numbers ``first`` and ``count`` (n,) int64 of its
        first new interaction and of the one that comes next; of the interactions, ring by ring, ``item``, ``timestamp``,
        ``kind`` and ``positive`` (m,). From ``first`` 0 on they are all that the ring holds.
        """
        changes: State = {f"index.{name}": array for name, array in self.index.take_changes().items()}
        slots = np.flatnonzero(self.rings.dirty)
        if slots.size:
            count = self.rings["count"][slots]
            first = np.maximum(self._shipped[slots], count - self.length)
            places = self._places(slots, first, count)
            changes |= {"slot": slots, "first": first, "count": count}
            changes |= {name: self.rings[name][places] for name in self._fields}
            self._shipped[slots], self.rings.dirty[slots] = count, False
        return changes

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Follow a leader; what it added counts as changed here too, so that a follower can be followed."""
        of_rings = {name: array for name, array in changes.items() if not name.startswith("index.")}
        if of_rings:
            self._check_changes(of_rings)
        self.index.apply_changes({name.removeprefix("index."): changes[name] for name in changes.keys() - of_rings.keys()})
        if not of_rings:
            return
        slots, first, count = (of_rings[name].astype(np.int64) for name in ("slot", "first", "count"))
        new = slots[first == 0]
        for name in self._fields:
            self.rings[name][new] = 0
            self.rings[name][self._places(slots, first, count)] = of_rings[name]
        self.rings["count"][slots] = count
        self._shipped[slots] = np.minimum(self._shipped[slots], first)
        self.rings.dirty[slots] = True

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return super().nbytes + self._shipped.nbytes

    @property
    def _fields(self) -> list[str]:
        """What is kept of an interaction."""
        return [name for name in self.rings if name != "count"]

    def _places(self, slots: Ids, first: Ids, count: Ids) -> tuple[Ids, Ids]:
        """Ring and place of the interactions from number `first` to `count` of each ring."""
        sizes = count - first
        number = np.arange(sizes.sum()) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
        return np.repeat(slots, sizes), number % self.length

    def _check_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless these are changes of rings of this capacity and length."""
        numbers = {name: changes.get(name, np.zeros(0)) for name in ("slot", "first", "count")}
        check_fit(type(self).__name__, numbers, dict.fromkeys(numbers, self._shipped), rows=numbers["slot"].size)
        slots, first, count = (array.astype(np.int64) for array in numbers.values())
        sizes = count - first
        if slots.size and not (0 <= slots.min() <= slots.max() < self.capacity and first.min() >= 0 and sizes.min() >= 0):
            raise ValueError(f"slot, first, count: not of {self.capacity} rings; they were taken under another configuration")
        if sizes.max(initial=0) > self.length:
            problem = f"first, count: {sizes.max()} interactions of a ring of {self.length}"
            raise ValueError(f"{problem}; they were taken under another configuration")
        like = {name: self.rings[name][:, 0] for name in self._fields}
        check_fit(
            type(self).__name__,
            {name: array for name, array in changes.items() if name not in numbers},
            like,
            rows=int(sizes.sum()),
        )


# Compiled part. Rings: items int64, times float64, kinds int32, positives bool, each (capacity, L), and counts int64
# (capacity,) of interactions ever added, so that the next goes to place count % L.


@njit(cache=True, nogil=True)
def _append(
    slots: Ids,
    fresh: Bools,
    items: Ids,
    times: Times,
    kinds: Kinds,
    positives: Bools,
    counts: Ids,
    item: Ids,
    timestamp: Times,
    kind: Kinds,
    positive: Bools,
    dirty: Bools,
    shipped: Ids,
) -> None:
    for row in range(slots.size):
        slot = slots[row]
        if slot < 0:
            continue
        if fresh[row]:  # in row order, so that a user evicted by the same batch leaves nothing to the next one
            items[slot] = 0
            times[slot] = 0.0
            kinds[slot] = 0
            positives[slot] = False
            counts[slot] = 0
            shipped[slot] = 0
            dirty[slot] = True
        if item[row] == 0:
            continue
        place = counts[slot] % items.shape[1]
        items[slot, place] = item[row]
        times[slot, place] = timestamp[row]
        kinds[slot, place] = kind[row]
        positives[slot, place] = positive[row]
        counts[slot] += 1
        dirty[slot] = True


@njit(cache=True, nogil=True)
def _recent(
    slots: Ids,
    items: Ids,
    times: Times,
    kinds: Kinds,
    positives: Bools,
    counts: Ids,
    item: Ids,
    timestamp: Times,
    kind: Kinds,
) -> None:
    length = items.shape[1]
    for row in range(slots.size):
        slot = slots[row]
        if slot < 0:
            continue
        found, place = 0, counts[slot] % length
        for _ in range(min(counts[slot], length)):
            if found == item.shape[1]:
                break
            place = (place if place > 0 else length) - 1
            if positives[slot, place]:
                item[row, found] = items[slot, place]
                timestamp[row, found] = times[slot, place]
                kind[row, found] = kinds[slot, place]
                found += 1


@njit(cache=True, nogil=True)
def _seen(slots: Ids, items: Ids, counts: Ids) -> tuple[Ids, Ids]:
    start = np.zeros(slots.size + 1, np.int64)
    total = 0
    for slot in slots:
        total += 0 if slot < 0 else min(counts[slot], items.shape[1])
    found = np.empty(total, np.int64)
    end = 0
    for row in range(slots.size):
        slot = slots[row]
        if slot >= 0:
            size = min(counts[slot], items.shape[1])
            ring = np.sort(items[slot, :size])  # a ring that is not full yet lies in its first places
            for place in range(size):
                if place == 0 or ring[place] != ring[place - 1]:
                    found[end] = ring[place]
                    end += 1
        start[row + 1] = end
    return found[:end], start
