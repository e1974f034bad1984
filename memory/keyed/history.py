"""Recent interactions of each user: a ring buffer per user, for a bounded number of users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Bools, Ids, check_fit
from memory.jit import njit
from memory.keyed.keyed_store import KeyedStore
from memory.stateful import State

__all__ = ["History", "add_earlier_rows"]

Times = npt.NDArray[np.float64]
Kinds = npt.NDArray[np.int32]


class History(KeyedStore):
    """The last `length` interactions of each of the last `capacity` users.

    Parameters
    ----------
    capacity : int
        Maximum number of users. The user without interactions for the longest time is evicted.
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
        # How many of the interactions ever added to each ring followers know; 0 if they know nothing of its content.
        self._shipped: Ids = np.zeros(capacity, np.int64)
        rings = self.rings
        self._raw = rings["item"], rings["timestamp"], rings["kind"], rings["positive"], rings["count"]

    def append(self, user: Ids, item: Ids, timestamp: Times, kind: Kinds, positive: Bools) -> None:
        """Add one interaction per row, in row order. Rows with user 0 or item 0 are ignored.

        Parameters
        ----------
        user, item : (N,) int64
            Hashed ids.
        timestamp : (N,) float64
            Unix seconds. They are stored; the order is that of the rows.
        kind : (N,) int32
            Hashed interaction kinds.
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
        """Last interactions of users (B,) with a positive reward, newest first, padded with 0.

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
        """Distinct items in the rings of users (B,), whatever their reward.

        Returns
        -------
        items : (M,) int64
            Ascending within a user.
        start : (B + 1,) int64
            The items of user b are ``items[start[b]:start[b + 1]]``.
        """
        return _seen(self.index.find(user), self.rings["item"], self.rings["count"])

    def activity(self, user: Ids) -> Ids:
        """How many interactions of users (B,) were ever added, (B,) int64; 0 for a user who is not known."""
        slots = self.index.find(user)
        activity: Ids = np.where(slots >= 0, self.rings["count"][slots], 0)
        return activity

    def entries(self, user: int) -> tuple[Ids, Times, Bools]:
        """All stored interactions of one user, oldest first: items, timestamps and whether positive, each (n,)."""
        slot = int(self.index.find(np.array([user]))[0])
        count = 0 if slot < 0 else int(self.rings["count"][slot])
        at = np.arange(max(0, count - self.length), count) % self.length
        return self.rings["item"][slot, at], self.rings["timestamp"][slot, at], self.rings["positive"][slot, at]

    def forget(self, users: Ids) -> None:
        """Erase the interactions of `users` (N,)."""
        slots = self.index.delete(users)
        slots = slots[slots >= 0]
        for name in self.rings:
            self.rings[name][slots] = 0
        self.rings.mark(slots)
        self._shipped[slots] = 0

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Copy `state` into the rings. Later changes are relative to it, so a follower must load the same state."""
        super().load_state_dict(state)
        self._shipped[:] = self.rings["count"]

    def take_changes(self) -> State:
        """Return the changes of the index, and the added interactions instead of whole rings.

        For each changed ring: ``slot`` (n,) int64, the number ``first`` (n,) int64 of its first new interaction, and the
        total ``count`` (n,) int64. For each new interaction, ring by ring: ``item``, ``timestamp``, ``kind`` and ``positive``
        (m,). If ``first`` is 0, the ring has no older interactions.
        """
        changes: State = {f"index.{name}": array for name, array in self.index.take_changes().items()}
        slots = np.flatnonzero(self.rings.dirty)
        if slots.size:
            count = self.rings["count"][slots]
            first = np.maximum(self._shipped[slots], count - self.length)
            at = self._indices(slots, first, count)
            changes |= {"slot": slots, "first": first, "count": count}
            changes |= {name: self.rings[name][at] for name in self._fields}
            self._shipped[slots], self.rings.dirty[slots] = count, False
        return changes

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Apply the changes of a leader. They are marked here too, so that a follower can have followers."""
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
            self.rings[name][self._indices(slots, first, count)] = of_rings[name]
        self.rings["count"][slots] = count
        self._shipped[slots] = np.minimum(self._shipped[slots], first)
        self.rings.dirty[slots] = True

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        return super().nbytes + self._shipped.nbytes

    @property
    def _fields(self) -> list[str]:
        """Names of the stored fields of an interaction."""
        return [name for name in self.rings if name != "count"]

    def _indices(self, slots: Ids, first: Ids, count: Ids) -> tuple[Ids, Ids]:
        """Ring and index in the ring of each ring's interactions from number `first` up to `count`."""
        sizes = count - first
        number = np.arange(sizes.sum()) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
        return np.repeat(slots, sizes), number % self.length

    def _check_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless the changes fit rings of this capacity and length."""
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


def add_earlier_rows(
    user: Ids,
    item: Ids,
    timestamp: Times,
    kind: Kinds,
    positive: Bools,
    recent: tuple[Ids, Times, Kinds],
) -> None:
    """Put the positive rows of a micro-batch into the histories of later rows of the same user.

    Without this, what a user did a moment ago is unknown to the rows that are learned together with it.

    Parameters
    ----------
    user, item, timestamp, kind, positive : (N,)
        Rows that are going to be added, in this order.
    recent : (item (N, L), timestamp (N, L), kind (N, L))
        What `History.recent` returns for `user`. Changed in place.
    """
    _add_earlier_rows(user, item, timestamp, kind, positive, *recent)


# Compiled part. Types: items int64, times float64, kinds int32 and positives bool, each (capacity, L); counts int64 (capacity,)
# of interactions ever added. The next interaction is written to index count % L.


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
        if fresh[row]:  # in row order, so that the next user does not inherit from one evicted in the same batch
            items[slot] = 0
            times[slot] = 0.0
            kinds[slot] = 0
            positives[slot] = False
            counts[slot] = 0
            shipped[slot] = 0
            dirty[slot] = True
        if item[row] == 0:
            continue
        at = counts[slot] % items.shape[1]
        items[slot, at] = item[row]
        times[slot, at] = timestamp[row]
        kinds[slot, at] = kind[row]
        positives[slot, at] = positive[row]
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
        found, at = 0, counts[slot] % length
        for _ in range(min(counts[slot], length)):
            if found == item.shape[1]:
                break
            at = (at if at > 0 else length) - 1
            if positives[slot, at]:
                item[row, found] = items[slot, at]
                timestamp[row, found] = times[slot, at]
                kind[row, found] = kinds[slot, at]
                found += 1


@njit(cache=True, nogil=True)
def _add_earlier_rows(
    user: Ids,
    item: Ids,
    timestamp: Times,
    kind: Kinds,
    positive: Bools,
    items: Ids,
    times: Times,
    kinds: Kinds,
) -> None:
    buckets = 1
    while buckets < 2 * user.size:
        buckets *= 2
    latest = np.full(buckets, -1, np.int64)  # latest row of each user, by open addressing; user ids are hashes
    for row in range(user.size):
        if user[row] == 0:
            continue
        at = user[row] & (buckets - 1)
        while latest[at] >= 0 and user[latest[at]] != user[row]:
            at = (at + 1) & (buckets - 1)
        before, latest[at] = latest[at], row
        if before < 0:
            continue
        shift = 1 if positive[before] and item[before] != 0 else 0
        for at in range(items.shape[1] - 1, shift - 1, -1):
            items[row, at] = items[before, at - shift]
            times[row, at] = times[before, at - shift]
            kinds[row, at] = kinds[before, at - shift]
        if shift and items.shape[1]:
            items[row, 0], times[row, 0], kinds[row, 0] = item[before], timestamp[before], kind[before]


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
            ring = np.sort(items[slot, :size])  # a ring that is not full begins at index 0
            for at in range(size):
                if at == 0 or ring[at] != ring[at - 1]:
                    found[end] = ring[at]
                    end += 1
        start[row + 1] = end
    return found[:end], start
