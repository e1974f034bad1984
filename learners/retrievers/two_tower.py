"""Two-tower retriever: items whose vectors are most similar to the user's.

References
----------
X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Candidates, Exclusion, Retriever
from learners.kernels.exhaustive import best_items
from learners.lookups import Catalogues, UserHistory
from learners.networks.columns import TowerColumns
from learners.networks.towers import Towers, TowerShape
from learners.registry import register
from learners.schema import Schema
from learners.tunable import Scale, Tunable
from memory.keyed.key_index import KeyIndex
from streams.batch import Batch, Feedback, Floats, Ids, Requests

__all__ = ["TwoTower"]


@register("two_tower")
class TwoTower(Retriever):
    """Scores items by cosine similarity, with vectors from two towers that learn online; see `learners.networks.towers`.

    The user tower reads the user's id and attributes, the context and the items liked last. The item tower reads the item's id
    and attributes, so a new item can be retrieved at once. The search is exhaustive, with current vectors.

    Parameters
    ----------
    items : int
        Maximum number of items to retrieve from. The least recently updated one is evicted.
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
    seed : int
        Seed of the initial weights.

    References
    ----------
    See the module.
    """

    state_version: ClassVar[int | str] = 2
    """1 had towers with an optimizer of their own."""
    checks_parameters: ClassVar[dict[str, object]] = {"items": 24, "dim": 8, "hidden": 4, "bits": 8}
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
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.towers = Towers(TowerShape(dim, hidden, bits, seed), learning_rate, temperature)
        self.items = KeyIndex(items)
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
        slots = np.sort(self.items.slots())
        keys = self.items.keys[slots]
        cosine = self.users(requests) @ self.vectors(keys).T
        slot, request, score = best_items(cosine, slots, k, self.items.find(exclude.item), exclude.start)
        return Candidates(self.items.keys[slot], request, score)

    def score(self, batch: Batch) -> Floats:
        """Return cosine similarities, (N,) float32."""
        cosine: Floats = (self.users(batch)[batch.request] * self.vectors(batch.item)).sum(axis=1)
        return cosine

    def learn(self, feedback: Feedback) -> None:
        """Train the towers on the batch, and add its items to the corpus."""
        if feedback.rows:
            self.towers.learn(feedback, self._columns)
            self.add(feedback.item)

    def add(self, items: Ids) -> None:
        """Add items to the corpus."""
        self.items.insert(self._columns.alive(items))

    def remove(self, items: Ids) -> None:
        """Remove items from the corpus."""
        self.items.delete(items)

    def forget(self, users: Ids) -> None:
        """Delete the embeddings that belong to these users only."""
        if users.size:
            self.towers.forget(self._columns.own(users))
