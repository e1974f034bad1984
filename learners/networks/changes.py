"""Layers whose parameters an adapter may change for some rows, without touching the parameters themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Changes", "linear", "normalized"]


class Changes(NamedTuple):
    """Changes of parameters, by name.

    Attributes
    ----------
    dense : mapping of name to tensor
        Of the parameter's shape, added for all rows.
    low_rank : mapping of name to a pair of tensors
        u (n, m, r) and v (n, p, r): the product u v' is added for each of n rows. An n of 1 stands for all rows.
    """

    dense: Mapping[str, Tensor] = {}
    low_rank: Mapping[str, tuple[Tensor, Tensor]] = {}


def normalized(name: str, norm: torch.nn.Module, x: Tensor, changes: Changes) -> Tensor:
    """Normalise with a scale and a shift that may be changed."""
    assert isinstance(norm, torch.nn.LayerNorm)
    weight, bias = changes.dense.get(f"{name}.weight"), changes.dense.get(f"{name}.bias")
    scale = norm.weight if weight is None else norm.weight + weight
    shift = norm.bias if bias is None else norm.bias + bias
    return functional.layer_norm(x, norm.normalized_shape, scale, shift, norm.eps)


def linear(name: str, layer: torch.nn.Module, x: Tensor, changes: Changes) -> Tensor:
    """Apply a layer whose matrix may be changed to x, (n, p) or (n, T, p)."""
    y: Tensor = layer(x)
    if name in changes.dense:
        y = y + functional.linear(x, changes.dense[name])
    if name in changes.low_rank:
        u, v = changes.low_rank[name]
        if x.ndim == 2:
            y = y + torch.einsum("nmr,nr->nm", u, torch.einsum("npr,np->nr", v, x))
        else:
            # A factor that all rows share is not repeated for each.
            inner = x @ (v[0] if len(v) == 1 else v)
            y = y + inner @ (u[0].T if len(u) == 1 else u.transpose(1, 2))
    return y
