"""Base class of adapters that change a network's normalisations, measure what that does, and serve it only if it is better.

What is served without labels is guarded without labels (`Watch`). Labels have the last word (`LabelGate`). Every guard that
fires sets the change to zero, and the adapter pauses: at first for `pause` requests, then for twice as many.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

import numpy as np

from learners.base import Adapter, Ranker, WeightDelta
from learners.bounds import graded
from learners.networks.adaptation.affine import Affine
from learners.networks.adaptation.calibration import Calibration
from learners.networks.adaptation.guards import LabelGate, Limits, Watch
from learners.networks.adaptation.predictions import Predictions
from learners.networks.adaptation.shares import best_rows, entropy_shares, first_choices
from memory.arrays import Arrays
from streams.batch import Batch, Feedback, Floats, Ids

__all__ = ["GUARDS", "GuardedAdapter", "Mode"]

Mode = Literal["shadow", "gated"]

GUARDS = ("non_finite", "entropy", "entropy_ratio", "concentration", "agreement", "calibration", "norm", "labels")
"""Reasons of a reset, in the order of guards (a) to (g); `norm` belongs to (f)."""

LONGEST_PAUSE = 6
"""Times that a pause is doubled."""


class GuardedAdapter(Adapter):
    """Keeps a change of a network's normalisations relative to one version of the network. Subclasses find the change.

    Parameters
    ----------
    ranker : Ranker
        A `NetworkRanker`.
    mode : {"shadow", "gated"}
        `shadow` measures and serves nothing. `gated` serves the change while every guard holds.
    candidates : int
        Rows of a slate that count for its entropy: those with the highest scores.
    requests : int
        Requests of a step, and those whose entropies are compared.
    limits : Limits
    window : int
        Requests that are watched, and labelled slates that calibrate.
    gate_events : int
        Labelled requests that the label gate compares.
    pause : int
        Requests without a change after the first reset.
    pending : int
        Rows whose predictions wait for labels.
    """

    private: ClassVar[frozenset[str]] = frozenset({"predictions", "calibration", "watch", "gate", "counts", "resets"})

    def __init__(
        self,
        ranker: Ranker,
        *,
        mode: Mode,
        candidates: int,
        requests: int,
        limits: Limits,
        window: int,
        gate_events: int,
        pause: int,
        pending: int,
    ) -> None:
        super().__init__(ranker)
        self.affine = Affine(ranker)
        self.mode, self.candidates, self.requests, self.limits, self.pause = mode, candidates, requests, limits, pause
        self.status = Arrays(serving=np.zeros(1, np.int64), version=np.zeros(1, np.int64))
        self.predictions = Predictions(pending)
        self.calibration = Calibration(window)
        self.watch, self.gate = Watch(limits, window, requests), LabelGate(limits, gate_events)
        self.counts = Arrays(**{name: np.zeros(1, np.int64) for name in ("paused", "quiet", "level", "steps")})
        self.resets = Arrays(**{name: np.zeros(1, np.int64) for name in GUARDS})

    @property
    @abstractmethod
    def delta(self) -> Floats:
        """The live change, (D,)."""

    @abstractmethod
    def clear(self) -> None:
        """Set the change to zero, and forget how it came about."""

    @property
    def changes(self) -> Collection[str]:
        """Scales and shifts of all normalisations but the last."""
        return self.affine.shapes

    @property
    def paused(self) -> bool:
        """Whether there is no change because a guard has fired."""
        return bool(self.counts["paused"][0] > 0)

    def adapt(self, batch: Batch) -> WeightDelta:
        """Return the change while it is served, else nothing."""
        if not self.status["serving"][0] or self.status["version"][0] != self.affine.ranker.version:
            return {}
        return self.affine.arrays(self.delta)

    def observe(self, batch: Batch) -> None:
        """Score the rows with and without the change, compare, and let the subclass learn from them."""
        self._follow_version()
        if not batch.rows:
            return
        source = self.affine.logits(batch)
        adapted = self.affine.logits(batch, self.delta) if self.delta.any() else source
        if not (np.isfinite(source).all() and np.isfinite(adapted).all()):
            self.reset("non_finite")
            return
        rows = best_rows(batch.request, source, self.candidates)
        present, request = np.unique(batch.request[rows], return_inverse=True)
        temperature = self.calibration.temperature
        share, after = (entropy_shares(request, logits[rows] / temperature) for logits in (source, adapted))
        of_rows = share[np.searchsorted(present, batch.request)]
        self.predictions.add(batch, source, adapted, of_rows, int(self.resets_total))
        if self.delta.any():
            chosen, changed = (batch.item[first_choices(batch.request, logits)] for logits in (source, adapted))
            self.watch.add(chosen, changed, share, after)
            self._obey(self.watch.verdict())
        if self.paused:
            self.counts["paused"][0] = max(self.counts["paused"][0] - batch.user.size, 0)
        else:
            self.counts["quiet"][0] += batch.user.size
            self.learn_shown(batch, source, rows)
        self.counts.mark()

    def learn(self, feedback: Feedback) -> None:
        """Compare the losses of rows that were predicted when they were shown; then let the subclass learn from the labels."""
        self._follow_version()
        label, weight, _ = graded(feedback.reward, feedback.weight)
        found = self.predictions.take(feedback)
        if found.rows.size:
            label_of, weight_of = label[found.rows], np.maximum(weight[found.rows], 0.0)
            # What a change scored that has since been reset says nothing about the present one.
            now = (found.generation == self.resets_total) & (found.source != found.adapted)
            request = feedback.request[found.rows]
            time = feedback.timestamp[request]
            self.gate.close(time[~feedback.touched[found.rows]])
            self.gate.add(*(column[now] for column in (request, time, found.source, found.adapted, label_of, weight_of)))
            self.calibration.add(found.source, label_of, weight_of)
            self._note_entropies(feedback, found.rows, found.share)
            self._obey(self.gate.verdict())
        if not self.paused:
            self.learn_labels(feedback, label, weight)
        self._decide()

    def learn_shown(self, batch: Batch, source: Floats, rows: Ids) -> None:
        """Learn from rows without labels.

        Parameters
        ----------
        batch : Batch
        source : (N,) float32
            Logits without the change.
        rows : (n,) int64
            The rows that count for entropies.
        """

    def learn_labels(self, feedback: Feedback, label: Floats, weight: Floats) -> None:
        """Learn from labels (N,) and weights (N,), as `learners.bounds.graded` returns them."""

    def stepped(self, reset: str = "") -> None:
        """Count a step of the subclass, which may have ended in a reset. Guard its result."""
        self.counts["steps"][0] += 1
        self.counts.mark()
        if not reset and not np.isfinite(self.delta).all():
            reset = "non_finite"
        if not reset and float(np.linalg.norm(self.delta)) > self.limits.norm:
            reset = "norm"
        self._obey(reset)

    def reset(self, guard: str) -> None:
        """Go back to the network as it is, for a guard that fired, and pause."""
        self.clear()
        self.watch.window.clear()
        self.gate.window.clear()
        counts, window = self.counts, self.watch.window.capacity
        level = 0 if counts["quiet"][0] > window << int(counts["level"][0]) else int(counts["level"][0])
        counts["paused"][0], counts["quiet"][0] = self.pause << level, 0
        counts["level"][0] = min(level + 1, LONGEST_PAUSE)
        self.resets[guard][0] += 1
        self.resets.mark()
        counts.mark()
        self._decide()

    @property
    def resets_total(self) -> int:
        """Number of resets."""
        return sum(int(self.resets[guard][0]) for guard in GUARDS)

    def metrics(self) -> Mapping[str, float]:
        """Return what is known of the change; see docs/learners/sar.md.

        On a replica only ``serving`` and ``delta_norm`` are current.
        """
        losses = self.gate.losses()
        top_share, top_entropy = self.watch.concentration()
        return {
            "serving": float(self.status["serving"][0]),
            "delta_norm": float(np.linalg.norm(self.delta)),
            "steps": float(self.counts["steps"][0]),
            "paused": float(self.counts["paused"][0]),
            "label_gate": self.gate.z,
            "log_loss": losses.source,
            "log_loss_adapted": losses.adapted,
            "calibration": losses.adapted_ratio,
            "entropy_ratio": self.watch.entropy_ratio,
            "agreement": self.watch.agreement,
            "top1_share": top_share,
            "top1_entropy": top_entropy,
            "temperature": self.calibration.temperature,
            "dropped": float(self.predictions.dropped),
            "resets": float(self.resets_total),
            **{f"resets_{guard}": float(self.resets[guard][0]) for guard in GUARDS},
        }

    def _follow_version(self) -> None:
        """Set the change to zero when the network has been published anew: it was a change of the previous version."""
        version = self.affine.ranker.version
        if self.status["version"][0] != version:
            self.clear()
            self.watch.window.clear()
            self.status["version"][0] = version
            self.status.mark()
            self._decide()

    def _obey(self, guard: str) -> None:
        if guard:
            self.reset(guard)

    def _decide(self) -> None:
        """Serve the change if labels say so."""
        serving = self.mode == "gated" and not self.paused and self.gate.z > self.limits.z and bool(self.delta.any())
        if serving != bool(self.status["serving"][0]):
            self.status["serving"][0] = serving
            self.status.mark()

    def _note_entropies(self, feedback: Feedback, rows: Ids, share: Floats) -> None:
        """Keep the entropies of slates whose rows were not chosen: now all of the slate is known."""
        open_, of_rows = ~feedback.touched[rows], feedback.request[rows]
        first = np.unique(of_rows[open_], return_index=True)[1]
        known = share[open_][first]
        self.calibration.shares.add(share=known[~np.isnan(known)])
