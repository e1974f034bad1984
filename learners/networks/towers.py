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

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from learners.bounds import bounded
from learners.networks.columns import TowerColumns
from memory.arrays import Arrays, Bools, Floats, Ids
from memory.stateful import Stateful
from streams.batch import Feedback, Requests

__all__ = ["FrozenTowers", "TowerShape", "Towers"]

# One request at a time is too little work to share out, and the other cores have work of their own.
torch.set_num_threads(1)

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

    def rows(self) -> dict[str, Floats]:
        """First vectors of the columns."""
        rng = np.random.default_rng(self.seed)
        return {"weight": rng.normal(0.0, 0.1, (1 << self.bits, self.dim)).astype(np.float32)}

    def layers(self) -> dict[str, Floats]:
        """First weights of the hidden layers, (2, hidden, dim): they add nothing yet."""
        rng = np.random.default_rng(self.seed + 1)
        into = rng.normal(0.0, self.dim**-0.5, (2, self.hidden, self.dim)).astype(np.float32)
        return {"into": into, "bias": np.zeros((2, self.hidden), np.float32), "out": np.zeros_like(into)}


class _Network(Stateful):
    """Weights, and the vectors that they give: x + out . relu(into . x + bias) of unit length, x a weighted sum of columns."""

    def __init__(self, shape: TowerShape) -> None:
        self._mask = (1 << shape.bits) - 1
        self.rows = Arrays.made_by(shape.rows)
        self.layers = Arrays(**shape.layers())
        self._table = torch.from_numpy(self.rows["weight"])
        self._layers = {name: torch.from_numpy(self.layers[name]) for name in self.layers}

    def users(self, columns: tuple[Ids, Floats]) -> Floats:
        """Vectors of users, (B, dim), from their columns."""
        return self._vectors(USER, columns)

    def items(self, columns: tuple[Ids, Floats]) -> Floats:
        """Vectors of items, (n, dim), from their columns."""
        return self._vectors(ITEM, columns)

    def _vectors(self, side: int, columns: tuple[Ids, Floats]) -> Floats:
        keys, values = columns
        with torch.no_grad():
            vectors: Floats = _forward(side, keys & self._mask, values, self._table, self._layers).numpy()
        return vectors


def _forward(side: int, rows: Ids, values: Floats, table: Tensor, layers: Mapping[str, Tensor]) -> Tensor:
    x = functional.embedding_bag(torch.from_numpy(rows), table, per_sample_weights=torch.from_numpy(values), mode="sum")
    into, bias, out = (layers[name][side] for name in ("into", "bias", "out"))
    return functional.normalize(x + functional.linear(functional.linear(x, into, bias).relu(), out.T))


class FrozenTowers(_Network):
    """A copy that stays as it is while the towers go on learning."""

    def freeze(self, towers: Towers) -> None:
        """Become what the towers are now."""
        moved = np.flatnonzero((self.rows["weight"] != towers.rows["weight"]).any(axis=1))
        self.rows["weight"][moved] = towers.rows["weight"][moved]
        self.rows.mark(moved)
        for name in self.layers:
            self.layers[name][...] = towers.layers[name]
        self.layers.mark()


class Towers(_Network):
    """Towers that learn.

    Parameters
    ----------
    shape : TowerShape
    step : float
        Step size of AdaGrad.
    temperature : float
        What cosines are divided by.
    """

    def __init__(self, shape: TowerShape, step: float, temperature: float) -> None:
        super().__init__(shape)
        self._step, self._temperature = step, temperature
        size = 1 << shape.bits
        self.squares = Arrays.made_by(lambda: {"square": np.full((size, shape.dim), _ACCUMULATOR, np.float32)})
        self.layer_squares = Arrays(**{name: np.full_like(self.layers[name], _ACCUMULATOR) for name in self.layers})
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
        # Only the rows of the batch, so that a step costs nothing for the others.
        rows, at = np.unique(np.concatenate([(part[0] & self._mask).ravel() for part in (users, items)]), return_inverse=True)
        table = self._table[torch.from_numpy(rows)].requires_grad_()
        layers = {name: layer.clone().requires_grad_() for name, layer in self._layers.items()}
        border = users[0].size
        of_users = _forward(USER, at[:border].reshape(users[0].shape), users[1], table, layers)
        of_items = _forward(ITEM, at[border:].reshape(items[0].shape), items[1], table, layers)
        scores = of_users[who] @ of_items.T / self._temperature - torch.from_numpy(np.log(chance))
        others = torch.from_numpy(liked)[who]
        others[torch.arange(what.numel()), what] = False
        loss = functional.cross_entropy(scores.masked_fill(others, -torch.inf), what, reduction="none")
        share = bounded(share)
        weights = torch.from_numpy(share / share.max())  # their size makes no difference, and might be as small as it gets
        ((loss * weights).sum() / weights.sum()).backward()  # type: ignore[no-untyped-call]
        self._descend(rows, table, layers)

    def _descend(self, rows: Ids, table: Tensor, layers: Mapping[str, Tensor]) -> None:
        """One step of AdaGrad on these rows and on the layers."""
        gradient = _gradient(table)
        self.squares["square"][rows] += gradient**2
        self.rows["weight"][rows] -= self._step * gradient / np.sqrt(self.squares["square"][rows])
        for name, layer in layers.items():
            gradient = _gradient(layer)
            self.layer_squares[name][...] += gradient**2
            self.layers[name][...] -= self._step * gradient / np.sqrt(self.layer_squares[name])
        for store in (self.rows, self.squares):
            store.mark(rows)
        self.layers.mark()
        self.layer_squares.mark()

    def forget(self, keys: Ids) -> None:
        """Let the rows of these columns be as if nothing had been learned of them."""
        rows = np.unique(keys & self._mask)
        self.rows["weight"][rows], self.squares["square"][rows] = 0.0, _ACCUMULATOR
        self.rows.mark(rows)
        self.squares.mark(rows)

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


def _gradient(weights: Tensor) -> Floats:
    assert weights.grad is not None, "everything that was looked at has a gradient"
    gradient: Floats = weights.grad.numpy()
    return gradient
