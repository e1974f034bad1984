"""Two-tower retriever: items whose vectors are most similar to the user's.

References
----------
X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Candidates, Exclusion, Retriever
from learners.kernels.exhaustive import best_items
from learners.kernels.nearest import in_order, nearest_items
from learners.lookups import Catalogues, UserHistory
from learners.networks.columns import TowerColumns
from learners.networks.towers import Towers, TowerShape
from learners.registry import register
from learners.schema import Schema
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from memory.keyed.key_index import KeyIndex
from memory.vectors.vector_index import VectorIndex
from streams.batch import Batch, Feedback, Floats, Ids, Requests

__all__ = ["TwoTower"]

_FOUND = 10
"""Items found by stored vectors for each one asked for: a step of the towers changes the order of items that are alike."""

_NEIGHBOURS = 100
"""Recall is estimated for this many items."""

_RENEWALS = 32
"""Items that are computed in turn for each row learned, at most. Each takes a quarter of a microsecond, and three to store."""

_DRIFT = 0.1
"""Distance between stored and current vectors, of length 1, at which that many are computed; fewer in proportion."""

_MOVED = 0.02
"""Distance from which a vector is stored anew. Less does not change what is found, and would be shipped to replicas."""

_WINDOW = 256
"""Items of which the mean distance is taken."""


@register("two_tower")
class TwoTower(Retriever):
    """Scores items by cosine similarity, with vectors from two towers that learn online; see `learners.networks.towers`.

    The user tower reads the user's id and attributes, the context and the items liked last. The item tower reads the item's id
    and attributes, so a new item can be retrieved at once.

    With up to `exhaustive` items, a request is compared with the current vectors of all. With more, the vectors of items are
    stored in lists, by nearness to centroids, and a request is compared with the `probes` lists nearest to it. Ten times as
    many items as asked for are taken from these and ordered by their current vectors. The stored vector of an item is renewed
    when the item is learned or changed. Each step of the towers moves all other items a little. So for each row learned, some
    of these are computed, in turn, and stored if they have moved: one item where hardly any moves, and 32 where all do.

    Parameters
    ----------
    items : int
        Maximum number of items to retrieve from. The least recently updated one is evicted. With more than `exhaustive`, the
        stored vectors take 4 * dim bytes an item, and 2 to 4 * dim in the lists.
    dim : int
        Length of a vector.
    hidden : int
        Units of each tower's hidden layer.
    bits : int
        Columns are hashed to 2**bits embeddings. Memory is 12 * dim * 2**bits bytes.
    learning_rate : float
        Learning rate of AdaGrad.
    temperature : float
        Temperature of the softmax over cosine similarities.
    exhaustive : int
        Largest `items` for which all items are compared. This takes about 0.25 microseconds an item and request.
    probes : int
        Lists that a request is compared with, of two times the square root of `items`. More find more of the best items, and
        take longer. See docs/scaling.md.
    seed : int
        Seed of the initial weights.

    References
    ----------
    See the module.
    """

    state_version: ClassVar[int | str] = 4
    """1 had towers with an optimizer of their own; 2 stored no vectors of items; 3 renewed one of them for each row."""
    checks_parameters: ClassVar[dict[str, object]] = {"items": 24, "dim": 8, "hidden": 4, "bits": 8}
    # Without lists, with lists of float32, and with lists of 16 bits.
    rehearsals: ClassVar[tuple[dict[str, object], ...]] = (
        checks_parameters,
        checks_parameters | {"exhaustive": 0},
        checks_parameters | {"exhaustive": 0, "items": 40_000},
    )
    tunable: ClassVar[Tunable] = {
        "dim": Scale(8, 128, log=True),
        "hidden": Scale(8, 128, log=True),
        "learning_rate": Scale(0.01, 1.0, log=True),
        "temperature": Scale(0.02, 2.0, log=True),
    }

    def __init__(
        self,
        items: Annotated[int, Field(gt=0)] = 20_000,
        dim: Annotated[int, Field(gt=0)] = 32,
        hidden: Annotated[int, Field(gt=0)] = 32,
        bits: Annotated[int, Field(ge=1, le=26)] = 15,
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        temperature: Annotated[float, Field(gt=0)] = 0.2,
        exhaustive: Annotated[int, Field(ge=0)] = 20_000,
        probes: Annotated[int, Field(gt=0)] = 32,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.towers = Towers(TowerShape(dim, hidden, bits, seed), learning_rate, temperature)
        self.items = KeyIndex(items)
        if items > exhaustive:
            self.index = VectorIndex(items, dim, kind="ivf", probes=probes)
            # The slot whose turn it is, and the mean distance of stored vectors that were computed anew.
            self.turn = Arrays(slot=np.zeros(1, np.int64), drift=np.zeros(1, np.float64))
        self._columns = TowerColumns()

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Receive the catalogues; see `Learner.bind`."""
        self._columns.catalogues = catalogues

    def users(self, requests: Requests) -> Floats:
        """Return the vectors of the requests' users, (B, dim), of unit length."""
        return self.towers.users(self._columns.users(requests))

    def vectors(self, items: Ids) -> Floats:
        """Return the vectors of items, (n, dim), of unit length."""
        return self.towers.items(self._columns.items(items))

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """Return at most `k` items per request, by cosine similarity. Ties are ordered by slot."""
        users, excluded = self.users(requests), self.items.find(exclude.item)
        if self._index is None:
            slots = np.sort(self.items.slots())
            cosine = users @ self.vectors(self.items.keys[slots]).T
            slot, request, score = best_items(cosine, slots, k, excluded, exclude.start)
        else:
            slot, request = nearest_items(self._index, users, _FOUND * k, excluded, exclude.start)
            distinct, at = np.unique(slot, return_inverse=True)
            vectors = self.vectors(self.items.keys[distinct])[at]
            slot, request, score = in_order(slot, request, (users[request] * vectors).sum(axis=1), k)
        return Candidates(self.items.keys[slot], request, score)

    def score(self, batch: Batch) -> Floats:
        """Return cosine similarities, (N,) float32."""
        cosine: Floats = (self.users(batch)[batch.request] * self.vectors(batch.item)).sum(axis=1)
        return cosine

    def learn(self, feedback: Feedback) -> None:
        """Train the towers on the batch, and add its items to the corpus."""
        if feedback.rows:
            self.towers.learn(feedback, self._columns)
            self._add(feedback.item, feedback.rows)

    def add(self, items: Ids) -> None:
        """Add items to the corpus, or store their changed vectors."""
        self._add(items, 0)

    def remove(self, items: Ids) -> None:
        """Remove items from the corpus."""
        slots = self.items.delete(items)
        if self._index is not None:
            self._index.delete(slots[slots >= 0])

    def metrics(self) -> Mapping[str, float]:
        """Return what tells of the search, where not all items are compared.

        ``recall`` is estimated with stored vectors as queries. ``drift`` is the mean distance between a stored vector that was
        renewed in turn and the current one: 0 to 2.
        """
        return {} if self._index is None else {"recall": self._index.last_recall, "drift": float(self.turn["drift"][0])}

    @property
    def _index(self) -> VectorIndex | None:
        return getattr(self, "index", None)

    def _add(self, items: Ids, rows: int) -> None:
        """Add items to the corpus, and store their vectors and, after learning some rows, those of others that have moved."""
        slots, _ = self.items.insert(self._columns.alive(items))
        if self._index is None:
            return
        own = np.unique(slots[slots >= 0])
        own = own[self.items.keys[own] != 0]  # one that a large batch added and evicted again has no key
        slots = np.concatenate((own, np.setdiff1d(self._next(rows), own, assume_unique=True)))
        if slots.size:
            vectors = self.vectors(self.items.keys[slots])
            moved = np.ones(slots.size, np.bool_)
            moved[own.size :] = self._distances(slots[own.size :], vectors[own.size :]) > _MOVED
            slots = slots[moved]
            self._index.write(slots, vectors[moved])
        self._index.maintain(_NEIGHBOURS, slots.size)

    def _next(self, rows: int) -> Ids:
        """Return the slots whose turn it is to be computed anew after learning some rows."""
        rate = min(max(_RENEWALS * self.turn["drift"][0] / _DRIFT, 1.0), _RENEWALS)
        turn, capacity = self.turn["slot"], self.items.capacity
        slots: Ids = (turn[0] + np.arange(min(int(rows * rate), capacity))) % capacity
        turn[0] = (turn[0] + slots.size) % capacity
        self.turn.mark()
        used: Ids = slots[self.items.keys[slots] != 0]
        return used

    def _distances(self, slots: Ids, vectors: Floats) -> Floats:
        """Return how far the current vectors of some items are from the stored ones, (n,), and take note of the mean."""
        assert self._index is not None
        distance: Floats = np.linalg.norm(vectors - self._index.rows["vector"][slots], axis=1)
        if slots.size:
            drift, share = self.turn["drift"], min(slots.size / _WINDOW, 1.0)
            drift[0] += share * (float(distance.mean()) - drift[0])
        return distance

    def forget(self, users: Ids) -> None:
        """Delete the embeddings that belong to these users only."""
        if users.size:
            self.towers.forget(self._columns.own(users))
