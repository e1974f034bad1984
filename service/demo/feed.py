"""Simulated users of a feed that shows one item at a time: satiation makes them skip, and leave.

References
----------
C. Gao et al., "Alleviating Matthew Effect of Offline Reinforcement Learning in Interactive Recommendation", SIGIR 2023: the
rule by which users leave (the quit rule of its KuaiEnv).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streams.events import ItemUpdate, UserUpdate

__all__ = ["Feed"]

Values = npt.NDArray[np.float64]

_SEGMENTS = 6
"""Segments of users, which their tastes scatter around."""

_RECENT = 4
"""Items before the current one that decide whether a user leaves."""


@dataclass
class _Visit:
    """A session: satiation (dim,), categories of the last items, and items so far."""

    satiation: Values
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    steps: int = 0


class Feed:
    """Users and items as vectors. The same seed and the same calls in the same order give the same results.

    The chance that a user watches an item is ``sigmoid(4 z.a - 6 max(0, h.a) - 0.5)`` with the user's taste z and the item's
    vector a, both of unit length, and the satiation h. Then ``h = 0.8 h + 0.5 r a`` and ``z = unit(z + 0.05 r a)``, where r is
    1 for a watched item and 0 for a skipped one. A new session begins without satiation.

    Parameters
    ----------
    users, items, categories, dim : int
        Numbers of users, items and categories, and length of the vectors.
    seed : int
        Seed of all random numbers.
    quits : bool
        Whether a user leaves when at least two of the four items before were of the category of the current one. If not,
        sessions have `longest` items.
    longest : int
        Items after which a session ends.

    Attributes
    ----------
    users, items : list of str
        Ids.
    """

    def __init__(
        self,
        users: int = 200,
        items: int = 240,
        categories: int = 16,
        dim: int = 6,
        seed: int = 0,
        *,
        quits: bool = True,
        longest: int = 30,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.users = [f"user-{n:04d}" for n in range(users)]
        self.items = [f"item-{n:04d}" for n in range(items)]
        self._quits, self._longest = quits, longest
        self._category = np.arange(items) % categories
        of_category, of_segment = _unit(rng.normal(size=(categories, dim))), _unit(rng.normal(size=(_SEGMENTS, dim)))
        self._vector = _unit(of_category[self._category] + 0.15 * rng.normal(size=(items, dim)))
        self._segment = rng.integers(0, _SEGMENTS, users)
        self._taste = _unit(of_segment[self._segment] + 0.25 * rng.normal(size=(users, dim)))
        self._number = {item: n for n, item in enumerate(self.items)}
        self._user = {user: n for n, user in enumerate(self.users)}
        self._visits: dict[str, _Visit] = {}
        self._rng = rng

    def catalogue(self) -> list[ItemUpdate]:
        """Return an update for every item, with its category."""
        return [ItemUpdate(item=item, attributes={"category": f"c{self._category[n]}"}) for n, item in enumerate(self.items)]

    def profiles(self) -> list[UserUpdate]:
        """Return an update for every user, with the segment."""
        return [UserUpdate(user=user, attributes={"segment": f"s{self._segment[n]}"}) for n, user in enumerate(self.users)]

    def chance(self, user: str, item: str) -> float:
        """Probability that the user watches the item now."""
        a, taste = self._vector[self._number[item]], self._taste[self._user[user]]
        satiation = self._visits[user].satiation if user in self._visits else np.zeros(a.size)
        return float(1.0 / (1.0 + np.exp(-(4.0 * taste @ a - 6.0 * max(0.0, satiation @ a) - 0.5))))

    def show(self, user: str, item: str) -> tuple[bool, bool]:
        """Show an item to a user, whose session begins if there is none.

        Returns
        -------
        (watched, goes_on)
            Whether the user watches the item, and whether the session goes on afterwards.
        """
        n = self._number[item]
        a = self._vector[n]
        visit = self._visits.setdefault(user, _Visit(np.zeros(a.size)))
        watched = bool(self._rng.random() < self.chance(user, item))
        visit.satiation = 0.8 * visit.satiation + 0.5 * watched * a
        taste = self._taste[self._user[user]]
        taste[:] = _unit(taste + 0.05 * watched * a)
        bored = self._quits and visit.recent.count(int(self._category[n])) >= 2
        visit.recent.append(int(self._category[n]))
        visit.steps += 1
        goes_on = not bored and visit.steps < self._longest
        if not goes_on:
            del self._visits[user]
        return watched, goes_on


def _unit(vectors: Values) -> Values:
    unit: Values = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
