"""Dynamic sparse learning's rule: which units leave, and which take their places.

A unit is a block of an embedding row or a column of a group of outputs. With units of one weight, one tensor at a time and the
gradient of the last batch as evidence, this is the rule of the paper's public code, except that no unit is ever lost.

References
----------
S. Wang et al., "Dynamic Sparse Learning: A Novel Paradigm for Efficient Recommendation", WSDM 2024.
U. Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020: the schedule of the ratio.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memory.arrays import Bools, Ids
from memory.jit import njit

__all__ = ["Exchange", "prune_and_grow", "strongest", "update_ratio"]

Numbers = npt.NDArray[np.floating[Any]]


class Exchange(NamedTuple):
    """Result of `prune_and_grow`."""

    pruned: Ids
    """Which of the active units become inactive: indices, weakest first."""
    grown: Ids
    """Which of the inactive units become active: indices, strongest evidence first."""


def update_ratio(step: int, first: float, floor: float, period: int) -> float:
    """Share of the active units that an event exchanges: a cosine from `first` to `floor` in `period` steps, then `floor`.

    A stream does not end, so the ratio neither reaches zero nor rises again.

    Examples
    --------
    >>> [round(update_ratio(step, 0.5, 0.1, 100), 3) for step in (0, 50, 100, 200)]
    [0.5, 0.3, 0.1, 0.1]
    """
    return floor + (first - floor) * (1.0 + math.cos(math.pi * min(step, period) / period)) / 2.0


def prune_and_grow(
    active: Ids,
    magnitude: Numbers,
    prunable: Bools,
    regret: Numbers,
    inactive: Ids,
    evidence: Numbers,
    ratio: float,
    room: int = 0,
) -> Exchange:
    """Exchange the weakest active units for the inactive ones with the strongest evidence.

    The number of active units stays the same, plus `room` if enough units have evidence. If too few have, pruned units return,
    strongest first.

    Parameters
    ----------
    active, inactive : (n,), (m,) int64
        Units by number. Of equal units, the one with the lower number is pruned first, and grown first.
    magnitude : (n,) float
        Magnitude of each active unit.
    prunable : (n,) bool
        Active units that may leave.
    regret : (n,) float
        Evidence for each active unit. If it is pruned, it competes with the inactive ones, and keeps its value if it wins.
    evidence : (m,) float
        Evidence for each inactive unit. A unit without evidence (0) is not grown.
    ratio : float
        Share of the active units to prune, rounded up to a whole number of units.
    room : int
        Units that may be added, or, if negative, units to remove.

    Returns
    -------
    Exchange
    """
    wanted = max(math.ceil(ratio * active.size), -room)
    candidates = np.flatnonzero(prunable)
    pruned = candidates[np.lexsort((active[candidates], magnitude[candidates]))][:wanted]
    places = max(pruned.size + room, 0)
    again, found = np.flatnonzero(regret[pruned] > 0), np.flatnonzero(evidence > 0)
    strength = np.concatenate([regret[pruned[again]], evidence[found]])
    unit = np.concatenate([active[pruned[again]], inactive[found]])
    winners = np.lexsort((unit, -strength))[:places]
    leaves = np.ones(pruned.size, np.bool_)
    leaves[again[winners[winners < again.size]]] = False
    missing = min(pruned.size, places) - winners.size
    if missing > 0:
        leaves[np.flatnonzero(leaves)[-missing:]] = False
    return Exchange(pruned[leaves], found[winners[winners >= again.size] - again.size])


@njit(cache=True, nogil=True)
def strongest(row: Ids, magnitude: Numbers, count: int) -> Bools:
    """Mark the `count` units of the largest magnitude in each row. Of equal units, the last ones.

    Parameters
    ----------
    row : (n,) int64
        Row of each unit. The units of a row follow each other.
    magnitude : (n,) float

    Returns
    -------
    (n,) bool
    """
    marked = np.zeros(row.size, np.bool_)
    start = 0
    while start < row.size:
        end = start + 1
        while end < row.size and row[end] == row[start]:
            end += 1
        for _ in range(min(count, end - start)):
            best = -1
            for n in range(start, end):
                if not marked[n] and (best < 0 or magnitude[n] >= magnitude[best]):
                    best = n
            marked[best] = True
        start = end
    return marked
