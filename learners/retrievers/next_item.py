"""Retrieves what a user will like next, from the order and the times of what the user liked last.

References
----------
W.-C. Kang, J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Candidates, Exclusion, Retriever
from learners.kernels.exhaustive import best_items
from learners.kernels.nearest import in_order, nearest_items
from learners.networks.sequence.model import SequenceModel, SequenceSettings
from learners.networks.sequence.transformer import SequenceShape
from learners.registry import register
from learners.schema import EvidenceColumn
from learners.tunable import Options, Scale, Tunable
from memory.vectors.vector_index import VectorIndex
from streams.batch import Batch, Feedback, Floats, Ids, Requests

__all__ = ["NextItem"]

_GAPS = 28
"""Rows of the table of times between events. The last one is of 4 years and more."""

_NEIGHBOURS = 100
"""Recall is estimated for this many items."""


@register("next_item")
class NextItem(Retriever):
    """Scores items by a causal transformer over a user's last likes; see `learners.networks.sequence.model`.

    A like is a positive reward. A user's likes are counted in chunks. The score of an item is its logit after the chunk of the
    last like, up to it, and the chunk before: `chunk` to 2 * `chunk` likes. The events are those that serving saw: the newest
    one of the request's history, and what is stored before it. The score of an item that nobody has liked is 0.

    Every `every` likes it makes one step of Adam on `batch` sequences: the softmax cross-entropy of the next item, after each
    event of `chunks` chunks. Half of the sequences are of users of the newest likes, half of any users, each ending with the
    last like or, half of the time, before. More steps make it remember users instead of what they have in common.

    With up to `exhaustive` items, a request is compared with all. With more, copies of the items' vectors are kept in lists, by
    nearness to centroids, and a request is compared with the `probes` lists nearest to it.

    The defaults were chosen on MovieLens 100K in time order.

    Parameters
    ----------
    items : int
        Maximum number of items. The least recently liked one is evicted. With more than `exhaustive`, the copies take
        8 * (width + 1) bytes an item.
    users : int
        Maximum number of users whose likes are stored. The one with the oldest last like is evicted.
    length : int
        Likes stored of each user: 20 bytes each.
    width, heads, layers : int
        Size of the transformer. `width` is a multiple of `heads`. Its feed-forward layers have 4 * `width` units.
    chunk : int
        Likes of a chunk.
    every, batch, chunks : int
        See above.
    learning_rate : float
        Learning rate of Adam.
    warm_up : int
        Steps in which the learning rate grows from 0.
    dropout : float
        Share of the numbers that a step sets to 0.
    exact : int
        Largest number of items for which the softmax of a step is over all items. With more, it is over the targets and `drawn`
        items, drawn in proportion to their likes to the power of .75, with the correction for it.
    drawn : int
        See `exact`.
    exhaustive : int
        Largest `items` for which a request is compared with all items. This takes about 0.1 microseconds an item.
    probes : int
        Lists that a request is compared with, of two times the square root of `items`. More find more of the best items, and
        take longer. See docs/scaling.md.
    seed : int
        Seed of the initial weights and of all draws.

    References
    ----------
    See the module, and those of `learners.networks.sequence.transformer` and `learners.networks.sequence.candidates`.
    """

    checks_parameters: ClassVar[dict[str, object]] = {
        "items": 32,
        "users": 32,
        "length": 12,
        "width": 8,
        "chunk": 2,
        "chunks": 2,
        "every": 16,
        "warm_up": 5,
        "learning_rate": 0.02,
        "dropout": 0.0,
    }
    rehearsals: ClassVar[tuple[dict[str, object], ...]] = (checks_parameters, checks_parameters | {"exhaustive": 0})
    tunable: ClassVar[Tunable] = {
        "width": Options((16, 32, 64)),
        "layers": Scale(1, 4),
        "learning_rate": Scale(1e-4, 0.01, log=True),
        "dropout": Scale(0.0, 0.5),
    }

    def __init__(
        self,
        items: Annotated[int, Field(gt=0, le=2**22)] = 20_000,
        users: Annotated[int, Field(gt=0)] = 10_000,
        length: Annotated[int, Field(ge=2)] = 256,
        width: Annotated[int, Field(gt=0)] = 32,
        heads: Annotated[int, Field(gt=0)] = 2,
        layers: Annotated[int, Field(gt=0)] = 2,
        chunk: Annotated[int, Field(gt=0)] = 8,
        every: Annotated[int, Field(gt=0)] = 32,
        batch: Annotated[int, Field(ge=2)] = 16,
        chunks: Annotated[int, Field(gt=0)] = 8,
        learning_rate: Annotated[float, Field(gt=0)] = 0.001,
        warm_up: Annotated[int, Field(gt=0)] = 100,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        exact: Annotated[int, Field(gt=0)] = 4096,
        drawn: Annotated[int, Field(gt=0)] = 1024,
        exhaustive: Annotated[int, Field(ge=0)] = 50_000,
        probes: Annotated[int, Field(gt=0)] = 512,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        if width % heads:
            raise ValueError(f"width: {width}, which is not a multiple of heads, {heads}; give {heads * -(-width // heads)}")
        if length < 3 * chunk:
            raise ValueError(f"length: {length}, less than three chunks of {chunk}; give {3 * chunk} or more")
        shape = SequenceShape(width, heads, layers, 4 * width, chunk, items, _GAPS, dropout)
        settings = SequenceSettings(shape, users, length, every, batch, chunks, learning_rate, warm_up, exact, drawn, seed)
        self.model = SequenceModel(settings)
        if items > exhaustive:
            # A row of the table is an item's vector and its bias: a query is a state and a one.
            self.index = VectorIndex(items, width + 1, similarity="inner_product", kind="ivf", probes=probes)
            self.model.changed = self._store

    def learn(self, feedback: Feedback) -> None:
        """Store the likes, and make the steps that are due."""
        self.model.learn(feedback)

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """Return at most `k` items per request, highest logit first. Ties are ordered by slot."""
        excluded = self.model.items.find(exclude.item)
        if self._index is None:
            slots, logits = self.model.every_logit(requests)
            slot, request, score = best_items(logits, slots, k, excluded, exclude.start)
        else:
            states = self.model.served(requests)
            queries = np.append(states, np.ones((len(states), 1), np.float32), axis=1)
            slot, request = nearest_items(self._index, queries, k, excluded, exclude.start)
            logits = (queries[request] * self._index.rows["vector"][slot]).sum(axis=1)
            slot, request, score = in_order(slot, request, logits, k)
        return Candidates(self.model.items.keys[slot], request, score)

    def score(self, batch: Batch) -> Floats:
        """Return logits, (N,) float32; 0 for items that nobody has liked."""
        return self.model.scores(batch)[0]

    @property
    def evidence_columns(self) -> tuple[EvidenceColumn, ...]:
        """The logit, and whether the item is known."""
        return EvidenceColumn("logit", 0.5, by_activity=True), EvidenceColumn("known")

    def evidence(self, batch: Batch) -> Floats:
        """Return logits, and whether somebody has liked the item, (N, 2) float32."""
        return np.stack(self.model.scores(batch), axis=1)

    def forget(self, users: Ids) -> None:
        """Delete the likes of these users. What was learned from them is in the weights of all, and stays."""
        self.model.forget(users)

    def remove(self, items: Ids) -> None:
        """Delete these items."""
        slots = self.model.remove(items)
        if self._index is not None:
            self._index.delete(slots)

    def metrics(self) -> Mapping[str, float]:
        """Return the recall of the search, estimated with stored vectors as queries, where not all items are compared."""
        return {} if self._index is None else {"recall": self._index.last_recall}

    @property
    def _index(self) -> VectorIndex | None:
        return getattr(self, "index", None)

    def _store(self, slots: Ids) -> None:
        """Store the current rows of slots (n,) in the index."""
        if slots.size:
            self.index.write(slots, self.model.rows(slots).detach().numpy())
        self.index.maintain(_NEIGHBOURS, slots.size)
