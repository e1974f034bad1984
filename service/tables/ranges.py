"""The table ``[tune]`` of a config file: which keys are tuned, and over what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

__all__ = ["Range", "Ranges", "joined", "parts"]


def _number(value: object) -> object:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError("give a number")
    return value


# Not a union of types, which would turn integers into floats, or be named in errors.
_Number = Annotated[Any, BeforeValidator(_number)]


class Range(BaseModel):
    """What is tried for one key, or for one section.

    Attributes
    ----------
    low, high : int or float or None
        A range of numbers; both ends belong to it.
    log : bool
        Whether ratios count, not differences: as much is tried between 0.1 and 1 as between 1 and 10.
    step : int or float or None
        Distance of the numbers that are tried; not with `log`.
    times : bool
        Whether the range is of a factor, by which the value of the config is multiplied; of a list, each of its numbers.
    choices : list or None
        Values to choose among. For ``ranker`` and ``policy``: names of sections.
    switch : bool
        Whether the section is tried with and without.
    when : mapping of str to value or list of values
        Other tuned keys, and the values at which this one matters; it is tuned only then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    low: _Number = None
    high: _Number = None
    log: bool = False
    step: _Number = None
    times: bool = False
    choices: list[Any] | None = None
    switch: bool = False
    when: dict[str, Any] = {}

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = (self.low is not None or self.high is not None) + (self.choices is not None) + self.switch
        if kinds > 1:
            raise ValueError("give either low and high, or choices, or switch = true")
        if (self.low is None) != (self.high is None):
            raise ValueError("a range needs both low and high")
        if self.low is not None and self.high is not None:
            if not -1e300 < self.low < self.high < 1e300:
                raise ValueError(f"low = {self.low} must be below high = {self.high}")
            if self.log and self.low <= 0:
                raise ValueError(f"log = true needs low above 0, and it is {self.low}; raise it, or leave log out")
            if self.step is not None and (self.log or not 0 < self.step <= self.high - self.low):
                raise ValueError(
                    f"step = {self.step} must be above 0 and at most high - low, and it does not go with log = true"
                )
        elif self.log or self.times or self.step is not None:
            raise ValueError("log, step and times belong to a range; give low and high")
        if self.choices is not None and len(self.choices) < 2:
            raise ValueError("choices needs two values or more")
        return self


def parts(path: str) -> list[str]:
    """Split a dotted path as TOML does: a part in quotes may have dots.

    >>> parts('ranker."my_package.my_ranker".factors')
    ['ranker', 'my_package.my_ranker', 'factors']
    """
    found, quoted = [""], ""
    for character in path:
        if character in ("'", '"') and quoted in ("", character):
            quoted = "" if quoted else character
        elif character == "." and not quoted:
            found.append("")
        else:
            found[-1] += character
    return found


def joined(path: list[str]) -> str:
    """Return the path of these parts, the inverse of `parts`."""
    return ".".join(f'"{part}"' if "." in part else part for part in path)


def _flattened(tables: Any, above: tuple[str, ...] = ()) -> Any:
    """Ranges by path. Without quotes, TOML makes ``ranker.fm.factors = {...}`` a table in tables, which means the same."""
    if not isinstance(tables, Mapping):
        return tables
    found: dict[str, Any] = {}
    for key, value in tables.items():
        path = (*above, *parts(key))
        if isinstance(value, Mapping) and value and all(_is_table(inner) for inner in value.values()) and "when" not in value:
            found |= _flattened(value, path)
        else:
            found[joined(list(path))] = value
    return found


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping | BaseModel)


Ranges = Annotated[dict[str, Range], BeforeValidator(_flattened)]
"""Ranges by path, such as ``ranker.fm.learning_rate``."""
