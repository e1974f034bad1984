"""StreamAdapter: events that left the window become a state of fixed size, and the state becomes a change of weights.

References
----------
D. Muhtar et al., "StreamAdapter: Efficient Test Time Adaptation from Contextual Streams", 2024 (arXiv 2411.09289): learned
queries that read a chunk's keys and values, a gated recurrence over the chunks, and the state as a change of weights of few
parameters. Its equations were not at hand; those here are documented where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from learners.networks.changes import Changes
from learners.networks.sequence.transformer import Chunk

__all__ = ["Absorption", "Context", "ContextShape", "State"]

_EPS = 1e-6


class ContextShape(NamedTuple):
    """Size of the map from chunks to changes of weights.

    Attributes
    ----------
    width, heads, layers : int
        Of the transformer.
    rank : int
        Vectors r of a state in each layer, and rank of a change.
    alpha : float
        A change is multiplied by alpha / r.
    tau : float
        The gate is raised to 1 / tau: a larger tau forgets more slowly.
    confidence : bool
        Whether a change is multiplied by the share of the state that chunks have written. A state of one chunk then counts
        for about 1 - gate.
    targets : sequence of (str, int, int)
        Name of each matrix in a layer that changes, with its numbers of outputs and of inputs.
    outputs : bool
        True: a user's state chooses directions of the output. False: directions of the input.
    """

    width: int
    heads: int
    layers: int
    rank: int
    alpha: float
    tau: float
    confidence: bool
    targets: Sequence[tuple[str, int, int]]
    outputs: bool = True


class State(NamedTuple):
    """What is kept of the absorbed chunks of n users.

    Attributes
    ----------
    vectors : (n, layers, r, D)
        Zero before the first chunk.
    fresh : (n,)
        Product of the mean gates so far: share of the state that is still as it began. 1 before the first chunk.
    """

    vectors: Tensor
    fresh: Tensor


class Absorption(torch.nn.Module):
    """The factors of one matrix's change: U (inputs or outputs, r), which begins at 0, and P (D, outputs or inputs)."""

    def __init__(self, width: int, rank: int, outputs: int, inputs: int, *, of_outputs: bool) -> None:
        super().__init__()
        shared, own = (inputs, outputs) if of_outputs else (outputs, inputs)
        self.of_outputs = of_outputs
        self.shared = torch.nn.Parameter(torch.zeros(shared, rank))
        self.projection = torch.nn.Parameter(torch.randn(width, own) / width**0.5)

    def forward(self, vectors: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Return u (n, outputs, r) and v (n, inputs, r) of the change u v' from normalised vectors (n, r, D).

        The one that users share has an n of 1.

        Of outputs: the change is ``factor * (vectors P)' U'``. Of inputs: ``factor * U (vectors P)``. factor : (n, 1, 1).
        """
        own = ((vectors @ self.projection) * factor).transpose(1, 2)
        shared = self.shared[None]
        return (own, shared) if self.of_outputs else (shared, own)


class _Layer(torch.nn.Module):
    def __init__(self, shape: ContextShape) -> None:
        super().__init__()
        width = shape.width
        self.queries = torch.nn.Parameter(0.5 * torch.randn(shape.heads, shape.rank, width // shape.heads))
        self.gate = torch.nn.Linear(width, width)
        torch.nn.init.zeros_(self.gate.weight)
        torch.nn.init.constant_(self.gate.bias, 2.0)
        self.value = torch.nn.Linear(width, width, bias=False)
        self.absorptions = torch.nn.ModuleDict(
            {
                name: Absorption(width, shape.rank, outputs, inputs, of_outputs=shape.outputs)
                for name, outputs, inputs in shape.targets
            }
        )


class Context(torch.nn.Module):
    """Reads chunks into states, and turns states into changes of the transformer's matrices."""

    def __init__(self, shape: ContextShape) -> None:
        super().__init__()
        self.shape = shape
        self.layers = torch.nn.ModuleList(_Layer(shape) for _ in range(shape.layers))

    def initial(self, users: int) -> State:
        """Return the states of users without an absorbed chunk."""
        like = self.layers[0].queries
        assert isinstance(like, Tensor)
        vectors = like.new_zeros(users, self.shape.layers, self.shape.rank, self.shape.width)
        return State(vectors, like.new_ones(users))

    def summaries(self, chunks: Sequence[Chunk]) -> Tensor:
        """Return what the queries read of n whole chunks, (n, layers, r, D): attention of the queries to the keys."""
        read = []
        for layer, (keys, values) in zip(self.layers, chunks, strict=True):
            assert isinstance(layer, _Layer)
            queries = layer.queries.expand(len(keys), -1, -1, -1)
            read.append(functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))
        return torch.stack(read, 1)

    def gated(self, summaries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gates and the written values of chunks, both (..., layers, r, D), from `summaries`.

        With o the summary divided by its root mean square: the gate is ``sigmoid(W_g o + b_g) ** (1 / tau)``, the value
        ``(1 - gate) * W_v o``.
        """
        gates, values = [], []
        for n, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            read = _rms(summaries[..., n, :, :])
            gate = layer.gate(read).sigmoid() ** (1 / self.shape.tau)
            gates.append(gate)
            values.append((1 - gate) * layer.value(read))
        return torch.stack(gates, -3), torch.stack(values, -3)

    def absorb(self, state: State, gate: Tensor, value: Tensor) -> State:
        """Return the states of n users after one more chunk: ``gate * state + value``; both from `gated`."""
        return State(gate * state.vectors + value, state.fresh * gate.mean((1, 2, 3)))

    def changes(self, state: State) -> Changes:
        """Return the changes that n states make, all of low rank."""
        shape = self.shape
        factor = torch.full_like(state.fresh, shape.alpha / shape.rank)
        if shape.confidence:
            factor = factor * (1 - state.fresh)
        factor = factor[:, None, None]
        low_rank = {}
        for n, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            vectors = _rms(state.vectors[:, n])
            for name, absorption in layer.absorptions.items():
                low_rank[f"blocks.{n}.{name}.weight"] = absorption(vectors, factor)
        return Changes(low_rank=low_rank)


def _rms(x: Tensor) -> Tensor:
    """Divide vectors by their root mean square."""
    return x * (x.square().mean(-1, keepdim=True) + _EPS).rsqrt()
