"""A small shop for tests of losse_ftl: items of some categories, and requests of one item each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from learners.lookups import Catalogues, UserHistory
from learners.rerankers.losse_ftl.reranker import LosseFtl
from learners.schema import FeatureColumn, Schema
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from streams.batch import Feedback

CATEGORIES, ITEMS = 6, 48

SCHEMA = Schema(
    features=(FeatureColumn("item.id", "item", "category"), FeatureColumn("item.category", "item", "category")),
    users=(),
    items=(FeatureColumn("item.category", "item", "category"), FeatureColumn("item.price", "item", "number")),
    context=(),
    history=5,
)


def catalogues(items: int = ITEMS) -> Catalogues:
    """Item n, from 1, is of category n % 6; item 1000 has no attributes."""
    catalog, rng = Catalog(128, 2), np.random.default_rng(0)
    for n in range(1, items + 1):
        keys, values = np.array([10 + n % CATEGORIES, 5]), np.array([1.0, rng.normal()], np.float32)
        catalog.put(n, str(n), {}, keys, values)
    catalog.put(1000, "1000", {}, np.zeros(2, np.int64), np.zeros(2, np.float32))
    return Catalogues(Catalog(8, 0), catalog)


def learner(known: Catalogues | None = None, **keywords: Any) -> LosseFtl:
    """A small reranker bound to the shop."""
    settings: dict[str, Any] = {
        **{"groups": CATEGORIES, "dim": 4, "users": 64, "first": 20, "waves": 64, "beta": 1.0, "session": 100.0},
        **{"recovery": 1e6, "min_evidence": 0.0},
    }
    made = LosseFtl(**settings | keywords)
    made.bind(SCHEMA, known or catalogues(), UserHistory(History(8, 5)))
    return made


def rows(
    user: npt.ArrayLike,
    item: npt.ArrayLike,
    reward: npt.ArrayLike,
    time: npt.ArrayLike,
    request: npt.ArrayLike | None = None,
    base: float = 0.3,
) -> Feedback:
    """Requests of these users at these times; without `request`, one row each."""
    users, items, times = np.atleast_1d(user).astype(np.int64), np.atleast_1d(item), np.atleast_1d(time).astype(np.float64)
    n = items.size
    return Feedback(
        user=users,
        timestamp=times,
        history=np.zeros((users.size, 5), np.int64),
        context=np.zeros((users.size, 0), np.int64),
        context_values=np.zeros((users.size, 0), np.float32),
        item=items.astype(np.int64),
        request=np.arange(n) if request is None else np.asarray(request),
        position=np.zeros(n, np.int64),
        features=np.zeros((n, 2), np.int64),
        values=np.zeros((n, 2), np.float32),
        score=np.full(n, base, np.float32),
        base=np.full(n, base, np.float32),
        reward=np.atleast_1d(reward).astype(np.float32),
        propensity=np.ones(n, np.float32),
        weight=np.ones(n, np.float32),
        kind=np.ones(n, np.int32),
        outcome_time=np.zeros(n),
        correction=np.zeros(n, np.bool_),
    )


def satiated(steps: int, seed: int = 0, users: int = 12) -> Feedback:
    """Requests of one item: it is liked unless one of the user's last two items was of its category."""
    rng = np.random.default_rng(seed)
    last: dict[int, list[int]] = {}
    made = []
    for n in range(steps):
        user, item = n % users + 1, int(rng.integers(1, ITEMS + 1))
        recent = last.setdefault(user, [])
        made.append((user, item, float(item % CATEGORIES not in recent), float(n)))
        recent.append(item % CATEGORIES)
        del recent[:-2]
    user, item, reward, time = (np.array(column) for column in zip(*made, strict=True))
    return rows(user, item, reward, time)
