"""Ranks by what a user liked last, in its order: the logit of the retriever `next_item` as a probability.

References
----------
W.-C. Kang, J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.
Y. Koren, R. Bell, C. Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 42 (2009): biases of
users and items (equation 3), here on log-odds.
J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011:
the update (diagonal AdaGrad).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Ranker, Retriever, WeightDelta
from learners.bounds import bounded, graded
from learners.delta import Shapes
from learners.kernels.logistic import probability, step
from learners.networks.sequence import scoring
from learners.networks.sequence.model import SequenceModel
from learners.registry import register
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from memory.jit import njit
from memory.keyed.table import Column, Table
from memory.stateful import Stateful
from streams.batch import Batch, Feedback, Floats, Ids

__all__ = ["Sequential"]

_SLOPE = 0.5
"""With which the ranker begins. A logit says by how much an item is likelier than another to be liked next."""


@register("sequential")
class Sequential(Ranker):
    """Computes log-odds = bias + bias of the user + bias of the item + slope * logit.

    The logit is that of the ``next_item`` retriever, whose model this ranker uses: the retriever learns it and saves it. The
    biases and the slope are learned here, row by row, from what was predicted.

    ``hidden`` is the user's state beside the item's vector.

    Parameters
    ----------
    retriever : Retriever
        The bound retriever ``next_item``. The pipeline passes it; it is not a config key.
    users, items : int
        Maximum number of users and items with a bias. The least recently updated one is evicted.
    learning_rate : float
        Of AdaGrad.
    l2 : float
        L2 regularisation of the user and item biases, applied at each of their rows.

    References
    ----------
    See the module.
    """

    needs_retriever: ClassVar[str] = "next_item"
    checks_parameters: ClassVar[dict[str, object]] = {"users": 16, "items": 20}
    tunable: ClassVar[Tunable] = {
        "learning_rate": Scale(0.05, 5.0, log=True),
        "l2": Scale(0.001, 1.0, log=True),
    }

    def __init__(
        self,
        retriever: Retriever,
        users: Annotated[int, Field(gt=0)] = 100_000,
        items: Annotated[int, Field(gt=0)] = 100_000,
        learning_rate: Annotated[float, Field(gt=0)] = 0.5,
        l2: Annotated[float, Field(ge=0)] = 0.01,
    ) -> None:
        model = getattr(retriever, "model", None)
        if not isinstance(model, SequenceModel):
            raise ValueError(f"retriever: {retriever.name or type(retriever).__name__}, which has no sequence model")
        self.model = model
        self.hidden_width = 2 * model.settings.shape.width
        self._learning_rate, self._l2 = learning_rate, l2
        self.everybody = Arrays(
            weight=np.array([[0, _SLOPE]], np.float32), squares=np.ones((1, 2), np.float32), private=["squares"]
        )
        columns = {"bias": Column(None), "squares": Column(None, fill=1.0, private=True)}
        self.users, self.items = Table(users, **columns), Table(items, **columns)
        self._capped = 0

    def children(self) -> Iterator[tuple[str, Stateful]]:
        """Yield the attributes that hold state, except the model, which the retriever saves."""
        return ((name, child) for name, child in super().children() if child is not self.model)

    def adaptable(self) -> Shapes:
        """Shapes of `norms` and `targets`."""
        return scoring.adaptable(self.model)

    def norms(self) -> list[str]:
        """Scales and shifts of the layer normalisations, without the last one."""
        return scoring.norms(self.model)

    def targets(self) -> list[str]:
        """Matrices that a `LowRank` may change: those on the output side of the feed-forward layers."""
        return scoring.targets(self.model)

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``score``, the probability of a positive reward (see `learners.bounds.graded`), and ``hidden``."""
        logit, batch.hidden = scoring.scored(self.model, batch, delta)
        user, item = self.users.find(batch.user), self.items.find(batch.item)
        weights = self.everybody["weight"][0]
        _score(user, item, batch.request, bounded(logit), weights, self.users["bias"], self.items["bias"], batch.score)

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows in order, with the labels and weights of `learners.bounds.graded`."""
        if not feedback.rows:
            return
        hidden = feedback.hidden
        if hidden is None:
            hidden = scoring.scored(self.model, feedback, None)[1]
        logit = bounded(scoring.logits_from(hidden, self.model, feedback).astype(np.float32))
        # At most `capacity` rows at a time, so that no user or item of these rows is evicted before it is learned.
        most = min(self.users.capacity, self.items.capacity)
        user, (label, weight, capped) = feedback.user[feedback.request], graded(feedback.reward, feedback.weight)
        self._capped += capped
        for start in range(0, feedback.rows, most):
            part = slice(start, start + most)
            _learn(
                self.users.insert(user[part]),
                self.items.insert(feedback.item[part]),
                logit[part],
                label[part],
                weight[part],
                (self.everybody["weight"][0], self.everybody["squares"][0]),
                (self.users["bias"], self.users["squares"]),
                (self.items["bias"], self.items["squares"]),
                self._learning_rate,
                self._l2,
            )
        self.everybody.mark()

    def forget(self, users: Ids) -> None:
        """Delete the biases of these users."""
        self.users.delete(users)

    def remove(self, items: Ids) -> None:
        """Delete the biases of these items."""
        self.items.delete(items)

    def metrics(self) -> Mapping[str, float]:
        """Return ``slope``, and ``capped``, the rows whose weight was limited; see `learners.bounds.graded`."""
        return {"slope": float(self.everybody["weight"][0, 1]), "capped": float(self._capped)}


_Learned = tuple[Floats, Floats]  # values and AdaGrad's sums of squares


@njit(cache=True, nogil=True)
def _score(
    user: Ids, item: Ids, request: Ids, logit: Floats, weights: Floats, users: Floats, items: Floats, score: Floats
) -> None:
    for n in range(item.size):
        odds = float(weights[0] + weights[1] * logit[n])
        if user[request[n]] >= 0:
            odds += users[user[request[n]]]
        if item[n] >= 0:
            odds += items[item[n]]
        score[n] = probability(odds)


@njit(cache=True, nogil=True)
def _learn(
    user: Ids,
    item: Ids,
    logit: Floats,
    label: Floats,
    weight: Floats,
    everybody: _Learned,
    users: _Learned,
    items: _Learned,
    learning_rate: float,
    l2: float,
) -> None:
    for n in range(item.size):
        u = users[0][user[n]] if user[n] >= 0 else np.float32(0)
        i = items[0][item[n]] if item[n] >= 0 else np.float32(0)
        odds = everybody[0][0] + everybody[0][1] * logit[n] + u + i
        slope = (probability(odds) - label[n]) * weight[n]
        step(*everybody, 0, slope, learning_rate, True)
        step(*everybody, 1, slope * logit[n], 0.2 * learning_rate, True)
        if user[n] >= 0:
            step(*users, user[n], slope + l2 * u, learning_rate, True)
        if item[n] >= 0:
            step(*items, item[n], slope + l2 * i, learning_rate, True)
