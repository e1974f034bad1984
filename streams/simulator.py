"""Simulated users who click on recommendations, for demos and tests. The true click probabilities are known.

Users' tastes and items' qualities are vectors. Tastes drift slowly and can shift abruptly, as in common click-stream
benchmarks. But the loop is closed: a user clicks only on items that were shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streams.batch import Times
from streams.events import Attribute, Interaction, ItemUpdate, Scalar, UserUpdate

__all__ = ["Population"]

_SEGMENTS = ("commuters", "students", "parents", "gamers", "cooks", "travellers", "makers", "retired")
_CATEGORIES = (
    *("comedy", "drama", "action", "documentary", "horror", "romance"),
    *("animation", "crime", "fantasy", "history", "music", "sport"),
)
_TAGS = ("bright", "slow", "classic", "foreign", "short", "cult", "family", "dark", "clever", "loud", "new", "quiet")
_AGES = ("under 25", "25-34", "35-49", "50-64", "65 and over")
_DEVICES = ("phone", "desktop", "tablet")
_CALIBRATION_USERS = 128


class Population:
    """Simulated users and items. The same seed and the same calls in the same order give the same results.

    A user belongs to a segment, an item to a category. Taste and quality vectors scatter around those of segment and category.
    Visible attributes (user: segment, age, device; item: title, category, tags) are correlated with the vectors, but do not
    determine them. The probability of a click on an item that the user looks at is
    ``sigmoid(scale * (taste . quality / sqrt(dim) + item bias) + user bias + intercept)``.

    Parameters
    ----------
    users, items : int
        Number of users and items.
    dim : int
        Length of the vectors.
    seed : int
        Seed of all random numbers.
    drift : float
        Change of a taste with each visit: the share ``drift ** 2`` of its variance is drawn again.
    patience : float
        Probability that the user looks at the next position, too.
    base_rate, best_rate : float
        Clicks per item shown, for random and for the best possible rankings of length `positions`. Scale and intercept are
        fitted to these rates at the start and after every shift.
    positions : int
        Length of these rankings.

    Attributes
    ----------
    users, items : list of str
        Ids.
    shifts : int
        Number of shifts so far.
    """

    def __init__(
        self,
        users: int = 400,
        items: int = 300,
        dim: int = 8,
        seed: int = 0,
        *,
        drift: float = 0.02,
        patience: float = 0.92,
        base_rate: float = 0.10,
        best_rate: float = 0.42,
        positions: int = 10,
    ) -> None:
        if users < 1 or items < positions or dim < 1:
            raise ValueError(
                f"users: {users}, items: {items}, dim: {dim}; give at least 1 user, 1 dimension and {positions} items"
            )
        if not 0 < base_rate < best_rate < _looked_at(patience, positions):
            raise ValueError(
                f"best_rate: {best_rate} is not between base_rate {base_rate} and {_looked_at(patience, positions):.2f}, the "
                "share of positions that users look at; change one of the rates, or raise patience"
            )
        self.users = [f"user-{n:04d}" for n in range(users)]
        self.items = [f"item-{n:04d}" for n in range(items)]
        self.shifts = 0
        self._next_number = items
        self._drift, self._attention = drift, patience ** np.arange(positions)
        self._patience, self._rates = patience, (base_rate, best_rate)
        self._user_number = {user: n for n, user in enumerate(self.users)}
        self._item_number = {item: n for n, item in enumerate(self.items)}
        # Two generators: a shift must not depend on the number of visits before it.
        self._world_rng, self._visit_rng = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
        world = self._world_rng
        self._segment = world.integers(0, len(_SEGMENTS), users)
        self._category = world.integers(0, len(_CATEGORIES), items)
        segment_taste = world.normal(size=(len(_SEGMENTS), dim))
        self._category_quality = world.normal(size=(len(_CATEGORIES), dim))
        self._taste = 0.8 * segment_taste[self._segment] + 0.6 * world.normal(size=(users, dim))
        self._quality = 0.8 * self._category_quality[self._category] + 0.6 * world.normal(size=(items, dim))
        self._user_bias = world.normal(0.0, 0.4, users)
        self._item_bias = world.normal(0.0, 0.4, items)
        age = np.clip(np.floor(2.5 + self._taste[:, 0] + world.normal(0.0, 0.7, users)), 0, len(_AGES) - 1)
        self._age = age.astype(np.int64)
        self._device = world.integers(0, len(_DEVICES), users)
        self._tagged = self._quality + world.normal(0.0, 0.5, self._quality.shape) > 0.9
        weight = world.permutation(np.arange(1, users + 1) ** -0.7)
        self._visits = np.cumsum(weight / weight.sum())
        self._scale, self._intercept = 1.0, 0.0
        self._calibrate()

    def catalogue(self) -> list[ItemUpdate]:
        """Return an update for every item, with its visible attributes: title, category, tags."""
        return [ItemUpdate(item=item, attributes=self._item_attributes(n)) for n, item in enumerate(self.items)]

    def profiles(self) -> list[UserUpdate]:
        """Return an update for every user, with the visible attributes: segment and age."""
        return [
            UserUpdate(user=user, attributes={"segment": _SEGMENTS[self._segment[n]], "age": _AGES[self._age[n]]})
            for n, user in enumerate(self.users)
        ]

    def visit(self) -> tuple[str, dict[str, Scalar]]:
        """Draw the user of the next request, some far more often than others. Their taste drifts a little.

        Returns
        -------
        (user, context)
            The user's id, and the context of the request.
        """
        n = min(int(np.searchsorted(self._visits, self._visit_rng.random(), side="right")), len(self.users) - 1)
        fresh = self._visit_rng.normal(size=self._taste.shape[1])
        self._taste[n] = np.sqrt(1.0 - self._drift**2) * self._taste[n] + self._drift * fresh
        own_device = self._visit_rng.random() < 0.8
        device = int(self._device[n]) if own_device else int(self._visit_rng.integers(len(_DEVICES)))
        return self.users[n], {"device": _DEVICES[device]}

    def react(self, user: str, request_id: str, items: Sequence[str], now: float) -> list[Interaction]:
        """Simulate the clicks of a user who looks at a ranking from the top until their patience ends.

        Parameters
        ----------
        user : str
            User id.
        request_id : str
            Id of the impression, which the clicks refer to.
        items : sequence of str
            Items shown, from the top position down. Unknown ids are never clicked.
        now : float
            Time of the clicks, Unix seconds.
        """
        probability = self.click_probability(user, items)
        # Drawn for every position, seen or not, so that two rankings are compared with the same random numbers.
        continues = self._visit_rng.random(len(items)) < self._patience
        clicks = self._visit_rng.random(len(items)) < probability
        seen = np.concatenate([[True], np.logical_and.accumulate(continues)[:-1]]) if len(items) else clicks
        return [
            Interaction(id=f"{request_id}:{position}", request_id=request_id, user=user, item=items[position], timestamp=now)
            for position in np.flatnonzero(clicks & seen).tolist()
        ]

    def click_probability(self, user: str, items: Sequence[str]) -> Times:
        """Return the true probability that the user clicks on each item when looking at it, (n,) float64."""
        numbers = np.array([self._item_number.get(item, -1) for item in items], np.int64)
        probability = _sigmoid(self._logits(np.array([self._user_number[user]]), numbers)[0])
        return np.where(numbers >= 0, probability, 0.0)

    def shift(self) -> None:
        """Rotate all tastes at once, and give half of the items new qualities. Visible attributes stay the same."""
        dim = self._taste.shape[1]
        rotation, _ = np.linalg.qr(self._world_rng.normal(size=(dim, dim)))
        self._taste = self._taste @ rotation.T
        changed = np.flatnonzero(self._world_rng.random(len(self.items)) < 0.5)
        new = self._world_rng.normal(size=(changed.size, dim))
        self._quality[changed] = 0.8 * self._category_quality[self._category[changed]] + 0.6 * new
        self._item_bias[changed] = self._world_rng.normal(0.0, 0.4, changed.size)
        self.shifts += 1
        self._calibrate()

    def replace(self, share: float) -> list[ItemUpdate]:
        """Replace a share of the items by new ones.

        Returns
        -------
        list of ItemUpdate
            The deletions, then the new items with their visible attributes.
        """
        replaced = np.sort(self._world_rng.choice(len(self.items), round(share * len(self.items)), replace=False))
        updates = [ItemUpdate(item=self.items[n], deleted=True) for n in replaced.tolist()]
        dim = self._taste.shape[1]
        self._category[replaced] = self._world_rng.integers(0, len(_CATEGORIES), replaced.size)
        self._quality[replaced] = 0.8 * self._category_quality[self._category[replaced]] + 0.6 * self._world_rng.normal(
            size=(replaced.size, dim)
        )
        self._item_bias[replaced] = self._world_rng.normal(0.0, 0.4, replaced.size)
        self._tagged[replaced] = self._quality[replaced] + self._world_rng.normal(0.0, 0.5, (replaced.size, dim)) > 0.9
        for n in replaced.tolist():
            del self._item_number[self.items[n]]
            self.items[n] = f"item-{self._next_number:04d}"
            self._item_number[self.items[n]] = n
            self._next_number += 1
        self._calibrate()
        return updates + [ItemUpdate(item=self.items[n], attributes=self._item_attributes(n)) for n in replaced.tolist()]

    def _item_attributes(self, n: int) -> dict[str, Attribute]:
        category = _CATEGORIES[self._category[n]]
        tags = [_TAGS[tag] if tag < len(_TAGS) else f"tag {tag}" for tag in np.flatnonzero(self._tagged[n]).tolist()]
        return {"title": f"{category} {n}", "category": category, "tags": tags}

    def _affinity(self, users: np.ndarray, items: np.ndarray | slice) -> Times:
        affinity: Times = self._taste[users] @ self._quality[items].T / np.sqrt(self._taste.shape[1]) + self._item_bias[items]
        return affinity

    def _logits(self, users: np.ndarray, items: np.ndarray) -> Times:
        logits: Times = self._scale * self._affinity(users, items) + self._user_bias[users][:, None] + self._intercept
        return logits

    def _calibrate(self) -> None:
        """Fit scale and intercept to the wanted rates on a sample of users."""
        base, best = self._rates
        positions = self._attention.size
        drawn = np.searchsorted(self._visits, (np.arange(_CALIBRATION_USERS) + 0.5) / _CALIBRATION_USERS)
        affinity, bias = self._affinity(drawn, slice(None)), self._user_bias[drawn][:, None]
        order = np.argsort(-affinity, axis=1)[:, :positions]
        low, high = 0.0, 20.0
        for _ in range(20):
            self._scale = (low + high) / 2
            self._intercept = _intercept(self._scale * affinity + bias, base / self._attention.mean())
            top = np.take_along_axis(self._scale * affinity + bias + self._intercept, order, axis=1)
            reached = float((_sigmoid(top) * self._attention).mean())
            low, high = (self._scale, high) if reached < best else (low, self._scale)


def _looked_at(patience: float, positions: int) -> float:
    return float((patience ** np.arange(positions)).mean())


def _intercept(logits: Times, mean: float) -> float:
    """Return the constant that gives the logits the mean probability `mean`."""
    low, high = -30.0, 30.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if float(_sigmoid(logits + middle).mean()) > mean else (middle, high)
    return middle


def _sigmoid(x: Times) -> Times:
    probability: Times = 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))
    return probability
