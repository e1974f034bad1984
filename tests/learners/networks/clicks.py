"""Rows with features for network rankers, and a world whose tastes turn."""

from __future__ import annotations

import numpy as np

from learners.lookups import Catalogues, UserHistory
from learners.networks.ranker import NetworkRanker
from learners.schema import FeatureColumn, Schema
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from streams.batch import Feedback, Floats, Ids

COLUMNS = (
    FeatureColumn("user.id", "user", "category"),
    FeatureColumn("item.id", "item", "category"),
    FeatureColumn("item.tags", "item", "tags"),
    FeatureColumn("item.tags", "item", "tags"),
    FeatureColumn("item.age", "item", "number"),
)
FIELDS = 3
"""Ids and tags. The number has no vector in a network."""


def bound(ranker: NetworkRanker, columns: tuple[FeatureColumn, ...] = COLUMNS) -> NetworkRanker:
    """Bind a ranker to columns, with empty catalogues."""
    ranker.bind(Schema(columns, (), (), (), 0), Catalogues(Catalog(1, 0), Catalog(1, 0)), UserHistory(History(1, 1)))
    return ranker


def rows(features: Ids, values: Floats, reward: Floats) -> Feedback:
    """Feedback with one row per request."""
    n = len(reward)
    return Feedback(
        user=features[:, 0].copy(),
        timestamp=np.zeros(n),
        history=np.zeros((n, 0), np.int64),
        context=np.zeros((n, 0), np.int64),
        context_values=np.zeros((n, 0), np.float32),
        item=features[:, 1].copy(),
        request=np.arange(n),
        features=features,
        values=values.astype(np.float32),
        score=np.zeros(n, np.float32),
        reward=reward.astype(np.float32),
        propensity=np.full(n, np.nan, np.float32),
        weight=np.ones(n, np.float32),
        kind=np.ones(n, np.int32),
        outcome_time=np.zeros(n),
        correction=np.zeros(n, np.bool_),
    )


def random_rows(seed: int, n: int = 100) -> Feedback:
    """Rows with the `COLUMNS`. Users are 1 to 9, items 11 to 19."""
    rng = np.random.default_rng(seed)
    keys = np.stack([rng.integers(1, 10, n), rng.integers(11, 20, n), *rng.integers(21, 25, (2, n)), np.full(n, 31)], 1)
    values = np.stack([np.ones(n), np.ones(n), *np.full((2, n), 0.5**0.5), rng.normal(size=n)], 1)
    return rows(keys, values, rng.random(n) < 0.4)


class Turning:
    """60 users and 40 items have places on a circle; the nearer they are, the likelier is a click. Then all users move on.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._users, self._items = (self._rng.uniform(0, 2 * np.pi, n) for n in (60, 40))

    def turn(self) -> None:
        """Move all users by a quarter of the circle."""
        self._users += np.pi / 2

    def rows(self, n: int) -> Feedback:
        """Clicks and other rows with the two ids."""
        user, item = self._rng.integers(0, 60, n), self._rng.integers(0, 40, n)
        chance = 1 / (1 + np.exp(-3 * np.cos(self._users[user] - self._items[item])))
        return rows(np.stack([user + 1, item + 101], 1), np.ones((n, 2)), self._rng.random(n) < chance)
