"""Simulated visitors who click on what they are shown: a world whose true answer is known, for demos and tests.

The model is that of the click streams which recommenders are benchmarked on (tastes and qualities as vectors, an abrupt shift,
a slow drift), but as a closed loop: what is clicked depends on what was shown.
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
_CALIBRATED_ON = 128


class Population:
    """Visitors and items. Deterministic for a seed and the same calls in the same order.

    A visitor belongs to a segment and an item to a category; tastes and qualities are vectors around those of segment and
    category. Attributes that can be seen (user: segment, age, device; item: title, category, tags) tell something about the
    vectors, never all. The probability of a click on an item that is looked at is
    ``sigmoid(scale * (taste . quality / sqrt(dim) + item bias) + user bias + intercept)``.

    Parameters
    ----------
    users, items : int
        How many.
    dim : int
        Length of the vectors.
    seed : int
        Of everything that is random.
    drift : float
        How far a taste wanders with each visit: the share of it that is drawn anew is ``drift ** 2``.
    patience : float
        Probability of going on to the next place.
    base_rate, best_rate : float
        Clicks per item shown, in lists of `places`, that random rankings and the best possible ones get. Scale and intercept
        are found from them, at the start and after every shift.
    places : int
        Length of those lists.

    Attributes
    ----------
    users, items : list of str
        Ids.
    shifts : int
        How often tastes have shifted.
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
        places: int = 10,
    ) -> None:
        if users < 1 or items < places or dim < 1:
            raise ValueError(
                f"users: {users}, items: {items}, dim: {dim}; have a user, a dimension and {places} items at least"
            )
        if not 0 < base_rate < best_rate < _reach(patience, places):
            raise ValueError(
                f"best_rate: {best_rate} is not between base_rate {base_rate} and the {_reach(patience, places):.2f} of places "
                "that are looked at; change one of them, or be more patient"
            )
        self.users = [f"user-{n:04d}" for n in range(users)]
        self.items = [f"item-{n:04d}" for n in range(items)]
        self.shifts = 0
        self._made = items
        self._drift, self._attention = drift, patience ** np.arange(places)
        self._patience, self._rates = patience, (base_rate, best_rate)
        self._user_number = {user: n for n, user in enumerate(self.users)}
        self._item_number = {item: n for n, item in enumerate(self.items)}
        # Two sources: shifting must not depend on how many visits there were.
        self._world, self._chance = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
        world = self._world
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
        """Every item, with what can be seen of it: title, category, tags."""
        return [ItemUpdate(item=item, attributes=self._item_attributes(n)) for n, item in enumerate(self.items)]

    def profiles(self) -> list[UserUpdate]:
        """Every visitor, with what can be seen of them: segment and age."""
        return [
            UserUpdate(user=user, attributes={"segment": _SEGMENTS[self._segment[n]], "age": _AGES[self._age[n]]})
            for n, user in enumerate(self.users)
        ]

    def visit(self) -> tuple[str, dict[str, Scalar]]:
        """Let the next visitor come in, some far more often than others; their taste has wandered a little.

        Returns
        -------
        (user, context)
            The visitor's id, and the context of their request.
        """
        n = min(int(np.searchsorted(self._visits, self._chance.random(), side="right")), len(self.users) - 1)
        fresh = self._chance.normal(size=self._taste.shape[1])
        self._taste[n] = np.sqrt(1.0 - self._drift**2) * self._taste[n] + self._drift * fresh
        usual = self._chance.random() < 0.8
        device = int(self._device[n]) if usual else int(self._chance.integers(len(_DEVICES)))
        return self.users[n], {"device": _DEVICES[device]}

    def react(self, user: str, request_id: str, items: Sequence[str], now: float) -> list[Interaction]:
        """Let the visitor look at a list from the top, for as long as their patience lasts, and click.

        Parameters
        ----------
        user : str
            Who looks.
        request_id : str
            Of the impression, for the clicks to refer to.
        items : sequence of str
            What is shown, best place first. Unknown ids are looked at and never clicked.
        now : float
            Time of the clicks, Unix seconds.
        """
        probability = self.click_probability(user, items)
        # Drawn for every place, seen or not, so that two rankings are compared under the same luck.
        goes_on = self._chance.random(len(items)) < self._patience
        clicks = self._chance.random(len(items)) < probability
        seen = np.concatenate([[True], np.logical_and.accumulate(goes_on)[:-1]]) if len(items) else clicks
        return [
            Interaction(id=f"{request_id}:{place}", request_id=request_id, user=user, item=items[place], timestamp=now)
            for place in np.flatnonzero(clicks & seen).tolist()
        ]

    def click_probability(self, user: str, items: Sequence[str]) -> Times:
        """Return the true answer: the probability that the visitor clicks on each item when looking at it, (n,) float64."""
        numbers = np.array([self._item_number.get(item, -1) for item in items], np.int64)
        probability = _sigmoid(self._logits(np.array([self._user_number[user]]), numbers)[0])
        return np.where(numbers >= 0, probability, 0.0)

    def shift(self) -> None:
        """Turn every taste at once, and give half of the items other qualities; what can be seen of them stays the same."""
        dim = self._taste.shape[1]
        turn, _ = np.linalg.qr(self._world.normal(size=(dim, dim)))
        self._taste = self._taste @ turn.T
        changed = np.flatnonzero(self._world.random(len(self.items)) < 0.5)
        anew = self._world.normal(size=(changed.size, dim))
        self._quality[changed] = 0.8 * self._category_quality[self._category[changed]] + 0.6 * anew
        self._item_bias[changed] = self._world.normal(0.0, 0.4, changed.size)
        self.shifts += 1
        self._calibrate()

    def replace(self, share: float) -> list[ItemUpdate]:
        """Take a share of the items out of the world, and put as many new ones in.

        Returns
        -------
        list of ItemUpdate
            The deletions, then the new items with what can be seen of them.
        """
        gone = np.sort(self._world.choice(len(self.items), round(share * len(self.items)), replace=False))
        updates = [ItemUpdate(item=self.items[n], deleted=True) for n in gone.tolist()]
        dim = self._taste.shape[1]
        self._category[gone] = self._world.integers(0, len(_CATEGORIES), gone.size)
        self._quality[gone] = 0.8 * self._category_quality[self._category[gone]] + 0.6 * self._world.normal(
            size=(gone.size, dim)
        )
        self._item_bias[gone] = self._world.normal(0.0, 0.4, gone.size)
        self._tagged[gone] = self._quality[gone] + self._world.normal(0.0, 0.5, (gone.size, dim)) > 0.9
        for n in gone.tolist():
            del self._item_number[self.items[n]]
            self.items[n] = f"item-{self._made:04d}"
            self._item_number[self.items[n]] = n
            self._made += 1
        self._calibrate()
        return updates + [ItemUpdate(item=self.items[n], attributes=self._item_attributes(n)) for n in gone.tolist()]

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
        """Find the scale and intercept that give the wanted rates, on a sample of visitors."""
        base, best = self._rates
        places = self._attention.size
        drawn = np.searchsorted(self._visits, (np.arange(_CALIBRATED_ON) + 0.5) / _CALIBRATED_ON)
        affinity, bias = self._affinity(drawn, slice(None)), self._user_bias[drawn][:, None]
        order = np.argsort(-affinity, axis=1)[:, :places]
        low, high = 0.0, 20.0
        for _ in range(20):
            self._scale = (low + high) / 2
            self._intercept = _intercept(self._scale * affinity + bias, base / self._attention.mean())
            top = np.take_along_axis(self._scale * affinity + bias + self._intercept, order, axis=1)
            reached = float((_sigmoid(top) * self._attention).mean())
            low, high = (self._scale, high) if reached < best else (low, self._scale)


def _reach(patience: float, places: int) -> float:
    return float((patience ** np.arange(places)).mean())


def _intercept(logits: Times, mean: float) -> float:
    """Constant that, added to the logits, makes their mean probability `mean`."""
    low, high = -30.0, 30.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if float(_sigmoid(logits + middle).mean()) > mean else (middle, high)
    return middle


def _sigmoid(x: Times) -> Times:
    probability: Times = 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))
    return probability
