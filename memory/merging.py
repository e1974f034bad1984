"""Merges copies of a state that have learned from different rows since they were equal.

References
----------
M. Zinkevich, M. Weimer, A. Smola, L. Li, "Parallelized Stochastic Gradient Descent", NIPS 2010: the mean of parameters that
were learned apart.
J. Langford, A. Smola, M. Zinkevich, "Slow Learners are Fast", NIPS 2009: gradients that come a little late do as well, so
changes can be added up if they are exchanged often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Ids
from memory.parameters import Parameters
from memory.stateful import State, Stateful

__all__ = ["Merger", "Rule"]

Rule = Literal["sum", "mean", "max"]
"""How the values of an array are merged: add up the changes of all copies, take the mean change of the copies that changed
the row, or take the largest value."""

_Array = npt.NDArray[Any]


class _Merging(Protocol):
    def begin(self) -> None: ...

    def changes(self) -> State: ...

    def merge(self, changes: Sequence[State]) -> None: ...


class Merger:
    """Merges one copy of a state with others. All copies are equal before `begin` and after `merge`, to the bit.

    It keeps a copy of the state as it was before.

    Parameters
    ----------
    state : Stateful
        Its stores are `Arrays` and `Parameters`. It changes only between `begin` and `changes`, or by `load_state_dict`,
        after which another merger is needed.
    rules : mapping of str to Rule
        By the last part of an array's dotted name; ``""`` for all others.

    Raises
    ------
    ValueError
        For a store that cannot be merged: its rows have other numbers in other copies.

    Examples
    --------
    >>> class Counts(Stateful):
    ...     def __init__(self):
    ...         self.rows = Arrays(count=np.zeros(3))
    >>> one, other = Counts(), Counts()
    >>> mergers = [Merger(copy, {"": "sum"}) for copy in (one, other)]
    >>> for merger in mergers:
    ...     merger.begin()
    >>> one.rows["count"][0] += 2; one.rows.mark(np.array([0]))
    >>> other.rows["count"][:] += 1; other.rows.mark()
    >>> changes = [merger.changes() for merger in mergers]
    >>> for merger in mergers:
    ...     merger.merge(changes)
    >>> one.rows["count"], other.rows["count"]
    (array([3., 1., 1.]), array([3., 1., 1.]))
    """

    def __init__(self, state: Stateful, rules: Mapping[str, Rule]) -> None:
        def rule_of(name: str) -> Rule:
            return rules.get(name.rpartition(".")[2], rules[""])

        self._parts: dict[str, _Merging] = {}
        for name, store in state.stores():
            if isinstance(store, Arrays):
                self._parts[name] = _Rows(store, rule_of)
            elif isinstance(store, Parameters):
                self._parts[name] = _Whole(store, rule_of)
            else:
                raise ValueError(f"{name}: a {type(store).__name__} cannot be merged; let all copies learn the same rows")

    def begin(self) -> None:
        """Note that the copies are equal now."""
        for part in self._parts.values():
            part.begin()

    def changes(self) -> State:
        """Return what this copy has changed since `begin`. Empty if it has not changed anything."""
        return {f"{name}/{key}": array for name, part in self._parts.items() for key, array in part.changes().items()}

    def merge(self, changes: Sequence[State]) -> None:
        """Merge the changes of all copies, this one included, in the order given."""
        for name, part in self._parts.items():
            prefix = f"{name}/"
            part.merge([{k.removeprefix(prefix): v for k, v in one.items() if k.startswith(prefix)} for one in changes])


class _Rows:
    """Merges changed rows."""

    def __init__(self, store: Arrays, rule_of: Callable[[str], Rule]) -> None:
        self._store, self._rule_of = store, rule_of
        self._before = {name: store[name].copy() for name in store}
        self._marked = np.zeros(0, np.bool_)

    def begin(self) -> None:
        self._marked = self._store.dirty.copy()
        self._store.dirty[:] = False

    def changes(self) -> State:
        rows = np.flatnonzero(self._store.dirty)
        self._store.dirty |= self._marked
        if not rows.size:
            return {}
        changes: State = {"rows": rows}
        for name in self._store:
            value = self._store[name][rows]
            changes[name] = value if self._rule_of(name) == "max" else value - self._before[name][rows]
        return changes

    def merge(self, changes: Sequence[State]) -> None:
        given = [one for one in changes if one]
        if not given:
            return
        rows: Ids = np.unique(np.concatenate([one["rows"] for one in given]))
        at = [np.searchsorted(rows, one["rows"]) for one in given]
        count = np.bincount(np.concatenate(at), minlength=rows.size)
        for name in self._store:
            merged = _merged(self._rule_of(name), self._before[name][rows], [one[name] for one in given], at, count)
            self._store[name][rows] = merged
            self._before[name][rows] = merged
        self._store.mark(rows)


class _Whole:
    """Merges whole tensors and the state of their optimizers."""

    def __init__(self, store: Parameters[Any], rule_of: Callable[[str], Rule]) -> None:
        self._store, self._rule_of = store, rule_of
        self._before = store.state_dict()
        if any(name.endswith(".rows") for name in self._before):
            raise ValueError("parameters: tables that are handled by row cannot be merged; let all copies learn the same rows")

    def begin(self) -> None:
        pass

    def changes(self) -> State:
        now = self._store.state_dict()
        if (now["steps"] == self._before["steps"]).all():
            return {}
        return {name: now[name] if self._largest(name) else now[name] - before for name, before in self._before.items()}

    def merge(self, changes: Sequence[State]) -> None:
        given = [one for one in changes if one]
        if not given:
            return
        all_rows, count = [slice(None)] * len(given), np.array(len(given))
        for name, before in self._before.items():
            rule = "max" if self._largest(name) else self._rule_of(name.removesuffix(".value"))
            self._before[name] = _merged(rule, before, [one[name] for one in given], all_rows, count)
        self._store.load_state_dict(self._before)
        for name in self._before:
            if name.endswith(".value"):
                self._store.mark(name.removesuffix(".value"))

    def _largest(self, name: str) -> bool:
        """Whether this is a number of steps."""
        return name == "steps" or name.endswith(".step")


def _merged(rule: Rule, before: _Array, changes: Sequence[_Array], at: Sequence[Any], count: _Array) -> _Array:
    """Merge the values of rows; `at` are the rows that each copy changed, `count` the number of copies that changed a row."""
    if rule == "max":
        merged = before.copy()
        for change, rows in zip(changes, at, strict=True):
            merged[rows] = np.maximum(merged[rows], change)
        return merged
    total = np.zeros_like(before)
    for change, rows in zip(changes, at, strict=True):
        total[rows] += change
    if rule == "mean":
        total = (total / count.reshape(count.shape + (1,) * (total.ndim - count.ndim))).astype(before.dtype)
    merged = before + total
    return merged
