"""Named dense arrays with a common first axis, and a record of the changed rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.stateful import State, StateCopy, Stateful, copied

__all__ = ["Arrays", "Bools", "Floats", "Ids", "check_fit"]

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


Make = Callable[[], Mapping[str, npt.NDArray[Any]]]


class Arrays(Stateful):
    """Named arrays with a common first axis of rows.

    Parameters
    ----------
    private : collection of str
        Arrays that only learning reads, such as the state of an optimizer. They are saved but not shipped.
    **arrays : (rows, ...) arrays
        Initial values, at least one. The store owns them: do not write to them elsewhere afterwards. Only views, read-only
        arrays and arrays that are not C-contiguous are copied.

    Attributes
    ----------
    dirty : (rows,) bool
        Rows that changed since `take_changes`. Whoever writes to an array sets it, or calls `mark`. A change that is not marked
        is not shipped to followers.

    Raises
    ------
    ValueError
        If there are no arrays, if they differ in their number of rows, if a name or type cannot be saved, or if a private name
        is unknown.

    Examples
    --------
    >>> weights = Arrays(weight=np.zeros(4), squares=np.ones(4), private=["squares"])
    >>> weights.mark(np.array([2]))
    >>> sorted(weights.take_changes())
    ['rows', 'weight']
    """

    def __init__(self, *, private: Collection[str] = (), **arrays: npt.NDArray[Any]) -> None:
        if not arrays:
            raise ValueError("arrays: none given; name at least one")
        self._arrays = {name: np.require(array, requirements=["C", "W", "O"]) for name, array in arrays.items()}
        for name, array in self._arrays.items():
            if name == "rows" or "." in name:
                raise ValueError(f'{name}: reserved ("rows" names the changed rows, dots join names of stores); rename it')
            if array.ndim == 0 or array.dtype.hasobject:
                raise ValueError(f"{name}: {array.dtype} of shape {array.shape}; give an array of numbers with a first axis")
        rows = {name: len(array) for name, array in self._arrays.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"arrays: {rows} rows; all of a store's arrays must have the same number")
        if unknown := set(private) - self._arrays.keys():
            raise ValueError(f"private: {sorted(unknown)} where there are {sorted(self._arrays)}; name arrays of this store")
        self._shared = [name for name in self._arrays if name not in private]
        self.dirty: Bools = np.zeros(next(iter(rows.values())), np.bool_)
        self._make: Make | None = None
        self._shipped: Bools = np.zeros(0, np.bool_)

    @classmethod
    def from_factory(cls, make: Make, *, private: Collection[str] = ()) -> Arrays:
        """Create a store that saves only rows which differ from their initial values. `make` can make those again.

        Parameters
        ----------
        make : callable returning a mapping of name to array
            It must return the same values at each call.
        private : collection of str
            See the constructor.
        """
        store = cls(private=private, **make())
        store._make, store._shipped = make, np.zeros(len(store), np.bool_)
        return store

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """The live array. It is the same object for the lifetime of the store."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return self.dirty.size

    def mark(self, rows: npt.NDArray[np.integer[Any]] | None = None) -> None:
        """Mark rows as changed: the given row numbers (repeats allowed), or all."""
        self.dirty[... if rows is None else rows] = True

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def copy_in_steps(self) -> StateCopy:
        """Copy the arrays. For a store from `from_factory`, copy changed rows, and their numbers, ``"rows"`` (n,) int64."""
        rows = None if self._make is None else np.flatnonzero(self._shipped | self.dirty)
        state: State = {} if rows is None else {"rows": rows}
        for name, array in self._arrays.items():
            state[name] = yield from copied(array, rows)
        return state

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless names, shapes and types match this store."""
        if self._make is None:
            check_fit(type(self).__name__, state, self._arrays)
        else:
            self._check_rows(state, self._arrays)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Copy `state` into the arrays. Later changes are relative to it, so a follower must load the same state."""
        self.check_state_dict(state)
        if self._make is None:
            for name, array in self._arrays.items():
                array[...] = state[name]
        else:
            rows = state["rows"].astype(np.int64)
            for name, initial in self._make().items():
                self._arrays[name][...] = initial
                self._arrays[name][rows] = state[name]
            self._shipped[:] = False
            self._shipped[rows] = True
        self.dirty[:] = False

    def take_changes(self) -> State:
        """Return the changed row numbers as ``"rows"`` (n,) int64, and these rows of each array that is not private.

        It is empty if no row changed, or if all arrays are private.
        """
        rows = np.flatnonzero(self.dirty)
        if not rows.size:
            return {}
        self.dirty[rows] = False
        if self._make is not None:
            self._shipped[rows] = True
        return {"rows": rows, **{name: self._arrays[name][rows] for name in self._shared}} if self._shared else {}

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Write the changes of a leader. The rows are marked here too, so that a follower can have followers."""
        if not changes:
            return
        self._check_rows(changes, {name: self._arrays[name] for name in self._shared})
        rows = changes["rows"].astype(np.int64)
        for name in self._shared:
            self._arrays[name][rows] = changes[name]
        self.dirty[rows] = True

    def is_private(self, name: str) -> bool:
        """Whether `take_changes` leaves this array out. If all arrays are private, the row numbers are, too."""
        return name not in self._shared if name in self._arrays else not self._shared

    def _check_rows(self, part: Mapping[str, npt.NDArray[np.generic]], arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless `part` has valid row numbers as ``"rows"``, and values for `arrays` in these rows."""
        rows = part.get("rows")
        if (
            rows is None
            or rows.dtype != np.int64
            or rows.ndim != 1
            or (rows.size and not 0 <= rows.min() <= rows.max() < len(self))
        ):
            raise ValueError(f"rows: not row numbers below {len(self)}; they were written under another configuration")
        values = {name: array for name, array in part.items() if name != "rows"}
        check_fit(type(self).__name__, values, arrays, rows=rows.size)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        return self.dirty.nbytes + self._shipped.nbytes + sum(array.nbytes for array in self._arrays.values())


def check_fit(
    owner: str,
    state: Mapping[str, npt.NDArray[np.generic]],
    like: Mapping[str, npt.NDArray[np.generic]],
    rows: int | None = None,
) -> None:
    """Raise ValueError unless `state` has the names, types and shapes of `like`, with `rows` rows if given."""
    if state.keys() != like.keys():
        raise ValueError(
            f"state has {sorted(state)} where {owner} keeps {sorted(like)}: it was written under another configuration"
        )
    for name, array in like.items():
        shape = array.shape if rows is None else (rows, *array.shape[1:])
        given = state[name]
        if given.shape != shape or given.dtype != array.dtype:
            raise ValueError(
                f"{name}: {given.dtype} of shape {given.shape} where {owner} keeps {array.dtype} of shape {shape}; "
                "it was written under another configuration"
            )
