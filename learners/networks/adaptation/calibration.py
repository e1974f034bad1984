"""What labels say about a network's scores: the temperature of its logits, and the entropy of its slates when it is right."""

from __future__ import annotations

import numpy as np

from learners.networks.adaptation.window import Window
from memory.arrays import Arrays
from memory.stateful import Stateful
from streams.batch import Floats

__all__ = ["Calibration"]

PRIOR = 20.0
"""Weight of the initial temperature of 1, in units of a row's curvature."""

STEEPEST = 5.0
"""Largest and smallest (1/5) slope."""

LARGEST_LOGIT = 20.0


class Calibration(Stateful):
    """Fits the slope of a logistic regression of labels on logits, and keeps the entropies of labelled slates.

    If items are clicked independently with odds e^z, and exactly one of a slate was, it was item i with a probability
    proportional to e^z_i: the softmax of calibrated logits. So the temperature that calibrates rows serves for slates, too.

    Parameters
    ----------
    slates : int
        Labelled slates whose entropies are kept.
    rows : int
        Rows after which a label counts 1/e as much.
    """

    def __init__(self, slates: int = 1000, rows: int = 50_000) -> None:
        self._rows = rows
        self.shares = Window(slates, share=np.float32)
        self.line = Arrays(
            weights=np.array([[1.0, 0.0]]), curvature=np.eye(2)[None] * PRIOR, private=["weights", "curvature"]
        )  # fmt: skip

    @property
    def temperature(self) -> float:
        """Logits have to be divided by this."""
        return float(1 / np.clip(self.line["weights"][0, 0], 1 / STEEPEST, STEEPEST))

    def quantile(self, share: float) -> float:
        """Quantile of the entropies of labelled slates, as a share of ln C. There must be some."""
        return float(np.quantile(self.shares["share"], share))

    @property
    def mean(self) -> float:
        """Mean of the entropies of labelled slates, as a share of ln C. There must be some."""
        return float(self.shares["share"].mean())

    def add(self, logits: Floats, label: Floats, weight: Floats) -> None:
        """Learn the temperature from labelled rows (n,): one Newton step."""
        x = np.stack((np.clip(logits.astype(np.float64), -LARGEST_LOGIT, LARGEST_LOGIT), np.ones(logits.size)))
        weights, curvature = self.line["weights"][0], self.line["curvature"][0]
        p = 1 / (1 + np.exp(-np.clip(weights @ x, -LARGEST_LOGIT, LARGEST_LOGIT)))
        curvature *= np.exp(-logits.size / self._rows)
        curvature += (x * (weight * p * (1 - p))) @ x.T + 1e-3 * np.eye(2)
        weights -= np.linalg.solve(curvature, x @ (weight * (p - label)))
        np.clip(weights, [1 / STEEPEST, -LARGEST_LOGIT], [STEEPEST, LARGEST_LOGIT], out=weights)
        self.line.mark()
