"""Two towers as a retriever: the items whose vectors are closest to the user's.

References
----------
X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Candidates, Catalogues, Exclusion, Retriever, UserHistory
from learners.networks.columns import TowerColumns
from learners.networks.towers import Towers, TowerShape
from learners.registry import register
from learners.schema import Schema
from memory.jit import njit
from memory.keyed.key_index import KeyIndex
from streams.batch import Batch, Feedback, Floats, Ids, Requests

__all__ = ["TwoTower"]


@register("two_tower")
class TwoTower(Retriever):
    """Cosine of a user's vector and an item's, from two towers that learn on the stream (see `learners.networks.towers`).

    A user is its id, its attributes, the context and the items that it liked last; an item is its id and its attributes,
    so that a new one has a place at once. Every item of the corpus is compared, with vectors as of now.

    Parameters
    ----------
    items : int
        Items that are retrieved from; the one longest untouched gives way.
    dim : int
        Numbers in a vector.
    hidden : int
        Units of each tower's hidden layer.
    bits : int
        Columns share 2**bits vectors by their hash; memory is 12 * dim * 2**bits bytes.
    learning_rate : float
        Step size of AdaGrad.
    temperature : float
        What cosines are divided by in the softmax.
    seed : int
        Of the first weights.

    References
    ----------
    See the module.
    """

    state_version: ClassVar[int | str] = 2
    """1 had towers with an optimizer of their own."""
    checks_parameters: ClassVar[dict[str, object]] = {"items": 24, "dim": 8, "hidden": 4, "bits": 8}

    def __init__(
        self,
        items: Annotated[int, Field(gt=0)] = 20_000,
        dim: Annotated[int, Field(gt=0)] = 32,
        hidden: Annotated[int, Field(gt=0)] = 32,
        bits: Annotated[int, Field(ge=1, le=26)] = 15,
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        temperature: Annotated[float, Field(gt=0)] = 0.2,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.towers = Towers(TowerShape(dim, hidden, bits, seed), learning_rate, temperature)
        self.items = KeyIndex(items)
        self._columns = TowerColumns()

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Take note of where attributes are found."""
        self._columns.catalogues = catalogues

    def users(self, requests: Requests) -> Floats:
        """Vectors of who asks, (B, dim), of unit length."""
        return self.towers.users(self._columns.users(requests))

    def vectors(self, items: Ids) -> Floats:
        """Vectors of items, (n, dim), of unit length."""
        return self.towers.items(self._columns.items(items))

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """At most `k` items per request by cosine; of equal ones, the item in the lower slot first."""
        slots = np.sort(self.items.slots())
        keys = self.items.keys[slots]
        cosine = self.users(requests) @ self.vectors(keys).T
        place = np.full(self.items.capacity, -1)
        place[slots] = np.arange(slots.size)
        _bar(cosine, place, self.items.find(exclude.item), exclude.start)
        order = np.argsort(-cosine, axis=1, kind="stable")[:, : max(k, 0)]
        best = np.take_along_axis(cosine, order, axis=1)
        request, at = np.nonzero(best > -np.inf)
        return Candidates(keys[order[request, at]], request, best[request, at])

    def score(self, batch: Batch) -> Floats:
        """Return cosines, (N,) float32."""
        cosine: Floats = (self.users(batch)[batch.request] * self.vectors(batch.item)).sum(axis=1)
        return cosine

    def learn(self, feedback: Feedback) -> None:
        """Let the towers learn from the batch, and the corpus know of its items."""
        if feedback.rows:
            self.towers.learn(feedback, self._columns)
            self.add(feedback.item)

    def add(self, items: Ids) -> None:
        """Let items be retrieved."""
        self.items.insert(self._columns.alive(items))

    def remove(self, items: Ids) -> None:
        """Let items be retrieved no more."""
        self.items.delete(items)

    def forget(self, users: Ids) -> None:
        """Drop what the towers keep of these users alone."""
        if users.size:
            self.towers.forget(self._columns.own(users))


@njit(cache=True, nogil=True)
def _bar(cosine: Floats, place: Ids, excluded: Ids, start: Ids) -> None:
    for b in range(start.size - 1):
        for slot in excluded[start[b] : start[b + 1]]:
            if slot >= 0:
                cosine[b, place[slot]] = -np.inf
