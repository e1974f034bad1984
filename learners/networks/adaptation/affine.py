"""Scales and shifts of a network's normalisations as one flat vector: logits and gradients by a change of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from learners.base import Ranker
from learners.networks.adaptation.minimizer import Logits
from learners.networks.ranker import NetworkRanker
from streams.batch import Batch, Floats

__all__ = ["Affine"]


class Affine:
    """The parameters of a ranker's normalisations, without the last one.

    Parameters
    ----------
    ranker : Ranker
        Bound.

    Attributes
    ----------
    shapes : dict of str to tuple of int
    size : int
        Number D of parameters.

    Raises
    ------
    ValueError
        If the ranker is not a network.
    """

    def __init__(self, ranker: Ranker) -> None:
        name = ranker.name or type(ranker).__name__
        if not isinstance(ranker, NetworkRanker):
            raise ValueError(f"ranker: {name} has no layer normalisations; choose deep or dsl, or remove the adapter")
        self.ranker = ranker
        adaptable = ranker.adaptable()
        self.shapes = {name: adaptable[name] for name in ranker.norms()}
        self.size = sum(math.prod(shape) for shape in self.shapes.values())

    def arrays(self, delta: Floats) -> dict[str, Floats]:
        """Copy a change (D,) as one float32 array for each parameter."""
        return {name: part.reshape(self.shapes[name]).copy() for name, part in self._split(delta.astype(np.float32))}

    def logits(self, batch: Batch, delta: Floats | None = None) -> Floats:
        """Return the logits of a batch's rows (N,) with a change (D,)."""
        with torch.no_grad():
            changes = {} if delta is None else self._changes(torch.from_numpy(delta).to(self.ranker.device))
            logits: Floats = self.ranker.forward(batch, changes).cpu().numpy()
            return logits

    def tensor(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Return the logits of a batch's rows (N,) without a change, divided by `temperature`, on the network's device."""
        with torch.no_grad():
            return self.ranker.forward(batch, {}) / temperature

    def tracked(self, batch: Batch, temperature: float = 1.0) -> Logits:
        """Return a function from a change (D,) to the logits of a batch's rows, divided by `temperature`."""
        return lambda delta: self.ranker.forward(batch, self._changes(delta)) / temperature

    def gradient(self, batch: Batch, delta: Floats, label: Floats, weight: Floats) -> Floats:
        """Return the gradient (D,) of the rows' summed log loss by the change, at `delta`."""
        device = self.ranker.device
        at = torch.from_numpy(delta.copy()).to(device).requires_grad_()
        logits = self.ranker.forward(batch, self._changes(at))
        labels, weights = (torch.from_numpy(array.copy()).to(device) for array in (label, weight))
        loss = functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, at)
        found: Floats = gradient.cpu().numpy()
        return found

    def _changes(self, delta: Tensor) -> dict[str, Tensor]:
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), torch.split(delta, sizes), strict=True)
        return {name: part.reshape(shape) for (name, shape), part in parts}

    def _split(self, delta: Floats) -> Iterator[tuple[str, Floats]]:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes.values()])
        return zip(self.shapes, np.split(delta, ends[:-1]), strict=True)
