"""SAR: changes normalisations so that a network is more certain of its slates, where it was certain already.

References
----------
S. Niu et al., "Towards Stable Test-Time Adaptation in Dynamic Wild World", ICLR 2023 (SAR): the filter, the passes, the reset.
P. Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021.
S. Niu et al., "Efficient Test-Time Model Adaptation without Forgetting", ICML 2022: the threshold of 0.4 ln C.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Ranker
from learners.lookups import Catalogues, UserHistory
from learners.networks.adaptation.guarded import GuardedAdapter, Mode
from learners.networks.adaptation.guards import ENOUGH, Limits
from learners.networks.adaptation.minimizer import PAPER, Aim, Ascent, EntropyMinimizer, Logits, Method
from learners.networks.adaptation.slates import Slates
from learners.networks.adaptation.waiting import WaitingSlates
from learners.registry import register
from learners.schema import Schema
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from streams.batch import Batch, Floats, Ids

__all__ = ["SharpnessAwareReliable"]

PAPER_THRESHOLD = 0.4
"""Share of ln C."""

REFERENCE_REQUESTS = 64
"""Requests of a step to which `learning_rate` refers."""


@register("sar")
class SharpnessAwareReliable(GuardedAdapter):
    """Lowers the entropy of the softmax over a request's candidates, of those requests whose entropy is low already.

    It learns from shown rows before their outcome is known, in micro-batches of requests, between the learning of other
    batches. A request is never waited for. The first pass finds the gradient; the second, a small step uphill, the one to
    descend by. docs/learners/sar.md has what it does on real slates: nothing for their order.

    Parameters
    ----------
    ranker : Ranker
        A network: deep or dsl. Scale and shift of its normalisations change, except the last one's.
    mode : {"shadow", "gated"}
        `shadow`: both versions are scored and compared, and nothing is served. `gated`: the change is served while every guard
        holds.
    requests : int
        Requests of a step.
    candidates : int
        Rows of a request that count: those with the highest scores.
    learning_rate : float
        For 64 requests; it is proportional to `requests`.
    momentum : float
        Of the gradient step.
    radius : float
        Length of the step uphill.
    quantile : float
        A request is reliable if its entropy, as a share of ln C, is below this quantile of those of labelled requests.
    floor : float
        Entropies are not lowered below this share of the mean entropy of labelled requests. 0: no floor.
    kl : float
        Weight of the divergence from the network's own shares.
    ema_decay, min_entropy : float
        The moving average of reliable entropies, as a share of ln C, and the bound below which everything is reset.
    clear_ema, clear_momentum, skip_empty, check_finite : bool
        Remedies of the public code's faults; see `learners.networks.adaptation.minimizer.Method`.
    paper : bool
        Do as the public code does: a threshold of 0.4 ln C, a bound of 0.2 nats, no temperature, no floor, no divergence, no
        remedies. The guards stay.
    entropy_ratio, agreement, top_share, top_entropy, max_norm, gate_z : float
        Limits of the guards; see `learners.networks.adaptation.guards.Limits`.
    calibration : (float, float)
        As above.
    window : int
        Requests that the guards without labels compare, and labelled requests that calibrate.
    gate_events : int
        Labelled requests that the label gate compares.
    pause : int
        Requests without a change after a guard has fired; then twice as many, and so on.
    pending : int
        Rows whose predictions wait for their outcome. More rows than are shown in `[stream] window` are not needed.

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
        "requests": 8, "window": 40, "pending": 512, "learning_rate": 0.05, "max_norm": 100.0, "pause": 8, "gate_events": 40,
    }  # fmt: skip
    checks_exempt: ClassVar[dict[str, str]] = {
        "check_adaptation": "It serves nothing before later labels have shown that its change is better."
    }
    tunable: ClassVar[Tunable] = {
        "learning_rate": Scale(1e-4, 0.01, log=True),
        "radius": Scale(0.005, 0.5, log=True),
    }

    def __init__(
        self,
        ranker: Ranker,
        mode: Mode = "shadow",
        requests: Annotated[int, Field(gt=0, le=1024)] = 16,
        candidates: Annotated[int, Field(gt=1, le=1024)] = 50,
        learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.001,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        radius: Annotated[float, Field(ge=0, le=10)] = 0.05,
        quantile: Annotated[float, Field(gt=0, le=1)] = 0.5,
        floor: Annotated[float, Field(ge=0, le=1)] = 0.9,
        kl: Annotated[float, Field(ge=0, le=100)] = 0.1,
        ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        min_entropy: Annotated[float, Field(ge=0, le=1)] = 0.029,
        clear_ema: bool = True,
        clear_momentum: bool = True,
        skip_empty: bool = True,
        check_finite: bool = True,
        paper: bool = False,
        entropy_ratio: Annotated[float, Field(ge=0, le=1)] = 0.9,
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
        method = Method(
            momentum, radius, kl, ema_decay, min_entropy, False, clear_ema, clear_momentum, skip_empty, check_finite
        )  # fmt: skip
        if paper:
            method = PAPER._replace(momentum=momentum, radius=radius, ema_decay=ema_decay)
        self._paper, self._rate, self._quantile, self._floor = paper, learning_rate, quantile, floor
        self.minimizer = EntropyMinimizer(self.affine.size, method)
        self.kept = Arrays(ratio=np.zeros(1), private=["ratio"])

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Make room for waiting requests."""
        self.waiting = WaitingSlates(schema, self.requests, self.candidates)
        halfway = {
            "change": np.zeros((1, self.affine.size), np.float32),
            "reliable": np.zeros((1, self.requests), np.bool_),
            "aim": np.zeros((1, 3)),
            "open": np.zeros(1, np.bool_),
        }
        self.halfway = Arrays(private=list(halfway), **halfway)

    @property
    def delta(self) -> Floats:
        """The live change, (D,)."""
        live: Floats = self.minimizer.delta
        return live

    def clear(self) -> None:
        """Set the change to zero, and forget momentum, average, and the step that is half done."""
        self.minimizer.clear()
        if self.halfway["open"][0]:
            self.waiting.take()
            self._note_halfway(False)

    def forget(self, users: Ids) -> None:
        """Delete the waiting requests of these users (hashed ids)."""
        before = len(self.waiting)
        self.waiting.forget(users)
        if len(self.waiting) < before:
            self._note_halfway(False)

    def learn_shown(self, batch: Batch, source: Floats, rows: Ids) -> None:
        """Collect requests of at least two candidates, and begin a step whenever there are enough.

        It is finished when more requests come, so that a ranking does not have to wait for both passes.
        """
        size = np.bincount(batch.request[rows], minlength=batch.user.size)
        usable = np.flatnonzero(size > 1)
        while usable.size and not self.paused:
            if self.halfway["open"][0]:
                self._finish()
                continue
            some, usable = np.split(usable, [self.requests - len(self.waiting)])
            self.waiting.add(batch, some, rows[np.isin(batch.request[rows], some)])
            if len(self.waiting) == self.requests:
                self._begin()

    def metrics(self) -> Mapping[str, float]:
        """Return those of `GuardedAdapter`, and ``kept_ratio``, the share of reliable requests in the last step."""
        return {**super().metrics(), "kept_ratio": float(self.kept["ratio"][0])}

    def _begin(self) -> None:
        threshold, floor, temperature = PAPER_THRESHOLD, 0.0, 1.0
        if not self._paper:
            known = self.calibration
            if len(known.shares) * ENOUGH < known.shares.capacity:
                self.waiting.take()
                return
            threshold, floor, temperature = known.quantile(self._quantile), self._floor * known.mean, known.temperature
        batch = self.waiting.batch()
        ascent = self.minimizer.ascend(*self._problem(batch, threshold, floor, temperature)).ascent
        if ascent.finite and ascent.reliable.any():
            self.halfway["change"][0], self.halfway["reliable"][0] = ascent.change, ascent.reliable
            self.halfway["aim"][0] = threshold, floor, temperature
            self._note_halfway(True)
        else:
            self._descend(ascent, self.waiting.take(), threshold, floor, temperature)

    def _finish(self) -> None:
        ascent = Ascent(self.halfway["change"][0], self.halfway["reliable"][0])
        self._note_halfway(False)
        self._descend(ascent, self.waiting.take(), *map(float, self.halfway["aim"][0]))

    def _descend(self, ascent: Ascent, batch: Batch, threshold: float, floor: float, temperature: float) -> None:
        rate = self._rate * batch.user.size / REFERENCE_REQUESTS
        reliable, reset = self.minimizer.descend(ascent, *self._problem(batch, threshold, floor, temperature), rate)
        self.kept["ratio"][0] = reliable.mean()
        self.kept.mark()
        self.stepped(reset)

    def _problem(self, batch: Batch, threshold: float, floor: float, temperature: float) -> tuple[Logits, Slates, Aim]:
        """Return what both passes of a step need."""
        source = self.affine.tensor(batch, temperature) if self.minimizer.method.kl else None
        slates = Slates.of(batch.request, batch.user.size, self.affine.ranker.device)
        return self.affine.tracked(batch, temperature), slates, Aim(threshold, floor, source)

    def _note_halfway(self, is_open: bool) -> None:
        self.halfway["open"][0] = is_open
        self.halfway.mark()
