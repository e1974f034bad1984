"""Catalogue of items: name, attributes, encoded features, and whether the item may be shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Bools, Floats, Ids, check_fit
from memory.keyed.keyed_store import KeyedStore
from memory.moments import Moments
from memory.stateful import State, StateCopy, Stateful

__all__ = ["Catalog"]

ENTRY_BYTES = 512
"""Assumed size of the name and attributes of one item, for the memory estimate."""

BLANK = ("", b"{}")

ENTRIES_PER_STEP = 2_000
"""Entries encoded as JSON in one step of a copy."""

PARTS_PER_STEP = 32
"""Encoded parts that are joined in one step of a copy: megabytes, where attributes are long."""


class Catalog(KeyedStore):
    """Items by hashed id, with LRU eviction.

    Parameters
    ----------
    capacity : int
        Maximum number of items, including deleted ones.
    columns : int
        Number of feature columns.
    numbers : sequence of int
        Columns that are standardized by the values of all items so far.
    text_bytes : int
        Most bytes of all names and attributes. Beyond it, least recently touched items are evicted, a sixteenth at a time.
    """

    state_version = 2

    def __init__(self, capacity: int, columns: int, numbers: Sequence[int] = (), text_bytes: int = 256 << 20) -> None:
        if columns < 0:
            raise ValueError(f"columns: {columns}; give 0 or more")
        super().__init__(capacity)
        self.rows = Arrays(
            features=np.zeros((capacity, columns), np.int64),
            values=np.zeros((capacity, columns), np.float32),
            dead=np.zeros(capacity, np.bool_),
            listed=np.zeros(capacity, np.bool_),
        )
        self.texts = _Texts(capacity)
        self._text_bytes, self._evicted = text_bytes, 0
        self.moments = Moments(numbers)

    def put(self, key: int, name: str, attributes: Mapping[str, Any], features: Ids, values: Floats) -> None:
        """Add or replace an item. A deleted item becomes alive again.

        Parameters
        ----------
        key : int
            Hashed id.
        name : str
            The original id.
        attributes : mapping
            JSON values.
        features : (columns,) int64
            Hashed feature keys. The caller derives them from the attributes.
        values : (columns,) float32
            Their values. Numbers are not standardized.

        Raises
        ------
        ValueError
            If the key is 0, the attributes are not JSON, or the features have another shape. Nothing is changed.
        """
        columns = self.rows["features"].shape[1]
        if features.shape != (columns,) or values.shape != (columns,):
            raise ValueError(f"features, values: shapes {features.shape}, {values.shape}; give ({columns},) of each")
        try:
            document = msgspec.json.encode(attributes, order="deterministic")
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"attributes: {error}; give values that JSON can hold") from error
        slot = self._touch(key)
        self._write(slot, name, document, features, values)
        self.rows["listed"][slot] = True
        self.moments.add(features[None], values[None])
        self._make_room()

    @property
    def evictions(self) -> int:
        """Items evicted since construction. It is not part of the state."""
        return super().evictions + self._evicted

    def ensure(self, keys: Ids, names: Sequence[str] | npt.NDArray[np.object_]) -> None:
        """Add unknown `keys` (N,) as alive items without attributes. Known ones count as touched."""
        slots, fresh = self.index.insert(keys)
        if fresh.any():
            for row in np.flatnonzero(fresh).tolist():
                self._write(int(slots[row]), names[row], BLANK[1], 0, 0)
                self.rows["listed"][slots[row]] = False
            self._make_room()

    def delete(self, key: int) -> bool:
        """Replace an item by a tombstone, so that a late interaction does not bring it back. Return False if it was not alive.

        Like any item, the tombstone is evicted when it is the least recently touched of a full catalogue.
        """
        slot = self._slot(key)
        if slot < 0 or self.rows["dead"][slot]:
            return False
        self._write(self._touch(key), self.texts.entry(slot)[0], BLANK[1], 0, 0, dead=True)
        return True

    def forget(self, key: int) -> bool:
        """Remove the item and its tombstone. Return False if it was unknown."""
        slot = int(self.index.delete(np.array([key]))[0])
        if slot >= 0:
            self._write(slot, *BLANK, 0, 0)
            self.rows["listed"][slot] = False
        return slot >= 0

    def find(self, keys: Ids) -> Ids:
        """Slots of `keys` (N,) in `encoded`, as (N,) int64, -1 if unknown. It does not touch the keys."""
        return self.index.find(keys)

    def alive(self, keys: Ids) -> Bools:
        """Whether `keys` (N,) may be shown, (N,) bool. Unknown items may, deleted ones may not."""
        slots = self.index.find(keys)
        return (slots < 0) | ~self.rows["dead"][slots]  # type: ignore[no-any-return]

    def known(self, keys: Ids) -> Bools:
        """Whether `keys` (N,) are in the catalogue and may be shown, (N,) bool."""
        slots = self.index.find(keys)
        return (slots >= 0) & ~self.rows["dead"][slots]  # type: ignore[no-any-return]

    def listed(self, keys: Ids) -> Bools:
        """Whether `keys` (N,) were `put` and may be shown, (N,) bool. Those that only `ensure` added are not listed."""
        slots = self.index.find(keys)
        return (slots >= 0) & self.rows["listed"][slots] & ~self.rows["dead"][slots]  # type: ignore[no-any-return]

    @property
    def lists(self) -> bool:
        """Whether any item in it was `put`, even if it is deleted now."""
        return bool(self.rows["listed"].any())

    def names(self, keys: Ids) -> list[str | None]:
        """Original ids of `keys` (N,), as `name` returns them."""
        return [None if slot < 0 else self.texts.entry(slot)[0] for slot in self.index.find(keys).tolist()]

    def name(self, key: int) -> str | None:
        """Original id of an item, even if it is deleted. None if it is unknown."""
        slot = self._slot(key)
        return None if slot < 0 else self.texts.entry(slot)[0]

    def get(self, key: int) -> dict[str, Any] | None:
        """Copy of an item's attributes. None if it is unknown or deleted."""
        slot = self._slot(key)
        if slot < 0 or self.rows["dead"][slot]:
            return None
        return msgspec.json.decode(self.texts.entry(slot)[1], type=dict[str, Any])

    def items(self) -> Ids:
        """Hashed ids of all alive items, from the least recently touched to the newest, (n,) int64."""
        slots = self.index.slots()
        keys: Ids = self.index.keys[slots[~self.rows["dead"][slots]]]
        return keys

    def newest(self, count: int, *, listed: bool = False) -> Ids:
        """Hashed ids of up to `count` most recently touched alive items, newest first. `listed`: only of those `put`."""
        return self.index.newest(count, self.rows["dead"], self.rows["listed"] if listed else None)

    @property
    def encoded(self) -> tuple[Ids, Floats]:
        """Feature keys (capacity, columns) int64 and values (capacity, columns) float32 by slot. Live and read-only.

        Numbers are not standardized; see `encoded_at`.
        """
        return self.rows["features"], self.rows["values"]

    def encoded_at(self, slots: Ids) -> tuple[Ids, Floats]:
        """Feature keys (n, columns) and values (n, columns) with standardized numbers. Zeros for slot -1."""
        keys, values = self.rows["features"][slots], self.rows["values"][slots]
        keys[slots < 0], values[slots < 0] = 0, 0.0
        self.moments.standardize(keys, values)
        return keys, values

    def _slot(self, key: int) -> int:
        return int(self.index.find(np.array([key]))[0])

    def _touch(self, key: int) -> int:
        if key == 0:
            raise ValueError("key: 0 means no item; hash the id")
        return int(self.index.insert(np.array([key]))[0][0])

    def _make_room(self) -> None:
        """Evict the least recently touched items, but not the newest one, while there are too many bytes of texts."""
        if self.texts.used <= self._text_bytes:
            return
        left = self._text_bytes - self._text_bytes // 16
        for slot in self.index.slots()[:-1].tolist():
            if self.texts.used <= left:
                return
            self.index.delete(self.index.keys[slot : slot + 1].copy())
            self._write(slot, *BLANK, 0, 0)
            self._evicted += 1

    def _write(
        self, slot: int, name: str, document: bytes, features: Ids | int, values: Floats | int, dead: bool = False
    ) -> None:
        self.rows["features"][slot] = features
        self.rows["values"][slot] = values
        self.rows["dead"][slot] = dead
        self.rows.dirty[slot] = True
        self.texts.set(slot, name, document)


class _Texts(Stateful):
    """A name and a JSON document per slot. It is saved as a JSON list of [slot, name, document] for the used slots."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[int, tuple[str, bytes]] = {}  # without blank slots
        self._used = 0
        self._dirty: set[int] = set()

    def entry(self, slot: int) -> tuple[str, bytes]:
        return self._entries.get(slot, BLANK)

    def set(self, slot: int, name: str, document: bytes) -> None:
        before = self._entries.pop(slot, None)
        if before is not None:
            self._used -= _size(*before)
        if (name, document) != BLANK:
            self._entries[slot] = name, document
            self._used += _size(name, document)
        self._dirty.add(slot)

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        yield prefix.rstrip("."), self

    def copy_in_steps(self) -> StateCopy:
        parts: list[bytes] = []
        for start in range(0, self._capacity, ENTRIES_PER_STEP):
            slots = [slot for slot in range(start, min(start + ENTRIES_PER_STEP, self._capacity)) if slot in self._entries]
            if slots:
                parts += b"," if parts else b"[", self._pack(slots)[1:-1]
            yield
        document = np.empty(sum(map(len, parts)) + 1 if parts else 2, np.uint8)
        document[:1], document[-1:] = ord("["), ord("]")
        end = 0
        for n, part in enumerate(parts):
            document[end : end + len(part)] = np.frombuffer(part, np.uint8)
            end += len(part)
            if n % PARTS_PER_STEP == 0:
                yield
        return {"json": document}

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self._unpack(state)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        # All at once: set by set, a million of them would take seconds.
        self._entries = {slot: (name, bytes(document)) for slot, name, document in self._unpack(state)}
        self._used = sum(_size(name, document) for name, document in self._entries.values())
        self._dirty.clear()

    def take_changes(self) -> State:
        slots = sorted(self._dirty)
        self._dirty.clear()
        return {"json": np.frombuffer(self._pack(slots), np.uint8).copy()} if slots else {}

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        if changes:
            self._write(self._unpack(changes))

    @property
    def used(self) -> int:
        """Bytes of all names and documents."""
        return self._used

    @property
    def nbytes(self) -> int:
        return max(ENTRY_BYTES * self._capacity, self._used)

    def _pack(self, slots: list[int]) -> bytes:
        entries = [(slot, name, msgspec.Raw(document)) for slot in slots for name, document in [self.entry(slot)]]
        return msgspec.json.encode(entries)

    def _unpack(self, state: Mapping[str, npt.NDArray[np.generic]]) -> list[tuple[int, str, msgspec.Raw]]:
        check_fit("Catalog", state, {"json": np.empty(0, np.uint8)}, rows=state["json"].size if "json" in state else 0)
        try:
            entries = msgspec.json.decode(state["json"].tobytes(), type=list[tuple[int, str, msgspec.Raw]])
        except msgspec.DecodeError as error:
            raise ValueError(f"json: {error}; the state is damaged, use the checkpoint before it") from error
        if any(not 0 <= slot < self._capacity for slot, _, _ in entries):
            raise ValueError(f"json: slots beyond {self._capacity}; it was written under another configuration")
        return entries

    def _write(self, entries: list[tuple[int, str, msgspec.Raw]]) -> None:
        for slot, name, document in entries:
            self.set(slot, name, bytes(document))


def _size(name: str, document: bytes) -> int:
    characters = len(name) if name.isascii() else 4 * len(name)
    return characters + len(document) + 240  # Python's overhead: a tuple, a string, a bytes object, an entry of the dictionary
