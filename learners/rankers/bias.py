"""Baseline ranker with a bias for each user and each item, and no interaction between them.

References
----------
Y. Koren, R. Bell, C. Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 42 (2009): the baseline
(equation 3), here on log-odds.
J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011:
the update of each bias (diagonal AdaGrad).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Ranker, WeightDelta
from learners.bounds import graded
from learners.kernels.logistic import probability, step
from learners.registry import register
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from memory.jit import njit
from memory.keyed.table import Column, Table
from streams.batch import Batch, Feedback, Floats, Ids

__all__ = ["Bias"]


@register("bias")
class Bias(Ranker):
    """Computes log-odds = global bias + user bias + item bias. Learns one row at a time.

    Unknown users and items have bias 0. Results do not depend on the micro-batch size.

    Parameters
    ----------
    users, items : int
        Maximum number of users and items. The least recently updated one is evicted. Memory is about 40 bytes each.
    learning_rate : float
        Learning rate. The default suits `adaptive`: it was the best of 0.1 to 0.8 on MovieLens 100K and on a stream of clicks
        with a shift. Without `adaptive`, try 0.1.
    adaptive : bool
        True: AdaGrad, whose steps shrink with the gradients seen. False: constant steps, which recover faster after a shift.
    initial_accumulator : float
        AdaGrad's initial sum of squared gradients. A larger value makes smaller first steps for rare users and items.
    l2 : float
        L2 regularisation of the user and item biases, applied at each of their rows.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {"users": 16, "items": 20}
    state_version: ClassVar[int | str] = 2
    """Version 1 clipped rewards."""
    tunable: ClassVar[Tunable] = {
        "learning_rate": Scale(0.05, 5.0, log=True),
        "initial_accumulator": Scale(0.01, 10.0, log=True),
        "l2": Scale(0.001, 1.0, log=True),
    }

    def __init__(
        self,
        users: Annotated[int, Field(gt=0)] = 100_000,
        items: Annotated[int, Field(gt=0)] = 100_000,
        learning_rate: Annotated[float, Field(gt=0)] = 0.5,
        adaptive: bool = True,
        initial_accumulator: Annotated[float, Field(gt=0)] = 1.0,
        l2: Annotated[float, Field(ge=0)] = 0.01,
    ) -> None:
        self.learning_rate, self.adaptive, self.l2 = learning_rate, adaptive, l2
        self.everybody = Arrays(
            bias=np.zeros(1, np.float32), squares=np.full(1, initial_accumulator, np.float32), private=["squares"]
        )
        columns = {"bias": Column(None), "squares": Column(None, fill=initial_accumulator, private=True)}
        self.users = Table(users, **columns)
        self.items = Table(items, **columns)
        self._capped = 0

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``batch.score`` with the probability of a positive reward, whose odds grow with rewards above 1."""
        user, item = self.users.find(batch.user), self.items.find(batch.item)
        _score(user, item, batch.request, self.everybody["bias"], self.users["bias"], self.items["bias"], batch.score)

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows in order, with the labels and weights of `learners.bounds.graded`."""
        # At most `capacity` rows at a time, so that no user or item of these rows is evicted before it is learned.
        most = min(self.users.capacity, self.items.capacity)
        user, (label, weight, capped) = feedback.user[feedback.request], graded(feedback.reward, feedback.weight)
        self._capped += capped
        for start in range(0, feedback.rows, most):
            part = slice(start, start + most)
            _learn(
                self.users.insert(user[part]),
                self.items.insert(feedback.item[part]),
                label[part],
                weight[part],
                self.everybody["bias"],
                self.everybody["squares"],
                self.users["bias"],
                self.users["squares"],
                self.items["bias"],
                self.items["squares"],
                self.learning_rate,
                self.adaptive,
                self.l2,
            )
            self.everybody.mark()

    def forget(self, users: Ids) -> None:
        """Delete the biases of these users."""
        self.users.delete(users)

    def remove(self, items: Ids) -> None:
        """Delete the biases of these items."""
        self.items.delete(items)

    def metrics(self) -> Mapping[str, float]:
        """Return ``capped``, the rows whose weight was limited; see `learners.bounds.graded`."""
        return {"capped": float(self._capped)}


@njit(cache=True, nogil=True)
def _score(user: Ids, item: Ids, request: Ids, everybody: Floats, users: Floats, items: Floats, score: Floats) -> None:
    for n in range(item.size):
        odds = float(everybody[0])
        if user[request[n]] >= 0:
            odds += users[user[request[n]]]
        if item[n] >= 0:
            odds += items[item[n]]
        score[n] = probability(odds)


@njit(cache=True, nogil=True)
def _learn(
    user: Ids,
    item: Ids,
    label: Floats,
    weight: Floats,
    everybody: Floats,
    everybody_squares: Floats,
    users: Floats,
    users_squares: Floats,
    items: Floats,
    items_squares: Floats,
    learning_rate: float,
    adaptive: bool,
    l2: float,
) -> None:
    for n in range(item.size):
        # Id 0 means no user or no item, so there is no bias to learn.
        u = users[user[n]] if user[n] >= 0 else np.float32(0)
        i = items[item[n]] if item[n] >= 0 else np.float32(0)
        slope = (probability(everybody[0] + u + i) - label[n]) * weight[n]
        step(everybody, everybody_squares, 0, slope, learning_rate, adaptive)
        if user[n] >= 0:
            step(users, users_squares, user[n], slope + l2 * u, learning_rate, adaptive)
        if item[n] >= 0:
            step(items, items_squares, item[n], slope + l2 * i, learning_rate, adaptive)
