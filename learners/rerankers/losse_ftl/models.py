"""World models: what follows from an input of state and action, learned in one pass, with either encoding of the input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt

from learners.rerankers.losse_ftl.encoders import FourierEncoder, SparseEncoder
from memory.arrays import Arrays, Floats
from memory.regression.recursive_ridge import RecursiveRidge
from memory.regression.sparse_linear import SparseLinear
from memory.stateful import Stateful

__all__ = ["FourierModel", "SparseModel", "WorldModel"]

Values = npt.NDArray[np.float64]

_GRIDS, _BINS = 32, 6
"""Grids, of one axis each, and their cells, in which a Fourier model counts its rows."""


class WorldModel(Stateful, ABC):
    """Predicts outcomes and changes of state from an input (S,) of state and action.

    Outcomes and changes have sums of their own: where a session ends, the outcome is known and there is no next state. A 0 in
    its place would be learned as one.
    """

    @abstractmethod
    def learn(self, x: Floats, outcome: Values, change: Values | None, weight: float) -> None:
        """Learn one row: the input (S,), the outcome, the change of state if it is known, and the row's weight."""

    @abstractmethod
    def predict(self, x: Floats, *, changes: bool) -> tuple[Floats, Floats | None]:
        """Predict outcomes (n, outcomes) of inputs (n, S), and changes of state (n, changes) if asked for, float32."""

    @abstractmethod
    def evidence(self, x: Floats) -> Floats:
        """About how many rows each input (n, S) had like it, (n,) float32."""


class SparseModel(WorldModel):
    """A world model with the locality-sensitive sparse encoding; see `memory.regression.sparse_linear.SparseLinear`.

    Parameters
    ----------
    inputs, outcomes, changes : int
        Lengths of an input, of an outcome and of a change of state.
    grids, axes, bins, gain, seed
        See `SparseEncoder.random`.
    ridge, ridge_mode, forgetting
        See `SparseLinear`.
    """

    def __init__(
        self,
        inputs: int,
        outcomes: int,
        changes: int,
        *,
        grids: int = 64,
        axes: int = 1,
        bins: int = 6,
        gain: float = 1.0,
        ridge: float = 1.0,
        ridge_mode: Literal["const", "count"] = "const",
        forgetting: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._encoder = SparseEncoder.random(inputs, grids, axes, bins, gain, seed)
        self.outcomes = SparseLinear(self._encoder.features, outcomes, ridge, ridge_mode, forgetting)
        self.changes = SparseLinear(self._encoder.features, changes, ridge, ridge_mode, forgetting)

    def learn(self, x: Floats, outcome: Values, change: Values | None, weight: float) -> None:
        """Learn one row."""
        index, value = self._encoder.encode(x[None].astype(np.float64))
        self.outcomes.update(index[0], value[0], outcome, weight)
        if change is not None:
            self.changes.update(index[0], value[0], change)

    def predict(self, x: Floats, *, changes: bool) -> tuple[Floats, Floats | None]:
        """Predict outcomes, and changes of state if asked for."""
        index, value = self._encoder.encode(x.astype(np.float64))
        single = value.astype(np.float32)
        return self.outcomes.predict(index, single), self.changes.predict(index, single) if changes else None

    def evidence(self, x: Floats) -> Floats:
        """Weighted harmonic mean of the visits of an input's active features."""
        index, value = self._encoder.encode(x.astype(np.float64))
        return self.outcomes.visits(index, value.astype(np.float32))


class FourierModel(WorldModel):
    """A world model with random Fourier features; see `memory.regression.recursive_ridge.RecursiveRidge`.

    Parameters
    ----------
    inputs, outcomes, changes : int
        Lengths of an input, of an outcome and of a change of state.
    waves, gain, seed
        See `FourierEncoder`.
    ridge, forgetting
        See `RecursiveRidge`.
    """

    def __init__(
        self,
        inputs: int,
        outcomes: int,
        changes: int,
        *,
        waves: int = 256,
        gain: float = 1.0,
        ridge: float = 0.05,
        forgetting: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._encoder = FourierEncoder(inputs, waves, gain, seed)
        self._cells = SparseEncoder.random(inputs, _GRIDS, 1, _BINS, 1.0, seed)
        self.outcomes = RecursiveRidge(self._encoder.features, outcomes, ridge, forgetting)
        self.changes = RecursiveRidge(self._encoder.features, changes, ridge, forgetting)
        self.visits = Arrays(count=np.zeros(self._cells.features, np.float32))

    def learn(self, x: Floats, outcome: Values, change: Values | None, weight: float) -> None:
        """Learn one row."""
        features = self._encoder.encode(x[None])[0].astype(np.float64)
        self.outcomes.update(features, outcome, weight)
        if change is not None:
            self.changes.update(features, change, 1.0)
        index, value = self._cells.encode(x[None].astype(np.float64))
        self.visits["count"][index[0]] += value[0].astype(np.float32)
        self.visits.mark(index[0])

    def predict(self, x: Floats, *, changes: bool) -> tuple[Floats, Floats | None]:
        """Predict outcomes, and changes of state if asked for."""
        features = self._encoder.encode(x)
        return self.outcomes.predict(features), self.changes.predict(features) if changes else None

    def evidence(self, x: Floats) -> Floats:
        """Harmonic mean, over some random projections, of the rows near an input. Waves are everywhere and cannot tell."""
        index, value = self._cells.encode(x.astype(np.float64))
        mean: Floats = (_GRIDS / (value / (self.visits["count"][index] + 1e-6)).sum(axis=1)).astype(np.float32)
        return mean
