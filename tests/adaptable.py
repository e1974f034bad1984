"""A ranker with adaptable parameters, and an adapter with dense changes: small enough to know every score."""

from __future__ import annotations

import numpy as np

from learners.base import Adapter, LowRank, Ranker
from learners.registry import register
from memory.arrays import Arrays


@register("linear")
class Linear(Ranker):
    """``scale . (weight @ x)``, where x is the first two values of a row: 0.6 if both are 1."""

    def __init__(self) -> None:
        self.parameters = Arrays(weight=np.full((3, 2), 0.1, np.float32), scale=np.ones(3, np.float32))

    def adaptable(self):
        return {name: self.parameters[name].shape for name in ("weight", "scale")}

    def score(self, batch, delta=None):
        delta, x = delta or {}, batch.values[:, :2]
        hidden = x @ self.parameters["weight"].T
        match delta.get("weight"):
            case LowRank(u, v):
                projected = np.einsum("nkr,nk->nr", v[batch.request], x)
                hidden += np.einsum("nmr,nr->nm", u[batch.request], projected)
            case np.ndarray() as change:
                hidden += x @ change.T
        batch.score[:] = hidden @ (self.parameters["scale"] + delta.get("scale", 0))


@register("uniform")
class Uniform(Adapter):
    """Adds `by` to all numbers of a parameter after the first observed row.

    Parameters
    ----------
    ranker : Ranker
    parameter : str
        Name of the parameter.
    by : float
        Number to add.

    References
    ----------
    None needed.
    """

    checks_ranker = "tests.adaptable"

    def __init__(self, ranker: Ranker, parameter: str = "scale", by: float = 1.0) -> None:
        super().__init__(ranker)
        self.parameter, self.by = parameter, by
        self.shown = Arrays(times=np.zeros(1))

    @property
    def changes(self):
        return [self.parameter]

    def adapt(self, batch):
        by = self.by if self.shown["times"][0] else 0.0
        return {self.parameter: np.full(self.ranker.adaptable()[self.parameter], by, np.float32)}

    def observe(self, batch):
        if batch.rows:
            self.shown["times"][0] += batch.rows
            self.shown.mark()
