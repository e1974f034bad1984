"""What learners may look up: attributes of users and items, and what users did last."""

from __future__ import annotations

from dataclasses import dataclass

from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from streams.batch import Ids, Kinds, Times

__all__ = ["Catalogues", "UserHistory"]


@dataclass(frozen=True, slots=True)
class Catalogues:
    """Attributes of all known users and items. Learners read them and never write to them."""

    users: Catalog
    items: Catalog


@dataclass(frozen=True, slots=True)
class UserHistory:
    """Recent interactions of each user, for learners to read. It is not part of the state of a learner that keeps it."""

    store: History

    def recent(self, user: Ids, length: int) -> tuple[Ids, Times, Kinds]:
        """Return the last interactions with a positive reward of users (B,); see `memory.keyed.history.History.recent`."""
        return self.store.recent(user, length)

    def seen(self, user: Ids) -> tuple[Ids, Ids]:
        """Return the distinct items that users (B,) interacted with; see `memory.keyed.history.History.seen`."""
        return self.store.seen(user)

    def activity(self, user: Ids) -> Ids:
        """How many interactions users (B,) have had so far, (B,) int64; 0 for a user who is not known."""
        return self.store.activity(user)
