"""An arbitrary Python object as state. Only this module pickles, and it refuses to unpickle untrusted data."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import check_fit
from memory.stateful import State, StateCopy, Stateful

__all__ = ["PickledObject", "UntrustedPickle", "trusting"]

_trusting: ContextVar[bool] = ContextVar("trusting", default=False)


class UntrustedPickle(RuntimeError):
    """Raised for a pickle outside `trusting`: unpickling can run any code that its writer put in."""


@contextmanager
def trusting() -> Iterator[None]:
    """Allow `PickledObject` to unpickle within this block. Use it only for state that this user wrote."""
    token = _trusting.set(True)
    try:
        yield
    finally:
        _trusting.reset(token)


class PickledObject(Stateful):
    """An object that can only be saved by pickling it, such as a river model.

    Its size is not bounded: `nbytes` is the size of the newest pickle. Equal objects give equal bytes, with one exception: the
    order of a set of strings differs between processes unless PYTHONHASHSEED is fixed.

    Parameters
    ----------
    value : object
        Anything that can be pickled. It may be changed from outside at any time.

    Attributes
    ----------
    value : object
        The object. Each load replaces it by a new one.

    Raises
    ------
    ValueError
        If `value` cannot be pickled.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._taken: bytes | None = None
        self._size = len(self._pickled())

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def copy_in_steps(self) -> StateCopy:
        """Copy the pickle (n,) uint8 in a single step, because pickling cannot be split."""
        yield
        return {"pickle": np.frombuffer(self._pickled(), np.uint8).copy()}

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless `state` is a pickle of the same class. Raise UntrustedPickle outside `trusting`."""
        self._unpickled(state)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace `value` by the unpickled object.

        Raises
        ------
        UntrustedPickle
            If called outside `trusting`.
        ValueError
            If it does not unpickle, or if its class is not that of `value`. Nothing is changed.
        """
        self.value = self._unpickled(state)
        self._taken = state["pickle"].tobytes()
        self._size = len(self._taken)

    def take_changes(self) -> State:
        """Return the whole state if it differs from the last one taken or loaded."""
        pickled = self._pickled()
        if pickled == self._taken:
            return {}
        self._taken = pickled
        return {"pickle": np.frombuffer(pickled, np.uint8).copy()}

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace `value`. It raises the same errors as `load_state_dict`."""
        if changes:
            self.value = self._unpickled(changes)
            self._size = changes["pickle"].size

    @property
    def nbytes(self) -> int:
        """Size of the newest pickle in bytes, an estimate of the object's size."""
        return self._size

    def _pickled(self) -> bytes:
        file = io.BytesIO()
        try:
            _Pickler(file).dump(self.value)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(
                f"value: {type(self.value).__name__} cannot be pickled ({error}); keep open files and lambdas out"
            ) from error
        self._size = file.tell()
        return file.getvalue()

    def _unpickled(self, state: Mapping[str, npt.NDArray[np.generic]]) -> Any:
        check_fit(
            "PickledObject", state, {"pickle": np.empty(0, np.uint8)}, rows=state["pickle"].size if "pickle" in state else 0
        )
        if not _trusting.get():
            raise UntrustedPickle(
                "pickle: refused, because unpickling can run code of its writer; load it from a folder that belongs to this "
                "user (or root) and that group and others cannot write to (chmod go-w FOLDER)"
            )
        try:
            value = _Unpickler(io.BytesIO(state["pickle"].tobytes())).load()
        except Exception as error:  # unpickling can raise anything
            raise ValueError(
                f"pickle: does not load here ({type(error).__name__}: {error}); use the versions it was written with"
            ) from error
        if type(value) is not type(self.value):
            raise ValueError(
                f"pickle: holds a {type(value).__name__} where a {type(self.value).__name__} is configured; "
                "it was written under another configuration"
            )
        return value


class _Pickler(pickle.Pickler):
    """Pickles strings by value: equal strings are written once.

    Plain pickle writes a reference for a string that is the same object as an earlier one, and a copy for one that is only
    equal. Which strings are the same object differs between a running process and a restored one, and so would the bytes.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self._strings: dict[str, str] = {}

    def persistent_id(self, value: Any) -> str | None:
        return self._strings.setdefault(value, value) if type(value) is str else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, key: str) -> str:
        return key
