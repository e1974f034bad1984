"""Who and what, and nothing in between: a bias for each user and each item, the baseline that everything else must beat.

References
----------
Y. Koren, R. Bell, C. Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 42 (2009): the baseline
(equation 3), here on log-odds.
J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011:
the step of each bias (diagonal AdaGrad).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Ranker, WeightDelta
from learners.bounds import bounded
from learners.registry import register
from memory.arrays import Arrays
from memory.jit import njit
from memory.keyed.table import Column, Table
from streams.batch import Batch, Feedback, Floats, Ids

__all__ = ["Bias"]


@register("bias")
class Bias(Ranker):
    """Log-odds = everybody's bias + the user's + the item's, learned one row at a time.

    An unknown user or item counts 0. Results do not depend on how the stream was cut into batches.

    Parameters
    ----------
    users, items : int
        Users and items remembered; the longest untouched gives way. Memory is about 40 bytes each.
    learning_rate : float
        Step size. The default suits `adaptive` (best of 0.1 to 0.8 on MovieLens 100K and on a stream of clicks with a
        shift); without it try 0.1.
    adaptive : bool
        True: AdaGrad, the steps shrink with the gradients seen. False: constant steps, which recover sooner after a shift.
    initial_accumulator : float
        AdaGrad's sum of squared gradients before the first row: larger is more careful with rare users and items.
    l2 : float
        Pull of the users' and items' biases towards 0, at each of their rows.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {"users": 16, "items": 20}

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

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``batch.score`` with the probability of a positive reward."""
        user, item = self.users.find(batch.user), self.items.find(batch.item)
        _score(user, item, batch.request, self.everybody["bias"], self.users["bias"], self.items["bias"], batch.score)

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows in order; the label is the reward clipped to [0, 1]."""
        # No more rows at a time than a table has room for: then no row's bias gives way before the row was learned.
        most = min(self.users.capacity, self.items.capacity)
        user, weight = feedback.user[feedback.request], bounded(feedback.weight)
        for start in range(0, feedback.rows, most):
            part = slice(start, start + most)
            _learn(
                self.users.insert(user[part]),
                self.items.insert(feedback.item[part]),
                feedback.reward[part],
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
        """Drop the biases of these users."""
        self.users.delete(users)

    def remove(self, items: Ids) -> None:
        """Drop the biases of these items."""
        self.items.delete(items)


@njit(cache=True, nogil=True)
def _probability(odds: float) -> float:
    return float(1.0 / (1.0 + np.exp(-odds)))


@njit(cache=True, nogil=True)
def _score(user: Ids, item: Ids, request: Ids, everybody: Floats, users: Floats, items: Floats, score: Floats) -> None:
    for n in range(item.size):
        odds = float(everybody[0])
        if user[request[n]] >= 0:
            odds += users[user[request[n]]]
        if item[n] >= 0:
            odds += items[item[n]]
        score[n] = _probability(odds)


@njit(cache=True, nogil=True)
def _step(bias: Floats, squares: Floats, at: int, slope: float, learning_rate: float, adaptive: bool) -> None:
    if adaptive:
        squares[at] += slope * slope
        learning_rate /= np.sqrt(squares[at])
    bias[at] -= learning_rate * slope


@njit(cache=True, nogil=True)
def _learn(
    user: Ids,
    item: Ids,
    reward: Floats,
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
        # Id 0 is nobody: there is no bias to learn.
        u = users[user[n]] if user[n] >= 0 else np.float32(0)
        i = items[item[n]] if item[n] >= 0 else np.float32(0)
        label = min(max(float(reward[n]), 0.0), 1.0)
        slope = (_probability(everybody[0] + u + i) - label) * weight[n]
        _step(everybody, everybody_squares, 0, slope, learning_rate, adaptive)
        if user[n] >= 0:
            _step(users, users_squares, user[n], slope + l2 * u, learning_rate, adaptive)
        if item[n] >= 0:
            _step(items, items_squares, item[n], slope + l2 * i, learning_rate, adaptive)
