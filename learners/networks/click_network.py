"""The network of the click rankers: what it adds to the log-odds of a factorization machine, from the vectors of its fields.

References
----------
R. Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems", WWW 2021:
cross layers (equation 1) of low rank (equation 2), beside a deep network (figure 1b).
J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016.
K. He et al., "Delving Deep into Rectifiers", ICCV 2015: initial weights of layers before a ReLU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from learners.networks.changes import Changes, linear, normalized
from learners.networks.field_embedding import Fields

__all__ = ["ClickNetwork", "NetworkShape"]


class NetworkShape(NamedTuple):
    """Size of a network.

    Attributes
    ----------
    factors : int
        Length of a field's vector.
    hidden : int
        Units of each hidden layer.
    depth : int
        Hidden layers.
    crosses : int
        Cross layers.
    rank : int
        Rank of a cross layer's matrix.
    user_item_map : bool
        Whether there is a map between the vectors of user and item.
    """

    factors: int
    hidden: int
    depth: int
    crosses: int
    rank: int
    user_item_map: bool


class ClickNetwork(torch.nn.Module):
    """Computes u'Mv + w . [crosses(e), layers(e)]. e is the normalised vectors of all fields, and the numbers.

    u and v are the sums of the vectors of the user's fields, and of the item's. M and w are 0 at first, and so is the output.
    A hidden layer is Linear, LayerNorm, ReLU. A cross is e * (U V'x + b) + x, followed by LayerNorm.
    """

    users: Tensor
    items: Tensor

    def __init__(self, shape: NetworkShape, fields: Fields) -> None:
        super().__init__()
        width = fields.total * shape.factors + fields.numbers.size
        self._mapped = shape.user_item_map and min(fields.users.size, fields.items.size) > 0
        if self._mapped:
            self.register_buffer("users", torch.from_numpy(fields.users), persistent=False)
            self.register_buffer("items", torch.from_numpy(fields.items), persistent=False)
            self.map = torch.nn.Parameter(torch.zeros(shape.factors, shape.factors))
        self.input_norm = torch.nn.LayerNorm(fields.total * shape.factors)
        inputs = [width] + [shape.hidden] * shape.depth
        self.layers = torch.nn.ModuleList(_layer(size, shape.hidden) for size in inputs[:-1])
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(shape.hidden) for _ in self.layers)
        self.down = torch.nn.ParameterList(torch.randn(shape.rank, width) / width**0.5 for _ in range(shape.crosses))
        self.up = torch.nn.ParameterList(torch.randn(width, shape.rank) / shape.rank**0.5 for _ in range(shape.crosses))
        self.offset = torch.nn.ParameterList(torch.zeros(width) for _ in range(shape.crosses))
        self.cross_norms = torch.nn.ModuleList(
            torch.nn.LayerNorm(width, elementwise_affine=False) for _ in range(shape.crosses)
        )
        self._parts = [shape.depth > 0 or shape.crosses == 0, shape.crosses > 0]
        self.out = torch.nn.Parameter(torch.zeros(self._parts[0] * inputs[-1] + self._parts[1] * width))

    def norm_names(self) -> Iterator[str]:
        """Names of the normalisations that have another one behind them."""
        if len(self.layers) > 0:
            yield "input_norm"
        yield from (f"norms.{n}" for n in range(len(self.norms) - 1))

    def target_names(self) -> Iterator[str]:
        """Names of the hidden layers' matrices."""
        return (f"layers.{n}.weight" for n in range(len(self.layers)))

    def forward(self, fields: Tensor, numbers: Tensor, changes: Changes) -> tuple[Tensor, Tensor]:
        """Compute log-odds (n,) and the last hidden layer (n, hidden) of rows; without hidden layers, the input.

        Parameters
        ----------
        fields : (n, fields, factors) float32
        numbers : (n, D) float32
        changes : Changes
            Added for these rows only.
        """
        entry = torch.cat([normalized("input_norm", self.input_norm, fields.flatten(1), changes), numbers], 1)
        x = entry
        for n, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = normalized(f"norms.{n}", norm, linear(f"layers.{n}.weight", layer, x, changes), changes).relu()
        crossed = entry
        for down, up, offset, norm in zip(self.down, self.up, self.offset, self.cross_norms, strict=True):
            crossed = norm(torch.addcmul(crossed, entry, torch.addmm(offset, functional.linear(crossed, down), up.T)))
        odds = torch.cat([part for part, used in zip((x, crossed), self._parts, strict=True) if used], 1) @ self.out
        if self._mapped:
            odds = odds + ((fields[:, self.users].sum(1) @ self.map) * fields[:, self.items].sum(1)).sum(1)
        return odds, x


def _layer(inputs: int, units: int) -> torch.nn.Linear:
    layer = torch.nn.Linear(inputs, units)
    torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.nn.init.zeros_(layer.bias)
    return layer
