"""An opaque Python object as state: the one place that pickles, and that refuses to unpickle what anyone could have written."""

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
from memory.stateful import Copying, State, Stateful

__all__ = ["PickledObject", "UntrustedPickle", "trusting"]

_trusting: ContextVar[bool] = ContextVar("trusting", default=False)


class UntrustedPickle(RuntimeError):
    """A pickle was to be loaded outside `trusting`; loading one runs whatever code its writer put in."""


@contextmanager
def trusting() -> Iterator[None]:
    """Allow `PickledObject` to unpickle within this block, for state whose writer is known to be oneself."""
    token = _trusting.set(True)
    try:
        yield
    finally:
        _trusting.reset(token)


class PickledObject(Stateful):
    """An object that only knows how to be pickled, such as a river model.

    Its size is its own affair: `nbytes` is that of the newest pickle, and nothing here bounds it. Equal objects give equal
    bytes, except that a set of strings is written in an order that differs between processes unless PYTHONHASHSEED is fixed.

    Parameters
    ----------
    value : object
        Anything that can be pickled; may be changed from outside at any time.

    Attributes
    ----------
    value : object
        The object; another one after each load.

    Raises
    ------
    ValueError
        When `value` cannot be pickled.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._taken: bytes | None = None
        self._size = len(self._pickled())

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def copying(self) -> Copying:
        """Copy ``pickle`` (n,) uint8, in one step: half an object cannot be pickled."""
        yield
        return {"pickle": np.frombuffer(self._pickled(), np.uint8).copy()}

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless `state` is a pickle of the same class, UntrustedPickle outside `trusting`."""
        self._unpickled(state)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace `value` by the unpickled object.

        Raises
        ------
        UntrustedPickle
            Outside `trusting`.
        ValueError
            When it does not unpickle, or to another class than that of `value`. Nothing has changed then.
        """
        self.value = self._unpickled(state)
        self._taken = state["pickle"].tobytes()
        self._size = len(self._taken)

    def take_changes(self) -> State:
        """Return the whole state, if it differs from the one taken or loaded last."""
        pickled = self._pickled()
        if pickled == self._taken:
            return {}
        self._taken = pickled
        return {"pickle": np.frombuffer(pickled, np.uint8).copy()}

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace `value`; raises like `load_state_dict`."""
        if changes:
            self.value = self._unpickled(changes)
            self._size = changes["pickle"].size

    @property
    def nbytes(self) -> int:
        """Bytes of the newest pickle: what the object holds, near enough."""
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
                "pickle: refused, for unpickling runs code of its writer; load it from a folder that belongs to this user (or "
                "root) and that group and others cannot write to (chmod go-w FOLDER)"
            )
        try:
            value = _Unpickler(io.BytesIO(state["pickle"].tobytes())).load()
        except Exception as error:  # a pickle may fail in any way its classes like
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
    """Pickles by value: equal strings are written as one.

    Plain pickle writes a reference for a string that is the same object as one before, and a copy for one that is only
    equal. Which of the two holds differs between a process that ran on and one that was restored, and so would the bytes.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self._strings: dict[str, str] = {}

    def persistent_id(self, value: Any) -> str | None:
        return self._strings.setdefault(value, value) if type(value) is str else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, key: str) -> str:
        return key
