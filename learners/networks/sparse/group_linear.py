"""A linear layer of which only some weights exist: each group of outputs reads its own fixed number of inputs.

References
----------
S. Wang et al., "Dynamic Sparse Learning: A Novel Paradigm for Efficient Recommendation", WSDM 2024.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from memory.sparse.prune_and_grow import prune_and_grow

__all__ = ["GroupSparseLinear"]


class GroupSparseLinear(nn.Module):
    """Linear layer whose outputs are in groups, and each group reads `density` of the inputs.

    The weights that exist are a tensor of fixed shape, multiplied with the gathered inputs. No tensor of inputs x outputs
    numbers exists, neither forward nor backward.

    Parameters
    ----------
    inputs, outputs : int
    density : float
        Share of the inputs that a group reads, above 0 and up to 1.
    group : int
        Outputs of a group. It divides `outputs`.

    Attributes
    ----------
    weight : (G, K, group) parameter
    bias : (outputs,) parameter
    inputs_of : (G, K) int32 buffer
        The inputs that each group reads.

    Raises
    ------
    ValueError
        If sizes do not fit.
    """

    inputs_of: Tensor

    def __init__(self, inputs: int, outputs: int, density: float, group: int = 64) -> None:
        super().__init__()
        if outputs % group:
            raise ValueError(f"group: {group} of {outputs} outputs; give a divisor")
        if not 0 < density <= 1:
            raise ValueError(f"density: {density}; give a number above 0 and up to 1")
        self.inputs, self.group = inputs, group
        groups, read = outputs // group, max(round(density * inputs), 1)
        chosen = torch.stack([torch.randperm(inputs)[:read] for _ in range(groups)])
        self.register_buffer("inputs_of", chosen.to(torch.int32))
        weight = torch.empty(groups, read, group)
        nn.init.normal_(weight, std=(2.0 / read) ** 0.5)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs) to (n, outputs)."""
        groups, read, _ = self.weight.shape
        gathered = x.index_select(1, self.inputs_of.view(-1)).view(-1, groups, read).transpose(0, 1)
        y = torch.bmm(gathered, self.weight).transpose(0, 1).reshape(x.shape[0], -1)
        return y + self.bias

    @torch.no_grad()
    def evidence(self, x: Tensor, slope: Tensor) -> Tensor:
        """Norm of the gradient of the weights between each input and each group, (G, inputs), also where there are none.

        Parameters
        ----------
        x : (n, inputs)
            Inputs of a batch.
        slope : (n, outputs)
            Gradient of the loss for the layer's outputs.
        """
        # |x_c' d_g|^2 = x_c' (d_g d_g') x_c: a product of rows with rows, instead of the dense gradient.
        grouped = slope.view(slope.shape[0], -1, self.group).transpose(0, 1)
        squared = torch.matmul(torch.bmm(grouped, grouped.transpose(1, 2)), x).mul_(x).sum(1)
        return squared.clamp_(min=0.0).sqrt_()

    @torch.no_grad()
    def prune_and_grow(self, evidence: npt.NDArray[np.float32], ratio: float) -> npt.NDArray[np.bool_]:
        """Exchange inputs within each group by the exact rule. New weights are 0.

        Parameters
        ----------
        evidence : (G, inputs) float32
            Sums of `evidence` since the last exchange.
        ratio : float
            Share of a group's inputs to exchange.

        Returns
        -------
        (G, K) bool
            Where `weight` has new inputs. Reset the optimizer's state there.
        """
        before = self.inputs_of.cpu().numpy().astype(np.int64)
        magnitude = self.weight.norm(dim=2).cpu().numpy()
        after, fresh = before.copy(), np.zeros(before.shape, np.bool_)
        free = np.ones(before.shape[1], np.bool_)
        for g, on in enumerate(before):
            off = np.setdiff1d(np.arange(self.inputs), on)
            found = prune_and_grow(on, magnitude[g], free, evidence[g, on], off, evidence[g, off], ratio)
            after[g, found.pruned], fresh[g, found.pruned] = off[found.grown], True
        self.weight[torch.from_numpy(fresh).to(self.weight.device)] = 0.0
        self.inputs_of.copy_(torch.from_numpy(after))
        return fresh
