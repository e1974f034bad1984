"""An arbitrary Python object as state, such as a model of another library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import check_fit
from memory.object_graph import decoded, encoded
from memory.stateful import State, StateCopy, Stateful

__all__ = ["PythonObject"]


class PythonObject(Stateful):
    """An object that is saved as what it consists of; see `memory.object_graph`. A loaded state runs no code of its writer.

    Its size is not bounded: `nbytes` is the size of the newest encoding. Equal objects give equal bytes, unless they hold sets
    of objects, which have no order.

    Parameters
    ----------
    value : object
        It may be changed from outside at any time.
    packages : sequence of str
        Packages whose classes may occur in it, beside those of Python and numpy that hold data.

    Attributes
    ----------
    value : object
        The object. Each load replaces it by a new one.

    Raises
    ------
    ValueError
        If `value` cannot be saved; the message names what is in the way.
    """

    def __init__(self, value: Any, packages: Sequence[str]) -> None:
        self.value, self._packages = value, tuple(packages)
        self._taken: bytes | None = None
        self._size = len(self._encoded())

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def copy_in_steps(self) -> StateCopy:
        """Copy the encoding (n,) uint8 in a single step: the object may change between two."""
        yield
        return {"object": np.frombuffer(self._encoded(), np.uint8).copy()}

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless `state` is an object of the same class."""
        self._decoded(state)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace `value`.

        Raises
        ------
        ValueError
            If the state cannot be decoded, names a class that is not allowed, or is of another class than `value`. Nothing is
            changed.
        """
        self.value = self._decoded(state)
        self._taken = state["object"].tobytes()
        self._size = len(self._taken)

    def take_changes(self) -> State:
        """Return the whole state if it differs from the last one taken or loaded."""
        taken = self._encoded()
        if taken == self._taken:
            return {}
        self._taken = taken
        return {"object": np.frombuffer(taken, np.uint8).copy()}

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace `value`. It raises the same errors as `load_state_dict`."""
        if changes:
            self.value = self._decoded(changes)
            self._size = changes["object"].size

    @property
    def nbytes(self) -> int:
        """Size of the newest encoding in bytes, an estimate of the object's size."""
        return self._size

    def _encoded(self) -> bytes:
        data = encoded(self.value, self._packages)
        self._size = len(data)
        return data

    def _decoded(self, state: Mapping[str, npt.NDArray[np.generic]]) -> Any:
        rows = state["object"].size if "object" in state else 0
        check_fit("PythonObject", state, {"object": np.empty(0, np.uint8)}, rows=rows)
        try:
            value = decoded(state["object"].tobytes(), self._packages)
        except ValueError as error:
            raise ValueError(f"object: {error}; use the versions it was written with") from error
        if type(value) is not type(self.value):
            raise ValueError(
                f"object: holds a {type(value).__name__} where a {type(self.value).__name__} is configured; "
                "it was written under another configuration"
            )
        return value
