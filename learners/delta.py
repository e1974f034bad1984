"""Changes of a ranker's parameters for the requests of one batch: adapters return them, rankers apply them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from streams.batch import Floats

__all__ = ["LowRank", "Shapes", "WeightDelta", "arrays_of", "check_delta"]

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name to the parameter's shape."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change of a matrix of shape (m, n), a different one for each of B requests: ``u[b] @ v[b].T`` is added for request b.

    A request whose `u` or `v` is zero is scored with the matrix as it is.

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
"""Parameter name to what is added to it: an array of the parameter's shape for all requests, or a `LowRank` for each."""


def arrays_of(delta: WeightDelta) -> Iterator[tuple[str, Floats]]:
    """Arrays that a delta consists of, by name: ``scale`` of a dense change, ``weight.u`` and ``weight.v`` of a `LowRank`."""
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
        Parameters that the adapter declares; a delta may leave some of them out.
    shapes : Shapes
        Shapes of the ranker's adaptable parameters.
    requests : int
        Requests B of the batch.

    Raises
    ------
    ValueError
        For a parameter that was not declared, or a shape that does not fit.
    FloatingPointError
        For a number that is not finite.
    """
    for name, change in delta.items():
        if name not in changes:
            raise ValueError(f"{name}: not among the declared changes {sorted(changes)}; declare it, or leave it out")
        shape = shapes[name]
        if isinstance(change, LowRank):
            _check_low_rank(name, change, shape, requests)
        elif np.shape(change) != shape:
            raise ValueError(f"{name}: the change has shape {np.shape(change)}; give {shape}, that of the parameter")
    for name, array in arrays_of(delta):
        if not np.isfinite(array).all():
            raise FloatingPointError(f"{name}: a number is not finite")


def _check_low_rank(name: str, change: LowRank, shape: tuple[int, ...], requests: int) -> None:
    if len(shape) != 2:
        raise ValueError(f"{name}: a low-rank change needs a matrix, and the parameter has shape {shape}; give a dense change")
    rank = change.u.shape[-1:]
    wanted = (requests, shape[0], *rank), (requests, shape[1], *rank)
    if (change.u.shape, change.v.shape) != wanted:
        raise ValueError(f"{name}: u and v have shapes {change.u.shape} and {change.v.shape}; give {wanted[0]} and {wanted[1]}")
