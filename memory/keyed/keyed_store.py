"""Base class of tables, histories and catalogues: an index, and arrays with one row per slot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, check_fit
from memory.keyed.key_index import KeyIndex
from memory.stateful import State, StateCopy, Stateful, copied

__all__ = ["KeyedStore"]


class KeyedStore(Stateful):
    """A `KeyIndex` called ``index``, and `Arrays`. Only the rows of used slots are saved; the others hold their fill value.

    Parameters
    ----------
    capacity : int
        Number of slots.
    fill : mapping of str to number
        Fill value of free slots, by array name. The default is 0.
    """

    def __init__(self, capacity: int, fill: Mapping[str, float] | None = None) -> None:
        self.index = KeyIndex(capacity)
        self._fill_values = dict(fill or {})

    def __len__(self) -> int:
        return len(self.index)

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return self.index.capacity

    @property
    def evictions(self) -> int:
        """Entries evicted since construction. It is not part of the state."""
        return self.index.evictions

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def copy_in_steps(self) -> StateCopy:
        """Copy the index, and the rows of used slots in ascending order."""
        used = np.flatnonzero(self.index.keys)
        state: State = {}
        for name, child in self.children():
            if isinstance(child, Arrays):
                for key in child:
                    state[f"{name}.{key}"] = yield from copied(child[key], used)
            else:
                part = yield from child.copy_in_steps()
                state |= {f"{name}.{key}": array for key, array in part.items()}
        return state

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless names, shapes and types match this store."""
        parts = self._parts(state)
        self.index.check_state_dict(parts["index"])
        used = int(np.count_nonzero(parts["index"]["keys"]))
        for name, child in self.children():
            if isinstance(child, Arrays):
                check_fit(type(self).__name__, parts[name], {key: child[key] for key in child}, rows=used)
            elif child is not self.index:
                child.check_state_dict(parts[name])

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Copy `state` into this store. Later changes are relative to it, so a follower must load the same state."""
        self.check_state_dict(state)
        parts = self._parts(state)
        used = np.flatnonzero(parts["index"]["keys"])
        for name, child in self.children():
            if isinstance(child, Arrays):
                for key in child:
                    child[key][...] = self._fill_values.get(key, 0)
                    child[key][used] = parts[name][key]
                child.dirty[:] = False
            else:
                child.load_state_dict(parts[name])

    def _parts(self, state: Mapping[str, npt.NDArray[Any]]) -> dict[str, State]:
        parts: dict[str, State] = {name: {} for name, _ in self.children()}
        for name, array in state.items():
            head, _, rest = name.partition(".")
            parts.setdefault(head, {})[rest] = array
        if parts.keys() != {name for name, _ in self.children()} or "keys" not in parts["index"]:
            kept = sorted(name for name, _ in self.children())
            problem = f"state has {sorted(state)} where {type(self).__name__} keeps {kept}"
            raise ValueError(f"{problem}: it was written under another configuration")
        return parts
