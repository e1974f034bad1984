"""State that can be saved, restored and shipped."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = ["State", "StateCopy", "Stateful", "copied", "digest", "run_to_end", "versions", "without_private"]

State = dict[str, npt.NDArray[np.generic]]
"""Flat mapping of dotted names to arrays."""

_Result = TypeVar("_Result")

StateCopy = Generator[None, None, State]
"""A state being copied in steps of a few milliseconds at most. The last step returns the copy."""

CHUNK_BYTES = 4 << 20
"""Bytes copied in a step. This takes one to three milliseconds, with the allocation of new memory."""


class Stateful:
    """Base class of everything with state. It walks its own attributes, so a composite needs no code to save itself.

    An attribute belongs to the state if it is a `Stateful`. Every other attribute is configuration or scratch. Leaves (the
    stores of this package) override `copying`, `stores` and the other methods that handle the state.
    """

    state_version: ClassVar[int | str] = 1
    """Version of the saved state. Raise it when names, shapes or the meaning of arrays change, or when the same events lead to
    other values. Old states are then ignored instead of misread. If another library defines the state, include its version."""

    private: ClassVar[frozenset[str]] = frozenset()
    """Attributes that only learning reads, such as the state of an optimizer. It is saved but not shipped: a follower has it as
    of its last loaded checkpoint."""

    def children(self) -> Iterator[tuple[str, Stateful]]:
        """Attributes with state and their names, in order of assignment."""
        for name, value in vars(self).items():
            if isinstance(value, Stateful):
                yield name, value

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Leaves of this state and their dotted names."""
        for name, child in self.children():
            yield from child.stores(f"{prefix}{name}.")

    def state_dict(self) -> State:
        """Copy the whole state. Equal states give equal bytes, whatever their history."""
        return run_to_end(self.copy_in_steps())

    def copy_in_steps(self) -> StateCopy:
        """Copy the state like `state_dict`, in short steps. The state must not change until the last step."""
        parts: dict[str, State] = {}
        for name, child in self.children():
            parts[name] = yield from child.copy_in_steps()
        return _prefixed(parts)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace the whole state by a copy of `state`.

        Raises
        ------
        ValueError
            If names, shapes or types do not fit, because the state was written under another configuration. Nothing is changed.
        """
        self.check_state_dict(state)
        parts = _split(state)
        for name, child in self.children():
            child.load_state_dict(parts.get(name, {}))

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise the error that `load_state_dict` would raise, without changing anything."""
        parts = _split(state)
        children = dict(self.children())
        expected = {name for name, child in children.items() if next(child.stores(), None)}
        if parts.keys() != expected:
            raise ValueError(
                f"state has {sorted(parts)} where {type(self).__name__} keeps {sorted(expected)}: "
                "it was written under another configuration"
            )
        for name in expected:
            children[name].check_state_dict(parts[name])

    def take_changes(self) -> State:
        """Return what changed since the last call, without private state. A copy that applies it gives the same answers."""
        return _prefixed({name: child.take_changes() for name, child in self.children() if name not in self.private})

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Apply changes that another copy of this state returned from `take_changes`."""
        parts = _split(changes)
        for name, child in self.children():
            if name in parts:
                child.apply_changes(parts[name])

    def is_private(self, name: str) -> bool:
        """Whether the array of this name is private, that is, `take_changes` leaves it out."""
        head, _, rest = name.partition(".")
        return head in self.private or any(head == attribute and child.is_private(rest) for attribute, child in self.children())

    @property
    def nbytes(self) -> int:
        """Memory used, in bytes. It depends on the capacities, not on the content."""
        return sum(child.nbytes for _, child in self.children())


def run_to_end(steps: Generator[None, None, _Result]) -> _Result:
    """Run a generator to its end, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result


def copied(
    array: npt.NDArray[Any], rows: npt.NDArray[np.integer[Any]] | None = None
) -> Generator[None, None, npt.NDArray[Any]]:
    """Copy an array, or some of its rows, in short steps."""
    size = len(array) if rows is None else rows.size
    copy = np.empty((size, *array.shape[1:]), array.dtype)
    step = max(CHUNK_BYTES // max(copy[:1].nbytes, 1), 1)
    for start in range(0, size, step):
        part = slice(start, start + step)
        copy[part] = array[part if rows is None else rows[part]]
        yield
    return copy


def digest(state: Mapping[str, npt.NDArray[np.generic]]) -> str:
    """Hash a state: names, types, shapes and bytes (128-bit xxh3, hexadecimal)."""
    hasher = xxhash.xxh3_128()
    for name in sorted(state):
        array = state[name]
        hasher.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        hasher.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.size else b"")
    return str(hasher.hexdigest())


def without_private(owner: Stateful, state: Mapping[str, npt.NDArray[np.generic]]) -> State:
    """Drop the private arrays of an owner's state. Followers have the rest, bit for bit."""
    return {name: array for name, array in state.items() if not owner.is_private(name)}


def versions(state: Stateful, prefix: str = "") -> dict[str, int | str]:
    """`Stateful.state_version` of all parts of a composite, by dotted name."""
    found: dict[str, int | str] = {}
    for name, child in state.children():
        found[f"{prefix}{name}"] = child.state_version
        found |= versions(child, f"{prefix}{name}.")
    return found


def _prefixed(parts: Mapping[str, State]) -> State:
    return {f"{name}.{key}": array for name, part in parts.items() for key, array in part.items()}


def _split(state: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, State]:
    parts: dict[str, State] = {}
    for name, array in state.items():
        head, _, rest = name.partition(".")
        parts.setdefault(head, {})[rest] = array
    return parts
