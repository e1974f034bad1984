"""State that can be saved, restored and shipped."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = ["Copying", "State", "Stateful", "copied", "digest", "finished", "shared", "versions"]

State = dict[str, npt.NDArray[np.generic]]
"""Flat mapping of dotted names to arrays."""

_Result = TypeVar("_Result")

Copying = Generator[None, None, State]
"""A copy of a state while it is being taken: each step costs a few milliseconds at most, the last one returns the copy."""

PIECE = 4 << 20
"""Bytes copied in a step: one to three milliseconds, where the memory for them is fetched first."""


class Stateful:
    """Base of everything that has state: walks its own attributes, so that a composite writes no saving code.

    An attribute takes part when it is itself a `Stateful`; every other attribute is configuration or scratch. Leaves (the
    stores of this package) override `copying`, the other methods that deal with the state, and `stores`.
    """

    state_version: ClassVar[int | str] = 1
    """What saved state has to have in common with the class that loads it. Raise it whenever the names, shapes or meaning of
    what is kept change, or when the same events lead to other values: old states are then left alone instead of misread. Where
    another library keeps the state, name that library's version too."""

    private: ClassVar[frozenset[str]] = frozenset()
    """Attributes that only learning reads, such as the sums of an optimizer. Their state is saved, and never shipped: a
    follower has it as of the checkpoint that it loaded last."""

    def children(self) -> Iterator[tuple[str, Stateful]]:
        """Attributes that hold state, by name, in order of assignment."""
        for name, value in vars(self).items():
            if isinstance(value, Stateful):
                yield name, value

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Leaves of this state with their dotted names."""
        for name, child in self.children():
            yield from child.stores(f"{prefix}{name}.")

    def state_dict(self) -> State:
        """Copy of the whole state. The same state gives the same bytes, however it came about."""
        return finished(self.copying())

    def copying(self) -> Copying:
        """Take the copy that `state_dict` returns in short steps. Nobody may change the state from the first to the last."""
        parts: dict[str, State] = {}
        for name, child in self.children():
            parts[name] = yield from child.copying()
        return _prefixed(parts)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace the whole state by a copy of `state`.

        Raises
        ------
        ValueError
            When names, shapes or types do not fit: the state was written under another configuration. Nothing has changed then.
        """
        self.check_state_dict(state)
        parts = _split(state)
        for name, child in self.children():
            child.load_state_dict(parts.get(name, {}))

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise what `load_state_dict` would raise, and change nothing."""
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
        """Whatever changed since the last call and is not private, enough for a twin to answer alike after `apply_changes`."""
        return _prefixed({name: child.take_changes() for name, child in self.children() if name not in self.private})

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Follow the changes that another copy of this state has taken."""
        parts = _split(changes)
        for name, child in self.children():
            if name in parts:
                child.apply_changes(parts[name])

    def is_private(self, name: str) -> bool:
        """Whether the array of this name in the state is private: `take_changes` leaves it out."""
        head, _, rest = name.partition(".")
        return head in self.private or any(head == own and child.is_private(rest) for own, child in self.children())

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; fixed by the capacities, not by what has been stored."""
        return sum(child.nbytes for _, child in self.children())


def finished(steps: Generator[None, None, _Result]) -> _Result:
    """Take all steps of a generator at once; what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result


def copied(
    array: npt.NDArray[Any], rows: npt.NDArray[np.integer[Any]] | None = None
) -> Generator[None, None, npt.NDArray[Any]]:
    """Copy an array, or these rows of it, in short steps."""
    size = len(array) if rows is None else rows.size
    copy = np.empty((size, *array.shape[1:]), array.dtype)
    step = max(PIECE // max(copy[:1].nbytes, 1), 1)
    for start in range(0, size, step):
        part = slice(start, start + step)
        copy[part] = array[part if rows is None else rows[part]]
        yield
    return copy


def digest(state: Mapping[str, npt.NDArray[np.generic]]) -> str:
    """Fingerprint of a state: names, types, shapes and bytes (xxh3, 128 bits, hexadecimal)."""
    hasher = xxhash.xxh3_128()
    for name in sorted(state):
        array = state[name]
        hasher.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        hasher.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.size else b"")
    return str(hasher.hexdigest())


def shared(owner: Stateful, state: Mapping[str, npt.NDArray[np.generic]]) -> State:
    """Keep of a copy of an owner's state what is not private: followers have it too, bit for bit."""
    return {name: array for name, array in state.items() if not owner.is_private(name)}


def versions(state: Stateful, prefix: str = "") -> dict[str, int | str]:
    """`Stateful.state_version` of everything that a composite is made of, by dotted name."""
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
