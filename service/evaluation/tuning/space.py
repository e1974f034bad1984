"""The search space: keys of a config, the values that are tried, and the conditions under which they matter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.evaluation.tuning.documents import ROLES
from service.tables.ranges import parts

__all__ = ["Key", "Param", "Params", "Space", "as_text"]

Param = bool | int | float | str
"""A drawn value."""

Params = dict[str, Param]
"""Drawn values by path."""

DIGITS = 4
"""Significant digits of drawn numbers, in the config that is tried and in the one that is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key, or a section, that is tuned.

    Attributes
    ----------
    path : str
        Such as ``ranker.fm.learning_rate``, ``rerankers.reloop2`` or ``ranker``.
    choices : tuple of Param
        What is drawn from; empty for a range of numbers. A list or a table is drawn as its JSON.
    low, high : int or float
        Range of numbers; integers are drawn if both are integers.
    log : bool
    step : int or float or None
    times : bool
        Whether the number is a factor of the value in the base.
    conditions : tuple of (str, tuple)
        Paths of other keys, and the drawn values at which this key matters.
    base : Any
        Value of the base config.
    default : Any
        Value without a config; None if there is none.
    """

    path: str
    choices: tuple[Param, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    times: bool = False
    conditions: tuple[tuple[str, tuple[Param, ...]], ...] = ()
    base: Any = None
    default: Any = None

    @property
    def is_integer(self) -> bool:
        """Whether integers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def as_drawn(self, value: Any) -> Param | None:
        """Return the number or choice that stands for a value of the config; None if the range does not have it."""
        if self.choices:
            chosen = encoded(value)
            return chosen if any(chosen == one and type(chosen) is type(one) for one in self.choices) else None
        drawn = _ratio(value, self.base) if self.times else value
        if isinstance(drawn, bool) or not isinstance(drawn, int | float) or not self.low <= drawn <= self.high:
            return None
        if self.step is not None and abs((drawn - self.low) / self.step - round((drawn - self.low) / self.step)) > 1e-9:
            return None
        return int(drawn) if self.is_integer and float(drawn).is_integer() else None if self.is_integer else float(drawn)

    def as_value(self, drawn: Param) -> Any:
        """Return the config's value for what was drawn."""
        if self.choices:
            return json.loads(drawn[len(_JSON) :]) if isinstance(drawn, str) and drawn.startswith(_JSON) else drawn
        assert not isinstance(drawn, str)
        if self.times:
            return [_rounded(number * drawn) for number in self.base] if isinstance(self.base, list) else self._scaled(drawn)
        return int(drawn) if self.is_integer else min(max(_rounded(float(drawn)), self.low), self.high)

    def _scaled(self, factor: float) -> float:
        return round(self.base * factor) if isinstance(self.base, int) else _rounded(self.base * factor)


class Space:
    """Keys in an order in which each comes after those that it depends on.

    Parameters
    ----------
    keys : sequence of Key

    Raises
    ------
    ValueError
        When keys depend on each other in a circle.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        ordered: dict[str, Key] = {}
        waiting = {key.path: key for key in keys}
        while waiting:
            ready = [key for key in waiting.values() if all(path not in waiting for path, _ in key.conditions)]
            if not ready:
                raise ValueError(f"{', '.join(sorted(waiting))}: each waits for another; remove one `when`")
            for key in ready:
                ordered[key.path] = waiting.pop(key.path)
        self.keys = ordered

    def draw(self, suggest: Callable[[Key], Param]) -> Params:
        """Draw the keys that matter, each after those that it depends on."""
        params: Params = {}
        for key in self.keys.values():
            if _holds(key, params):
                params[key.path] = suggest(key)
        return params

    def values(self, params: Mapping[str, Param]) -> dict[str, Any]:
        """Return the config's values for drawn ones, by path; see `documents.changed`. Sections come before their keys."""
        found = {path: self.keys[path].as_value(drawn) for path, drawn in params.items()}
        return dict(sorted(found.items(), key=lambda item: len(parts(item[0]))))

    def base(self) -> Params:
        """Return what stands for the base config. Keys whose ranges lack its value are left out."""
        return self._standing_for({path: key.base for path, key in self.keys.items()})

    def defaults(self) -> Params:
        """Return what stands for the sections of the base with the default of every key."""
        return self._standing_for(
            {path: key.base if _is_section(key) or key.default is None else key.default for path, key in self.keys.items()}
        )

    def described(self) -> dict[str, Any]:
        """What the study must have in common with an earlier one that it continues."""
        return {
            path: [list(key.choices), key.low, key.high, key.log, key.step, key.times, [list(one) for one in key.conditions]]
            for path, key in self.keys.items()
        }

    def _standing_for(self, values: Mapping[str, Any]) -> Params:
        drawn = {path: self.keys[path].as_drawn(value) for path, value in values.items()}
        actual: dict[str, Any] = {path: values[path] if drawn[path] is None else drawn[path] for path in drawn}
        kept: Params = {}
        for path, key in self.keys.items():
            one = drawn[path]
            if not _holds(key, actual):
                del actual[path]
            elif one is not None:
                kept[path] = one
        return kept


_JSON = "json:"


def encoded(value: Any) -> Param:
    """Return a value that Optuna stores as it is; lists and tables become text."""
    return value if isinstance(value, bool | int | float | str) else _JSON + json.dumps(value)


def as_text(drawn: Any) -> str:
    """Return what was drawn as a reader expects it: a list as in a config, without what marks it for Optuna."""
    if isinstance(drawn, float):
        return f"{drawn:.4g}"
    return str(drawn).lower() if isinstance(drawn, bool) else str(drawn).removeprefix(_JSON)


def _holds(key: Key, params: Mapping[str, Any]) -> bool:
    return all(path in params and params[path] in allowed for path, allowed in key.conditions)


def _is_section(key: Key) -> bool:
    section, *rest = parts(key.path)
    return not rest or (section in ROLES and len(rest) == 1)


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def _ratio(value: Any, base: Any) -> float | None:
    """Factor between two numbers, or between two lists if it is the same for all their numbers."""
    pairs = list(zip(value, base, strict=False)) if isinstance(value, list) else [(value, base)]
    if isinstance(value, list) != isinstance(base, list) or (isinstance(value, list) and len(value) != len(base)):
        return None
    ratios = [one / other for one, other in pairs if other and abs(other) != float("inf")]
    if not ratios or max(ratios) - min(ratios) > 1e-6 * abs(ratios[0]):
        return None
    return 1.0 if ratios[0] == 1 else float(ratios[0])
