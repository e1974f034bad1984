"""Two-tower network: embeds users and items in one space and trains online. Retrievers use torch only through this module.

References
----------
X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019: the softmax over the
items of a batch (equation 3), its correction for sampling frequency (section 4.2), the online estimate of the frequency
(algorithm 2), and unit-length outputs with a temperature (section 5.1).
J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011:
the optimizer (diagonal AdaGrad).
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adagrad

from learners.bounds import bounded
from learners.networks.bags import bag_sums
from learners.networks.columns import TowerColumns
from memory.arrays import Arrays, Bools, Floats, Ids
from memory.parameters import Parameters
from memory.stateful import Stateful
from streams.batch import Feedback, Requests

__all__ = ["FrozenTowers", "TowerShape", "Towers"]

USER, ITEM = 0, 1

_GAP_LEARNING_RATE = 0.05
_INITIAL_ACCUMULATOR = 0.1
_SHORTEST = np.float32(1e-12)
"""Vectors are divided by their length, or by this if they are shorter; as torch does."""


class TowerShape(NamedTuple):
    """Size and initial weights of two towers.

    Attributes
    ----------
    dim : int
        Dimensions of a vector.
    hidden : int
        Units of each tower's hidden layer.
    bits : int
        Columns are hashed to 2**bits rows of weights.
    seed : int
        Seed of the initial weights.
    """

    dim: int
    hidden: int
    bits: int
    seed: int

    def initial_weights(self) -> dict[str, Floats]:
        """Initial weights: ``table`` (2**bits, dim) with a vector per column, and hidden layers whose output is 0."""
        table = np.random.default_rng(self.seed).normal(0.0, 0.1, (1 << self.bits, self.dim))
        into = np.random.default_rng(self.seed + 1).normal(0.0, self.dim**-0.5, (2, self.hidden, self.dim))
        weights = {"table": table, "into": into, "bias": np.zeros((2, self.hidden)), "out": np.zeros_like(into)}
        return {name: weight.astype(np.float32) for name, weight in weights.items()}


class _Module(torch.nn.Module):
    """Computes x + out . relu(into . x + bias), normalized. x is the weighted sum of the column vectors."""

    table: Tensor
    into: Tensor
    bias: Tensor
    out: Tensor

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self._mask = (1 << shape.bits) - 1
        for name, weight in shape.initial_weights().items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(weight)))

    def forward(self, side: int, columns: tuple[Ids, Floats]) -> Tensor:
        """Compute the vectors (n, dim) of users or items from their columns."""
        keys, values = (torch.from_numpy(part) for part in columns)
        x = functional.embedding_bag(keys & self._mask, self.table, per_sample_weights=values, mode="sum", sparse=True)
        hidden = functional.linear(x, self.into[side], self.bias[side]).relu()
        return functional.normalize(x + functional.linear(hidden, self.out[side].T))


class _Network(Stateful):
    """A module and its inference."""

    state_version: ClassVar[int | str] = 3
    """1 had its own optimizer; 2 computed vectors in torch, with other last digits."""

    def __init__(self, shape: TowerShape, learning_rate: float | None = None) -> None:
        def optimize(module: _Module) -> Adagrad:
            return Adagrad(module.parameters(), lr=learning_rate or 0.0, initial_accumulator_value=_INITIAL_ACCUMULATOR)

        self._mask = (1 << shape.bits) - 1
        self.weights = Parameters(lambda: _Module(shape), None if learning_rate is None else optimize, tables=["table"])
        module = self.weights.module
        # The live weights as numpy sees them.
        self._table, self._into, self._bias, self._out = (
            weight.detach().numpy() for weight in (module.table, module.into, module.bias, module.out)
        )

    def users(self, columns: tuple[Ids, Floats]) -> Floats:
        """Compute vectors of users (B, dim) from their columns."""
        return self._vectors(USER, columns)

    def items(self, columns: tuple[Ids, Floats]) -> Floats:
        """Compute vectors of items (n, dim) from their columns."""
        return self._vectors(ITEM, columns)

    def _vectors(self, side: int, columns: tuple[Ids, Floats]) -> Floats:
        # As `_Module` does. torch takes a tenth of a millisecond for a request of one row, most of it before it computes.
        x = bag_sums(*columns, self._mask, self._table)
        hidden = np.maximum(x @ self._into[side].T + self._bias[side], 0.0)
        x += hidden @ self._out[side]
        x /= np.maximum(np.sqrt(np.einsum("nd,nd->n", x, x)), _SHORTEST)[:, None]
        return x


class FrozenTowers(_Network):
    """A copy of the towers that does not change while they learn."""

    def freeze(self, towers: Towers) -> None:
        """Copy the current weights of the towers."""
        self.weights.assign(towers.weights)


class Towers(_Network):
    """Towers that learn. Vectors depend on ``weights`` only; the other state is read by learning alone.

    Parameters
    ----------
    shape : TowerShape
    learning_rate : float
        Learning rate of AdaGrad.
    temperature : float
        Cosines are divided by it.
    """

    private: ClassVar[frozenset[str]] = frozenset({"gaps", "clock"})

    def __init__(self, shape: TowerShape, learning_rate: float, temperature: float) -> None:
        super().__init__(shape, learning_rate)
        self._temperature = temperature
        size = 1 << shape.bits
        # By hash of the item: number of the last batch with it, and mean number of batches between its occurrences.
        self.gaps = Arrays(last=np.zeros(size, np.int64), gap=np.zeros(size, np.float32))
        self.clock = Arrays(step=np.zeros(1, np.int64))

    def learn(self, feedback: Feedback, columns: TowerColumns) -> tuple[Ids, Floats]:
        """Train on the rows with a positive reward, with all other items of the batch as negatives.

        Returns
        -------
        (keys, values)
            Columns of the distinct users of the batch.
        """
        item, item_of_row = np.unique(feedback.item, return_inverse=True)
        user, request_of_user, user_of_request = np.unique(feedback.user, return_index=True, return_inverse=True)
        users = columns.users(Requests(**feedback.columns(request_of_user)))
        positive = np.flatnonzero((feedback.reward > 0) & (feedback.weight > 0))
        if positive.size:
            pairs = user_of_request[feedback.request[positive]], item_of_row[positive]
            liked: Bools = np.zeros((user.size, item.size), np.bool_)
            liked[pairs] = True
            self.step(users, columns.items(item), liked, pairs, feedback.weight[positive])
        return users

    def step(
        self, users: tuple[Ids, Floats], items: tuple[Ids, Floats], liked: Bools, pairs: tuple[Ids, Ids], weight: Floats
    ) -> None:
        """Do one optimizer step on a batch, if it has at least two items.

        Parameters
        ----------
        users, items : (keys, values)
            Columns of the distinct users (B, W) and items (n, V) of the batch.
        liked : (B, n) bool
            Items of the batch that each user liked. They are not used as negatives of that user.
        pairs : (P,) and (P,) int64
            User and item of each positive row.
        weight : (P,) float32
            Sample weight of each positive row.
        """
        probability = self._batch_probability(items[0][:, 0] & self._mask)
        if probability.size < 2:
            return
        user, item = (torch.from_numpy(part) for part in pairs)
        user_vectors, item_vectors = self.weights.module(USER, users), self.weights.module(ITEM, items)
        logits = user_vectors[user] @ item_vectors.T / self._temperature - torch.from_numpy(np.log(probability))
        masked = torch.from_numpy(liked)[user]
        masked[torch.arange(item.numel()), item] = False
        loss = functional.cross_entropy(logits.masked_fill(masked, -torch.inf), item, reduction="none")
        weight = bounded(weight)
        weights = torch.from_numpy(weight / weight.max())  # only ratios matter; tiny weights could underflow
        self.weights.step((loss * weights).sum() / weights.sum())

    def forget(self, keys: Ids) -> None:
        """Reset the weights of these columns, as if nothing had been learned about them."""
        self.weights.reset("table", np.unique(keys & self._mask))

    def _batch_probability(self, rows: Ids) -> Floats:
        """Update and return the probability that a batch has each item: 1 / mean gap between its batches."""
        self.clock["step"][0] += 1
        self.clock.mark()
        now, last, gap = int(self.clock["step"][0]), self.gaps["last"], self.gaps["gap"]
        since = (now - last[rows]).astype(np.float32)
        gap[rows] = np.where(last[rows] > 0, (1 - _GAP_LEARNING_RATE) * gap[rows] + _GAP_LEARNING_RATE * since, now)
        last[rows] = now
        self.gaps.mark(rows)
        probability: Floats = 1.0 / np.maximum(gap[rows], 1.0)
        return probability
