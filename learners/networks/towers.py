"""Two towers: users and items as vectors in one space, trained on the stream. The one door to torch for retrievers.

References
----------
X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019: the softmax over the
items of a batch (equation 3), corrected for how often each is sampled (section 4.2), which is estimated on the stream
(algorithm 2), unit-length outputs and the temperature (section 5.1).
J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011:
the steps (diagonal AdaGrad).
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adagrad

from learners.bounds import bounded
from learners.networks.columns import TowerColumns
from memory.arrays import Arrays, Bools, Floats, Ids
from memory.parameters import Parameters
from memory.stateful import Stateful
from streams.batch import Feedback, Requests

__all__ = ["FrozenTowers", "TowerShape", "Towers"]

USER, ITEM = 0, 1

_GAP_STEP = 0.05
_ACCUMULATOR = 0.1


class TowerShape(NamedTuple):
    """Size and beginnings of two towers.

    Attributes
    ----------
    dim : int
        Numbers in a vector.
    hidden : int
        Units of each tower's hidden layer.
    bits : int
        Columns share 2**bits rows of weights by their hash.
    seed : int
        Of the first weights.
    """

    dim: int
    hidden: int
    bits: int
    seed: int

    def first(self) -> dict[str, Floats]:
        """First weights: ``table`` (2**bits, dim), a vector for each column, and hidden layers that add nothing yet."""
        table = np.random.default_rng(self.seed).normal(0.0, 0.1, (1 << self.bits, self.dim))
        into = np.random.default_rng(self.seed + 1).normal(0.0, self.dim**-0.5, (2, self.hidden, self.dim))
        weights = {"table": table, "into": into, "bias": np.zeros((2, self.hidden)), "out": np.zeros_like(into)}
        return {name: weight.astype(np.float32) for name, weight in weights.items()}


class _Module(torch.nn.Module):
    """Vectors x + out . relu(into . x + bias) of unit length, x a weighted sum of columns."""

    table: Tensor
    into: Tensor
    bias: Tensor
    out: Tensor

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self._mask = (1 << shape.bits) - 1
        for name, weight in shape.first().items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(weight)))

    def forward(self, side: int, columns: tuple[Ids, Floats]) -> Tensor:
        """Vectors of one side, (n, dim), from the columns of each."""
        keys, values = (torch.from_numpy(part) for part in columns)
        x = functional.embedding_bag(keys & self._mask, self.table, per_sample_weights=values, mode="sum", sparse=True)
        hidden = functional.linear(x, self.into[side], self.bias[side]).relu()
        return functional.normalize(x + functional.linear(hidden, self.out[side].T))


class _Network(Stateful):
    """A module, and the vectors that it gives."""

    state_version: ClassVar[int | str] = 2
    """1 had an optimizer of its own."""

    def __init__(self, shape: TowerShape, step: float | None = None) -> None:
        def optimize(module: _Module) -> Adagrad:
            return Adagrad(module.parameters(), lr=step or 0.0, initial_accumulator_value=_ACCUMULATOR)

        self._mask = (1 << shape.bits) - 1
        self.weights = Parameters(lambda: _Module(shape), None if step is None else optimize, tables=["table"])

    def users(self, columns: tuple[Ids, Floats]) -> Floats:
        """Vectors of users, (B, dim), from their columns."""
        return self._vectors(USER, columns)

    def items(self, columns: tuple[Ids, Floats]) -> Floats:
        """Vectors of items, (n, dim), from their columns."""
        return self._vectors(ITEM, columns)

    def _vectors(self, side: int, columns: tuple[Ids, Floats]) -> Floats:
        with torch.no_grad():
            vectors: Floats = self.weights.module(side, columns).numpy()
        return vectors


class FrozenTowers(_Network):
    """A copy that stays as it is while the towers go on learning."""

    def freeze(self, towers: Towers) -> None:
        """Become what the towers are now."""
        self.weights.assign(towers.weights)


class Towers(_Network):
    """Towers that learn. Their vectors are made from ``weights``; the rest of their state only learning reads.

    Parameters
    ----------
    shape : TowerShape
    step : float
        Step size of AdaGrad.
    temperature : float
        What cosines are divided by.
    """

    private: ClassVar[frozenset[str]] = frozenset({"gaps", "clock"})

    def __init__(self, shape: TowerShape, step: float, temperature: float) -> None:
        super().__init__(shape, step)
        self._temperature = temperature
        size = 1 << shape.bits
        # When an item was last in a batch, and how many batches lie between, by its hash.
        self.gaps = Arrays(last=np.zeros(size, np.int64), gap=np.zeros(size, np.float32))
        self.clock = Arrays(step=np.zeros(1, np.int64))

    def learn(self, feedback: Feedback, columns: TowerColumns) -> tuple[Ids, Floats]:
        """One step on the rows with a positive reward, against all other items of the batch.

        Returns
        -------
        (keys, values)
            Columns of the different users of the batch.
        """
        item, what = np.unique(feedback.item, return_inverse=True)
        user, one, who = np.unique(feedback.user, return_index=True, return_inverse=True)
        users = columns.users(Requests(**feedback.columns(one)))
        positive = np.flatnonzero((feedback.reward > 0) & (feedback.weight > 0))
        if positive.size:
            of = who[feedback.request[positive]], what[positive]
            liked: Bools = np.zeros((user.size, item.size), np.bool_)
            liked[of] = True
            self.step(users, columns.items(item), liked, of, feedback.weight[positive])
        return users

    def step(
        self, users: tuple[Ids, Floats], items: tuple[Ids, Floats], liked: Bools, of: tuple[Ids, Ids], share: Floats
    ) -> None:
        """One step on a batch, if there was something else in it to like.

        Parameters
        ----------
        users, items : (keys, values)
            Columns of the different users (B, W) and of the different items (n, V) of the batch.
        liked : (B, n) bool
            What each user liked of the batch: none of it counts as an alternative to the rest of it.
        of : (P,) and (P,) int64
            User and item of each positive row.
        share : (P,) float32
            Importance of each.
        """
        chance = self._chance(items[0][:, 0] & self._mask)
        if chance.size < 2:
            return
        who, what = (torch.from_numpy(part) for part in of)
        of_users, of_items = self.weights.module(USER, users), self.weights.module(ITEM, items)
        scores = of_users[who] @ of_items.T / self._temperature - torch.from_numpy(np.log(chance))
        others = torch.from_numpy(liked)[who]
        others[torch.arange(what.numel()), what] = False
        loss = functional.cross_entropy(scores.masked_fill(others, -torch.inf), what, reduction="none")
        share = bounded(share)
        weights = torch.from_numpy(share / share.max())  # their size makes no difference, and might be as small as it gets
        self.weights.step((loss * weights).sum() / weights.sum())

    def forget(self, keys: Ids) -> None:
        """Let the rows of these columns be as if nothing had been learned of them."""
        self.weights.reset("table", np.unique(keys & self._mask))

    def _chance(self, rows: Ids) -> Floats:
        """Probability of each item to be in a batch, as of now: one by the mean gap between the batches that have it."""
        self.clock["step"][0] += 1
        self.clock.mark()
        now, last, gap = int(self.clock["step"][0]), self.gaps["last"], self.gaps["gap"]
        since = (now - last[rows]).astype(np.float32)
        gap[rows] = np.where(last[rows] > 0, (1 - _GAP_STEP) * gap[rows] + _GAP_STEP * since, now)
        last[rows] = now
        self.gaps.mark(rows)
        chance: Floats = 1.0 / np.maximum(gap[rows], 1.0)
        return chance
