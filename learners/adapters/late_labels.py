"""Changes the normalisations of a network by labels that come after its last publication.

References
----------
D. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
J. Frankle, D. Schwab, A. Morcos, "Training BatchNorm and Only BatchNorm", ICLR 2021: what scales and shifts alone can learn.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Ranker
from learners.networks.adaptation.guarded import GuardedAdapter, Mode
from learners.networks.adaptation.guards import Limits
from learners.registry import register
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from streams.batch import Feedback, Floats

__all__ = ["LateLabels"]

BETAS, EPSILON = (0.9, 0.99), 1e-8


@register("late_labels")
class LateLabels(GuardedAdapter):
    """Trains scale and shift of a network's normalisations, except the last one's, on labels, with Adam.

    It is worth something where the network that answers is published rarely (``publish_every`` of deep): labels that came since
    then change some hundred numbers. It is guarded and published like sar.

    Parameters
    ----------
    ranker : Ranker
        A network: deep or dsl.
    mode : {"shadow", "gated"}
        `shadow`: both versions are scored and compared, and nothing is served. `gated`: the change is served while every guard
        holds.
    learning_rate : float
        Of a step (Adam).
    piece : int
        Rows of a step. A larger micro-batch is learned in several steps.
    candidates : int
        Rows of a request whose entropy the guards compare: those with the highest scores.
    requests : int
        Last requests whose entropies are compared.
    entropy_ratio, agreement, top_share, top_entropy, max_norm, gate_z : float
        Limits of the guards; see `learners.networks.adaptation.guards.Limits`. The entropy may fall for good reason here.
    calibration : (float, float)
        As above.
    window : int
        Requests that the guards without labels compare.
    gate_events : int
        Labelled requests that the label gate compares.
    pause : int
        Requests without a change after a guard has fired; then twice as many, and so on.
    pending : int
        Rows whose predictions wait for their outcome.

    Raises
    ------
    ValueError
        For a ranker that is no network, or has no layers to adapt.

    References
    ----------
    See the module.
    """

    checks_ranker = "learners.contract.taught_network"
    checks_parameters: ClassVar[dict[str, object]] = {
        "mode": "gated", "window": 40, "pending": 512, "learning_rate": 0.02, "max_norm": 100.0, "pause": 8, "gate_events": 40,
        "gate_z": 0.0,
    }  # fmt: skip
    checks_exempt: ClassVar[dict[str, str]] = {
        "check_adaptation": "It serves nothing before later labels have shown that its change is better."
    }
    private: ClassVar[frozenset[str]] = GuardedAdapter.private | {"moments"}
    tunable: ClassVar[Tunable] = {
        "learning_rate": Scale(3e-4, 0.03, log=True),
    }

    def __init__(
        self,
        ranker: Ranker,
        mode: Mode = "shadow",
        learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.003,
        piece: Annotated[int, Field(gt=0, le=4096)] = 64,
        candidates: Annotated[int, Field(gt=1, le=1024)] = 50,
        requests: Annotated[int, Field(gt=0, le=1024)] = 64,
        entropy_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5,
        agreement: Annotated[float, Field(ge=0, le=1)] = 0.7,
        top_share: Annotated[float, Field(ge=1)] = 2.0,
        top_entropy: Annotated[float, Field(ge=0, le=1)] = 0.8,
        calibration: tuple[float, float] = (0.8, 1.25),
        max_norm: Annotated[float, Field(gt=0)] = 5.0,
        gate_z: Annotated[float, Field(ge=0)] = 2.0,
        window: Annotated[int, Field(ge=20, le=1_000_000)] = 1000,
        gate_events: Annotated[int, Field(ge=40, le=1_000_000)] = 2000,
        pause: Annotated[int, Field(ge=0, le=1_000_000)] = 1000,
        pending: Annotated[int, Field(gt=0, le=100_000_000)] = 65_536,
    ) -> None:
        limits = Limits(entropy_ratio, agreement, top_share, top_entropy, calibration, max_norm, gate_z)
        super().__init__(
            ranker, mode=mode, candidates=candidates, requests=requests, limits=limits, window=window,
            gate_events=gate_events, pause=pause, pending=pending,
        )  # fmt: skip
        self._rate, self._piece = learning_rate, piece
        self.weights = Arrays(delta=np.zeros((1, self.affine.size), np.float32))
        self.moments = Arrays(
            mean=np.zeros((1, self.affine.size)), square=np.zeros((1, self.affine.size)), steps=np.zeros(1, np.int64)
        )  # fmt: skip

    @property
    def delta(self) -> Floats:
        """The live change, (D,)."""
        live: Floats = self.weights["delta"][0]
        return live

    def clear(self) -> None:
        """Set the change to zero, and forget the moments of its gradients."""
        for store in (self.weights, self.moments):
            for name in store:
                store[name][:] = 0
            store.mark()

    def learn_labels(self, feedback: Feedback, label: Floats, weight: Floats) -> None:
        """Do a step for every `piece` rows."""
        for start in range(0, feedback.rows, self._piece):
            rows = np.arange(start, min(start + self._piece, feedback.rows))
            gradient = self.affine.gradient(feedback.take(rows), self.delta, label[rows], weight[rows])
            if not np.isfinite(gradient).all():
                self.reset("non_finite")
                return
            self._descend(gradient)
            self.stepped()
            if self.paused:
                return

    def _descend(self, gradient: Floats) -> None:
        mean, square, steps = self.moments["mean"][0], self.moments["square"][0], self.moments["steps"]
        steps += 1
        for moment, power, beta in ((mean, 1, BETAS[0]), (square, 2, BETAS[1])):
            moment *= beta
            moment += (1 - beta) * (gradient.astype(np.float64) / self._piece) ** power
        scale = np.sqrt(square / (1 - BETAS[1] ** steps[0])) + EPSILON
        self.delta[:] -= (self._rate * mean / (1 - BETAS[0] ** steps[0]) / scale).astype(np.float32)
        self.weights.mark()
        self.moments.mark()
