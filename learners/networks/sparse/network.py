"""The network of the click rankers with group-sparse hidden layers, and what moves their inputs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from learners.networks.click_network import ClickNetwork, NetworkShape
from learners.networks.field_embedding import Fields
from learners.networks.sparse.group_linear import GroupSparseLinear
from memory.arrays import Arrays, Floats
from memory.parameters import Parameters
from memory.stateful import Stateful

__all__ = ["LayerEvidence", "SparseClickNetwork"]


class SparseClickNetwork(ClickNetwork):
    """A `ClickNetwork` in which each group of units of a hidden layer reads a share of the layer's inputs.

    Parameters
    ----------
    shape : NetworkShape
    fields : Fields
    density : float
        Share of the inputs.
    group : int
        Units of a group. It divides the hidden units.
    """

    def __init__(self, shape: NetworkShape, fields: Fields, density: float, group: int) -> None:
        super().__init__(shape, fields)
        dense = [layer for layer in self.layers if isinstance(layer, torch.nn.Linear)]
        self.layers = torch.nn.ModuleList(
            GroupSparseLinear(layer.in_features, layer.out_features, density, group) for layer in dense
        )

    def target_names(self) -> Iterator[str]:
        """Yield nothing: there are no whole matrices."""
        return iter(())


class LayerEvidence(Stateful):
    """Sums of gradient norms of all weights of hidden layers, also of those that do not exist, since the last exchange.

    Parameters
    ----------
    network : Parameters
        With a `SparseClickNetwork` on the CPU.

    Attributes
    ----------
    collecting : bool
        Whether backward passes add to the sums. Adapters' passes must not.
    """

    def __init__(self, network: Parameters[ClickNetwork]) -> None:
        self.collecting = False
        self._layers: list[GroupSparseLinear] = [
            layer for layer in network.module.layers if isinstance(layer, GroupSparseLinear)
        ]
        sums = {
            f"layer_{n}": np.zeros((len(layer.inputs_of), layer.inputs), np.float32) for n, layer in enumerate(self._layers)
        }
        # The stores' first axis is the layer's groups, of which all layers have the same number.
        self.sums = Arrays(private=list(sums), **sums)
        for n, layer in enumerate(self._layers):
            layer.register_forward_hook(partial(self._watch, self.sums[f"layer_{n}"]))

    def prune_and_grow(self, network: Parameters[ClickNetwork], ratio: float) -> None:
        """Exchange inputs of each layer of the network, and start again."""
        for n, layer in enumerate(self._layers):
            sums = self.sums[f"layer_{n}"]
            fresh = torch.from_numpy(layer.prune_and_grow(sums, ratio))
            for optimizer in network.optimizers:
                for name in ("exp_avg", "exp_avg_sq") if layer.weight in optimizer.state else ():
                    optimizer.state[layer.weight][name][fresh] = 0.0
            network.mark(f"layers.{n}.weight")
            network.mark(f"layers.{n}.inputs_of")
            sums[:] = 0.0

    def _watch(self, sums: Floats, layer: GroupSparseLinear, inputs: tuple[Tensor], y: Tensor) -> None:
        """Add to the sums as soon as the gradient of a layer's output is known."""
        if self.collecting:
            x = inputs[0].detach()

            def add(slope: Tensor) -> None:
                sums[:] += layer.evidence(x, slope).numpy()

            y.register_hook(add)  # type: ignore[no-untyped-call]
