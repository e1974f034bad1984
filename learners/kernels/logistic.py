"""Compiled steps of logistic regression, shared by the rankers that learn biases."""

from __future__ import annotations

import numpy as np

from memory.jit import njit
from streams.batch import Floats

__all__ = ["probability", "step"]


@njit(cache=True, nogil=True)
def probability(odds: float) -> float:
    """Return the probability of log-odds."""
    return float(1.0 / (1.0 + np.exp(-odds)))


@njit(cache=True, nogil=True)
def step(values: Floats, squares: Floats, at: int, slope: float, learning_rate: float, adaptive: bool) -> None:
    """Move one value down its slope: by AdaGrad, whose sums of squares are `squares`, or by a constant learning rate."""
    if adaptive:
        squares[at] += slope * slope
        learning_rate /= np.sqrt(squares[at])
    values[at] -= learning_rate * slope
