"""A causal transformer over the last two chunks of a user's events.

References
----------
A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
W.-C. Kang, J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018: the next item from the items before it, scored
with the same embeddings that are read.
R. Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020: the normalisation before each part.
C. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 21 (2020): a bias
for each distance, and no position elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from learners.networks.changes import Changes, linear, normalized

__all__ = ["Chunk", "SequenceShape", "Transformer"]

_HIDDEN = -1e9
"""Added to the attention to an event that must not be seen; finite, so that an event without any other still has a softmax."""


class SequenceShape(NamedTuple):
    """Size of a transformer.

    Attributes
    ----------
    width : int
        Length D of an event's vector.
    heads, layers : int
        D is a multiple of the number of heads.
    inner : int
        Units of each feed-forward layer.
    chunk : int
        Events C of a chunk. A prediction sees the chunk of the last event, up to it, and the chunk before.
    items : int
        Rows of the table of items.
    gaps : int
        Rows of the table of times between events; 0: times are not read.
    dropout : float
        Share of the numbers that a step of learning sets to 0, in the events and in what each part adds to them.
    """

    width: int
    heads: int
    layers: int
    inner: int
    chunk: int
    items: int
    gaps: int = 0
    dropout: float = 0.0


class Chunk(NamedTuple):
    """Keys and values of a chunk in one layer, both (n, heads, C, D / heads), without positions."""

    keys: Tensor
    values: Tensor


class Transformer(torch.nn.Module):
    """Computes the states of users after each event of a window.

    The table ``items.weight`` (items, D + 1) has the vector of each item, and its bias in the last column. The logit of an item
    is the product of the state and the vector, plus the bias.
    """

    hidden: Tensor
    distance: Tensor

    def __init__(self, shape: SequenceShape) -> None:
        super().__init__()
        self.shape = shape
        window = 2 * shape.chunk
        self.items = torch.nn.Embedding(shape.items, shape.width + 1, sparse=True)
        torch.nn.init.normal_(self.items.weight, std=0.05)
        with torch.no_grad():
            self.items.weight[:, -1] = 0
        if shape.gaps:
            self.gaps = torch.nn.Parameter(torch.zeros(shape.gaps, shape.width))
        self.blocks = torch.nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = torch.nn.LayerNorm(shape.width)
        distance = torch.arange(window)[:, None] - torch.arange(window)
        self.register_buffer("distance", distance.clamp(min=0), persistent=False)
        self.register_buffer("hidden", torch.where(distance < 0, _HIDDEN, 0.0), persistent=False)

    def norm_names(self) -> Iterator[str]:
        """Names of the normalisations that have another one behind them."""
        return (f"blocks.{n}.{part}" for n in range(len(self.blocks)) for part in ("attention_norm", "inner_norm"))

    def target_names(self) -> Iterator[str]:
        """Names of the matrices on the output side of the feed-forward layers."""
        return (f"blocks.{n}.down.weight" for n in range(len(self.blocks)))

    def forward(self, events: Tensor, known: Tensor, changes: Changes) -> Tensor:
        """Compute the states (n, T, D) after each event of n windows.

        Parameters
        ----------
        events : (n, T, D)
            Vectors of the events, oldest first, T <= 2 C; any numbers where there is no event.
        known : (n, T) bool
            Whether there is an event.
        changes : Changes
            Low-rank changes are those of each window.
        """
        return self._run(events, known, changes, [])

    def chunks(self, events: Tensor, known: Tensor) -> list[Chunk]:
        """Return what each layer has of the second chunk of n windows (n, 2 C, D), without changes of parameters."""
        chunks: list[Chunk] = []
        self._run(events, known, Changes(), chunks)
        half = self.shape.chunk
        return [Chunk(keys[:, :, half:], values[:, :, half:]) for keys, values in chunks]

    def _run(self, events: Tensor, known: Tensor, changes: Changes, chunks: list[Chunk]) -> Tensor:
        length = events.shape[1]
        distance = self.distance[:length, :length]
        unseen = self.hidden[:length, :length] + torch.where(known, 0.0, _HIDDEN)[:, None, None]
        x = functional.dropout(events, self.shape.dropout, self.training)
        for n, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            x = block(f"blocks.{n}", x, block.bias[:, distance] + unseen, changes, chunks)
        return normalized("norm", self.norm, x, changes)


class _Block(torch.nn.Module):
    """Attention and a feed-forward layer, each normalised before, and added to its input."""

    def __init__(self, shape: SequenceShape) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.dropout = shape.heads, shape.dropout
        self.attention_norm, self.inner_norm = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (torch.nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = torch.nn.Linear(width, shape.inner, bias=False), torch.nn.Linear(shape.inner, width, bias=False)
        self.bias = torch.nn.Parameter(torch.zeros(shape.heads, 2 * shape.chunk))
        for layer in (self.output, self.down):
            torch.nn.init.normal_(layer.weight, std=0.02)

    def forward(self, name: str, x: Tensor, bias: Tensor, changes: Changes, chunks: list[Chunk]) -> Tensor:
        """Process vectors (n, T, D), with the bias (n, heads, T, T) of the attention; append keys and values to `chunks`."""
        read = normalized(f"{name}.attention_norm", self.attention_norm, x, changes)
        query, key, value = (
            self._split(linear(f"{name}.{part}.weight", layer, read, changes))
            for part, layer in (("query", self.query), ("key", self.key), ("value", self.value))
        )
        chunks.append(Chunk(key, value))
        attended = functional.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)
        x = x + self._dropped(linear(f"{name}.output.weight", self.output, attended, changes))
        read = normalized(f"{name}.inner_norm", self.inner_norm, x, changes)
        inner = functional.gelu(linear(f"{name}.up.weight", self.up, read, changes))
        return x + self._dropped(linear(f"{name}.down.weight", self.down, inner, changes))

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)

    def _split(self, x: Tensor) -> Tensor:
        """Split vectors (n, T, D) into heads: (n, heads, T, D / heads)."""
        return x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)
