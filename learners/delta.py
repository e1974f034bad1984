"""Parameter changes for one batch of requests. Adapters return them, rankers apply them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from streams.batch import Floats

__all__ = ["LowRank", "Shapes", "WeightDelta", "arrays_of", "check_delta"]

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each parameter, by name."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A low-rank change of a matrix of shape (m, n) for each of B requests: ``u[b] @ v[b].T`` is added for request b.

    If the `u` or `v` of a request is zero, the matrix does not change for it.

    Attributes
    ----------
    u : (B, m, r) float32
        Left factors, of rank r.
    v : (B, n, r) float32
        Right factors.
    """

    u: Floats
    v: Floats


WeightDelta = Mapping[str, Floats | LowRank]
"""Change of each parameter, by name: an array of the parameter's shape, added for all requests, or a `LowRank`."""


def arrays_of(delta: WeightDelta) -> Iterator[tuple[str, Floats]]:
    """Yield the arrays of a delta by name: ``scale`` for a dense change, ``weight.u`` and ``weight.v`` for a `LowRank`."""
    for name, change in delta.items():
        if isinstance(change, LowRank):
            yield f"{name}.u", change.u
            yield f"{name}.v", change.v
        else:
            yield name, change


def check_delta(delta: WeightDelta, changes: Collection[str], shapes: Shapes, requests: int) -> None:
    """Check that a ranker can apply a delta.

    Parameters
    ----------
    delta : WeightDelta
    changes : collection of str
        Parameters that the adapter declares. The delta may leave some of them out.
    shapes : Shapes
        Shapes of the ranker's adaptable parameters.
    requests : int
        Number B of requests in the batch.

    Raises
    ------
    ValueError
        When a parameter was not declared, or a shape does not fit.
    FloatingPointError
        When a number is not finite.
    """
    for name, change in delta.items():
        if name not in changes:
            raise ValueError(
                f"{name}: the adapter does not declare it; add it to its changes {sorted(changes)}, or leave it out"
            )
        shape = shapes[name]
        if isinstance(change, LowRank):
            _check_low_rank(name, change, shape, requests)
        elif np.shape(change) != shape:
            raise ValueError(f"{name}: the change has shape {np.shape(change)}; return the shape of the parameter, {shape}")
    for name, array in arrays_of(delta):
        if not np.isfinite(array).all():
            raise FloatingPointError(f"{name}: the change contains NaN or infinity; return finite numbers")


def _check_low_rank(name: str, change: LowRank, shape: tuple[int, ...], requests: int) -> None:
    if len(shape) != 2:
        raise ValueError(f"{name}: the parameter has shape {shape}, and LowRank needs a matrix; return a dense change")
    rank = change.u.shape[-1:]
    expected = (requests, shape[0], *rank), (requests, shape[1], *rank)
    if (change.u.shape, change.v.shape) != expected:
        raise ValueError(
            f"{name}: u and v have shapes {change.u.shape} and {change.v.shape}; return {expected[0]} and {expected[1]}"
        )
