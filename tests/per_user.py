"""An adapter with low-rank changes for the users that it knows."""

from __future__ import annotations

import numpy as np

from learners.base import Adapter, LowRank, Ranker
from learners.registry import register
from memory.keyed.key_index import KeyIndex


@register("per_user")
class PerUser(Adapter):
    """Adds `by` to all weights, for the users whose outcomes it has seen.

    Parameters
    ----------
    ranker : Ranker
    by : float
        Number to add.

    References
    ----------
    None needed.
    """

    checks_ranker = "tests.adaptable"

    def __init__(self, ranker: Ranker, by: float = 0.1) -> None:
        super().__init__(ranker)
        self.by, self.users = by, KeyIndex(16)

    @property
    def changes(self):
        return ["weight"]

    def adapt(self, batch):
        m, n = self.ranker.adaptable()["weight"]
        known = (self.users.find(batch.user) >= 0).astype(np.float32)
        u = np.broadcast_to(known[:, None, None] * np.float32(self.by), (known.size, m, 1))
        return {"weight": LowRank(u.copy(), np.ones((known.size, n, 1), np.float32))}

    def learn(self, feedback):
        self.users.insert(feedback.user)

    def forget(self, users):
        self.users.delete(users)
