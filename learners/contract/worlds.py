"""Small simulated feedback with a known answer, for tests and checks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from learners.base import Choices
from streams.batch import Batch, Feedback, Floats, Ids, Requests

__all__ = ["Chance", "batch_of", "by_group", "choices_of", "cut", "feedback_of", "numbers_of", "requests_of", "world"]

Chance = Callable[[Ids, Ids], npt.NDArray[np.float64]]
"""Function from user and item numbers to the probability of a positive reward."""

_USER, _ITEM = 1, 2
"""Arguments `kind` of `_ids`."""


def feedback_of(
    *,
    user: npt.ArrayLike,
    item: npt.ArrayLike,
    reward: npt.ArrayLike,
    timestamp: npt.ArrayLike | None = None,
    weight: npt.ArrayLike | None = None,
) -> Feedback:
    """Build feedback with one row per request, which showed this item alone. The feature columns are the user and the item."""
    users, items = np.array(user, np.int64), np.array(item, np.int64)
    n = users.size
    return Feedback(
        user=users,
        timestamp=np.arange(n, dtype=np.float64) if timestamp is None else np.array(timestamp, np.float64),
        history=np.zeros((n, 5), np.int64),
        context=np.zeros((n, 0), np.int64),
        context_values=np.zeros((n, 0), np.float32),
        item=items,
        request=np.arange(n),
        position=np.zeros(n, np.int64),
        features=np.stack((users * 3 + 1, items * 3 + 2), axis=1),
        values=np.ones((n, 2), np.float32),
        reward=np.array(reward, np.float32),
        propensity=np.full(n, np.nan, np.float32),
        weight=np.ones(n, np.float32) if weight is None else np.array(weight, np.float32),
        kind=np.ones(n, np.int32),
        outcome_time=np.arange(n, dtype=np.float64) if timestamp is None else np.array(timestamp, np.float64),
        correction=np.zeros(n, np.bool_),
    )


def requests_of(user: npt.ArrayLike, now: float = 0.0) -> Requests:
    """Build requests of these users, all at time `now`, without history or context."""
    users = np.array(user, np.int64)
    none = np.zeros((users.size, 0))
    return Requests(
        user=users,
        timestamp=np.full(users.size, now),
        history=np.zeros((users.size, 5), np.int64),
        context=none.astype(np.int64),
        context_values=none.astype(np.float32),
    )


def by_group(user: Ids, item: Ids) -> npt.NDArray[np.float64]:
    """Return the probability of a positive reward in `world`: 0.8 if user and item are in the same group, else 0.1."""
    return np.where(user % 4 == item % 4, 0.8, 0.1)


def world(
    seed: int = 0, rows: int = 240, users: int = 24, items: int = 30, first: int = 0, chance: Chance = by_group
) -> Feedback:
    """Simulate feedback: each of four groups of users likes one of four groups of items.

    Parameters
    ----------
    seed : int
        The same seed gives the same feedback.
    rows : int
        Number of rows N, in requests of one to five rows.
    users, items : int
        Number of users and items. Number n is in group n % 4.
    first : int
        Number of the first user and the first item. Two worlds share users and items only where their numbers overlap.
    chance : callable
        Probability of a positive reward, from user and item numbers (N,).

    Returns
    -------
    Feedback
        The feature columns are: user, item, group of the user, group of the item, a number, and a column that is often absent.
        Scores, uncertainties, hidden vectors (N, 8), base scores and evidence (N, 2) are filled in for the learners that use
        them. The first evidence column is noise, the second the logarithm of the probability.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, rows)
    request = np.repeat(np.arange(rows), sizes)[:rows]
    b = int(request[-1]) + 1 if rows else 0
    who, what = rng.integers(0, users, b) + first, rng.integers(0, items, rows) + first
    liked = who[request] % 4 == what % 4
    chances = chance(who[request], what)
    reward = (rng.random(rows) < chances).astype(np.float32)
    number, present = rng.normal(size=rows), rng.random(rows) < 0.3
    user, item = _ids(who, _USER), _ids(what, _ITEM)
    columns = [
        user[request],
        item,
        _ids(who[request] % 4, 3),
        _ids(what % 4, 4),
        _ids(np.zeros_like(what), 5),
        _ids(what % 7, 6),
    ]
    features, values = np.stack(columns, axis=1), np.ones((rows, 6), np.float32)
    values[:, 4], values[:, 5] = number, present
    features[~present, 5] = 0
    history = np.zeros((b, 5), np.int64)
    last: dict[int, list[int]] = {}
    for n in range(rows):
        mine = last.setdefault(int(user[request[n]]), [])
        if n == 0 or request[n] != request[n - 1]:
            history[request[n], : len(mine)] = mine
        if reward[n] > 0:
            mine.insert(0, int(item[n]))
            del mine[5:]
    return Feedback(
        user=user,
        timestamp=1.7e9 + np.cumsum(rng.exponential(60.0, b)),
        history=history,
        context=_ids(np.arange(b) % 3, 7)[:, None],
        context_values=np.ones((b, 1), np.float32),
        item=item,
        request=request,
        position=np.arange(rows) - np.searchsorted(request, request),
        features=features,
        values=values,
        score=np.where(liked, 0.6, 0.2).astype(np.float32) + rng.uniform(0, 0.1, rows).astype(np.float32),
        uncertainty=rng.uniform(0.01, 0.2, rows).astype(np.float32),
        hidden=rng.normal(size=(rows, 8)).astype(np.float32),
        base=np.where(liked, 0.5, 0.3).astype(np.float32),
        evidence=_evidence(seed, chances),
        reward=reward,
        propensity=rng.uniform(0.1, 1.0, rows).astype(np.float32),
        weight=np.ones(rows, np.float32),
        kind=(reward > 0).astype(np.int32),
        outcome_time=1.7e9 + np.cumsum(rng.exponential(10.0, rows)),
        correction=np.zeros(rows, np.bool_),
    )


def cut(feedback: Feedback, start: int, stop: int) -> Feedback:
    """Copy rows `start` to `stop` with their requests."""
    stop = min(stop, feedback.rows)
    held = np.unique(feedback.request[start:stop])
    parts: dict[str, Any] = feedback.columns(held)
    for field in fields(Feedback):
        if field.name not in (*parts, "gradients"):
            value = getattr(feedback, field.name)
            parts[field.name] = None if value is None else value[start:stop].copy()
    parts["request"] = np.searchsorted(held, feedback.request[start:stop])
    return Feedback(**parts)


def batch_of(feedback: Feedback) -> Batch:
    """Copy the rows without their outcomes."""
    return Batch(**{field.name: copy.deepcopy(getattr(feedback, field.name)) for field in fields(Batch)})


def choices_of(feedback: Feedback) -> Choices:
    """Choices of the requests among their own rows: the first row of each with a positive reward, none where there is none."""
    batch = Batch(
        **copy.deepcopy(feedback.columns()),
        item=feedback.item.copy(),
        request=feedback.request.copy(),
        features=np.empty((feedback.rows, 0), np.int64),
        values=np.empty((feedback.rows, 0), np.float32),
        evidence=copy.deepcopy(feedback.evidence),
    )
    good = np.flatnonzero(feedback.reward > 0)
    request, first = np.unique(feedback.request[good], return_index=True)
    chosen, reward = np.full(feedback.user.size, -1), np.ones(feedback.user.size, np.float32)
    chosen[request], reward[request] = good[first], feedback.reward[good[first]]
    return Choices(batch, chosen, reward)


def numbers_of(users: Ids, items: Ids, count: int) -> tuple[Ids, Ids]:
    """Return the numbers of users and items of a `world` from their hashed ids. All numbers must be below `count`.

    Raises ValueError for an unknown id.
    """
    return _number(users, _USER, count), _number(items, _ITEM, count)


def _number(ids: Ids, kind: int, count: int) -> Ids:
    known = _ids(np.arange(count), kind)
    order = np.argsort(known)
    found = order[np.minimum(np.searchsorted(known, ids, sorter=order), count - 1)]
    unknown = ids[known[found] != ids]
    if unknown.size:
        raise ValueError(f"id {unknown[0]} is not in the world; return ids that were learned")
    return found


def _evidence(seed: int, chance: npt.NDArray[np.float64]) -> Floats:
    """Noise and the logarithm of the chance, (N, 2)."""
    noise = np.random.default_rng((seed, 1)).normal(size=chance.size)
    return np.stack((noise, np.log(np.maximum(chance, 0.001))), axis=1).astype(np.float32)


def _ids(numbers: Ids, kind: int) -> Ids:
    """Return ids that look like hashes: large, of either sign, never 0."""
    mixed = (numbers.astype(np.uint64) * np.uint64(8) + np.uint64(kind)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))).view(np.int64)
