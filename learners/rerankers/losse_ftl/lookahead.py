"""What showing each group is worth, several requests ahead, by a search in the world model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learners.rerankers.losse_ftl.models import WorldModel
from learners.rerankers.losse_ftl.states import inputs
from memory.arrays import Floats, Ids

__all__ = ["Search", "look_ahead"]

Values = npt.NDArray[np.float64]


class Search(NamedTuple):
    """Settings of a search: requests ahead, discount of each further one, and paths that are continued from the second on."""

    horizon: int
    discount: float
    beam: int


def look_ahead(
    model: WorldModel, state: Floats, centroids: Values, alive: Ids, bounds: tuple[Floats, Floats], search: Search
) -> tuple[Floats, Floats]:
    """Values of showing each group now and the best groups afterwards: Q_1 to Q_H.

    ``Q_H(s, g) = r + discount * c * max_g' Q_H-1(s', g')`` with the predicted reward r, the probability c that the session goes
    on, and the next state s'. From the third request on, only the best paths, and the best of each first group, are continued.

    Parameters
    ----------
    state : (state_width,) float32
    centroids : (G, d) float64
    alive : (n,) int64
        Groups that have items; the others are not shown later.
    bounds : (low, high), (state_width,) float32 each
        Range of the states seen so far, to which predicted ones are clipped: elsewhere the model knows nothing.

    Returns
    -------
    values : (H, G) float32
    evidence : (G,) float32
        Rows that the model had like the first request; see `WorldModel.evidence`.
    """
    groups, width = len(centroids), state.size
    first = np.arange(groups)
    states = np.broadcast_to(state, (groups, width))
    x = inputs(states, first, centroids)
    evidence = model.evidence(x)
    values = np.empty((search.horizon, groups), np.float32)
    root, path, factor, group = first, np.zeros(groups, np.float32), np.ones(groups, np.float32), first
    for depth in range(search.horizon):
        last = depth + 1 == search.horizon
        if depth:
            # Continue each path with each group.
            each = alive.size
            root, path, factor = np.repeat(root, each), np.repeat(path, each), np.repeat(factor, each)
            states, group = np.repeat(states, each, axis=0), np.tile(alive, len(states))
            x = inputs(states, group, centroids)
        outcome, change = model.predict(x, changes=not last and depth == 0)
        path = path + factor * np.clip(outcome[:, 0], 0.0, 1.0)
        values[depth] = -np.inf
        np.maximum.at(values[depth], root, path)
        if last:
            break
        factor = factor * np.float32(search.discount) * np.clip(outcome[:, 1], 0.0, 1.0)
        if depth:
            kept = _beam(root, path, search.beam, groups)
            root, path, factor, states, group = root[kept], path[kept], factor[kept], states[kept], group[kept]
            _, change = model.predict(x[kept], changes=True)
        assert change is not None, "changes are predicted unless it is the last request"
        states = np.clip(states + change, *bounds)
    return values, evidence


def _beam(root: Ids, path: Floats, beam: int, groups: int) -> Ids:
    """Places of the paths with the highest values, and of the best path of each root, ascending."""
    order = np.argsort(-path, kind="stable")
    _, best = np.unique(root[order], return_index=True)
    return np.union1d(order[:beam], order[best])
