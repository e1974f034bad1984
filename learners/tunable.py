"""What a learner declares about its keywords: which are worth tuning, and on what scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CROSSES", "Options", "Scale", "Tunable", "tunable"]


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of a keyword that is worth searching.

    Attributes
    ----------
    low, high : int or float
        Both ends belong to the range. They are integers if the keyword is one.
    log : bool
        Whether ratios count, not differences: as much is tried between 0.1 and 1 as between 1 and 10.
    times : bool
        Whether the range is of a factor, by which the value of the config is multiplied; of a list, each of its numbers.
    """

    low: float
    high: float
    log: bool = False
    times: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """Values of a keyword that are worth trying.

    Attributes
    ----------
    values : tuple of str, int, float, bool or tuple of str
    """

    values: tuple[str | int | float | bool | tuple[str, ...], ...]


CROSSES = Options(((), ("user * item",)))
"""Without and with crosses of the two sides, for a ranker's keyword `crosses`; see `learners.schema.Schema.pairs`."""


Tunable = Mapping[str, Scale | Options]
"""Ranges by keyword: a learner's or policy's class declares them in its attribute ``tunable``."""


def tunable(cls: type) -> Tunable:
    """Return what a class declares to be worth tuning; empty if it declares nothing."""
    declared: Tunable = getattr(cls, "tunable", {})
    return declared
