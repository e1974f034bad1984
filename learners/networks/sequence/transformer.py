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

    def forward(self, events: Tensor, known: Tensor, changes: Changes, last: int | None = None) -> Tensor:
        """Compute the states (n, T, D) after each event of n windows, or after the last ones, (n, last, D).

        Parameters
        ----------
        events : (n, T, D)
            Vectors of the events, oldest first, T <= 2 C; any numbers where there is no event.
        known : (n, T) bool
            Whether there is an event.
        changes : Changes
            Low-rank changes are those of each window.
        last : int, optional
            States to compute, at most T. The others are those of events that the last layer only reads.
        """
        length, top = events.shape[1], len(self.blocks) - 1
        x = _dropped(events, self.shape.dropout, self.training)
        seen = self._seen(known)
        for n in range(top + 1):
            rows = length if last is None or n < top else last
            x = self._block(n)(f"blocks.{n}", x, seen[n][:, :, -rows:], changes)
        return normalized("norm", self.norm, x, changes)

    def chunks(self, events: Tensor, known: Tensor) -> list[Chunk]:
        """Return what each layer has of the second chunk of n windows (n, 2 C, D), without changes of parameters."""
        chunks: list[Chunk] = []
        half, top = self.shape.chunk, len(self.blocks) - 1
        x, seen = _dropped(events, self.shape.dropout, self.training), self._seen(known)
        for n in range(top + 1):
            block = self._block(n)
            chunks.append(block.chunk(f"blocks.{n}", x[:, -half:]))
            if n < top:
                # What the last layer is asked for are keys and values of the second chunk alone.
                rows = half if n == top - 1 else 2 * half
                x = block(f"blocks.{n}", x, seen[n][:, :, -rows:], Changes())
        return chunks

    def _block(self, n: int) -> _Block:
        block = self.blocks[n]
        assert isinstance(block, _Block)
        return block

    def _seen(self, known: Tensor) -> list[Tensor]:
        """Return the bias of each layer's attention, (n, heads, T, T)."""
        length = known.shape[1]
        distance = self.distance[:length, :length]
        unseen = self.hidden[:length, :length] + torch.where(known, 0.0, _HIDDEN)[:, None, None]
        return [self._block(n).bias[:, distance] + unseen for n in range(len(self.blocks))]


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

    def forward(self, name: str, x: Tensor, bias: Tensor, changes: Changes) -> Tensor:
        """Process the last of the vectors (n, T, D): as many as the bias (n, heads, rows, T) of the attention has rows."""
        rows = bias.shape[2]
        read = normalized(f"{name}.attention_norm", self.attention_norm, x, changes)
        key, value = self._keys_values(name, read, changes)
        query = self._split(linear(f"{name}.query.weight", self.query, read[:, -rows:], changes))
        attended = functional.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)
        x = x[:, -rows:] + self._dropped(linear(f"{name}.output.weight", self.output, attended, changes))
        read = normalized(f"{name}.inner_norm", self.inner_norm, x, changes)
        inner = functional.gelu(linear(f"{name}.up.weight", self.up, read, changes))
        return x + self._dropped(linear(f"{name}.down.weight", self.down, inner, changes))

    def chunk(self, name: str, x: Tensor) -> Chunk:
        """Return the keys and values of vectors (n, C, D), without changes of parameters."""
        read = normalized(f"{name}.attention_norm", self.attention_norm, x, Changes())
        return Chunk(*self._keys_values(name, read, Changes()))

    def _keys_values(self, name: str, read: Tensor, changes: Changes) -> tuple[Tensor, Tensor]:
        key = linear(f"{name}.key.weight", self.key, read, changes)
        return self._split(key), self._split(linear(f"{name}.value.weight", self.value, read, changes))

    def _dropped(self, x: Tensor) -> Tensor:
        return _dropped(x, self.dropout, self.training)

    def _split(self, x: Tensor) -> Tensor:
        """Split vectors (n, T, D) into heads: (n, heads, T, D / heads)."""
        return x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


def _dropped(x: Tensor, share: float, training: bool) -> Tensor:
    """Set a share of the numbers to 0 and scale the others up, in training. Four numbers are decided by one draw of 64 bits."""
    if not training or not share:
        return x
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view_as(x) >= round(share * 2**16) - 2**15
    return x * (kept * (1 / (1 - share)))
