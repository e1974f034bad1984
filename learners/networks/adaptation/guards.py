"""What stops a change from being served: watching its choices without labels, and comparing its losses with labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learners.networks.adaptation.window import Window
from memory.arrays import Arrays
from memory.stateful import Stateful
from streams.batch import Bools, Floats, Ids, Times

__all__ = ["ENOUGH", "LabelGate", "Limits", "Losses", "Watch"]

ENOUGH = 20
"""A window is judged when it has at least one in so many of its entries."""


_SUMS = ("source", "adapted", "source_sum", "adapted_sum", "label", "weight")
"""Columns of an event: log losses, predictions, labels and weights, summed over its rows."""


class Limits(NamedTuple):
    """When a guard fires.

    Attributes
    ----------
    entropy_ratio : float
        Entropy with the change divided by that without, in the last requests: at least this.
    agreement : float
        Share of requests whose best item is the same with and without the change: at least this.
    top_share : float
        Share of the item that is best most often, divided by its share without the change: at most this.
    top_entropy : float
        Entropy of the distribution of best items, divided by that without the change: at least this.
    calibration : (float, float)
        Mean prediction divided by the mean label, where labels are known: from the first to the second. Beyond, the guard fires
        only if the predictions without the change are nearer.
    norm : float
        Length of the change: at most this.
    z : float
        Standard errors by which the loss must be lower for the change to be served, and higher for a reset.
    """

    entropy_ratio: float = 0.9
    agreement: float = 0.7
    top_share: float = 2.0
    top_entropy: float = 0.8
    calibration: tuple[float, float] = (0.8, 1.25)
    norm: float = 5.0
    z: float = 2.0


class Watch(Stateful):
    """Compares what the last requests would have been shown with and without the change; no labels are needed.

    Parameters
    ----------
    limits : Limits
    window : int
        Requests that are compared.
    recent : int
        Requests whose entropies are compared; at most `window`.
    """

    def __init__(self, limits: Limits, window: int, recent: int) -> None:
        self._limits, self._recent = limits, min(recent, window)
        self.window = Window(
            window, source_item=np.int64, adapted_item=np.int64, source_entropy=np.float32, adapted_entropy=np.float32
        )  # fmt: skip

    def add(self, source_item: Ids, adapted_item: Ids, source_entropy: Floats, adapted_entropy: Floats) -> None:
        """Add requests (b,): their best items, and the entropies of their slates in any unit; NaN for a single item."""
        self.window.add(
            source_item=source_item, adapted_item=adapted_item,
            source_entropy=np.nan_to_num(source_entropy), adapted_entropy=np.nan_to_num(adapted_entropy),
        )  # fmt: skip

    @property
    def entropy_ratio(self) -> float:
        """Mean entropy with the change divided by that without, in the last requests; 1 without any."""
        source = float(self.window.last("source_entropy", self._recent).sum())
        return float(self.window.last("adapted_entropy", self._recent).sum()) / source if source > 0 else 1.0

    @property
    def agreement(self) -> float:
        """Share of requests with the same best item; 1 without any."""
        same = self.window["source_item"] == self.window["adapted_item"]
        return float(same.mean()) if same.size else 1.0

    def concentration(self) -> tuple[float, float]:
        """Largest share of an item, and entropy of the items, with the change divided by those without; 1 without any."""
        if not len(self.window):
            return 1.0, 1.0
        (share, entropy), (source_share, source_entropy) = (
            _concentration(self.window[name]) for name in ("adapted_item", "source_item")
        )
        return share / source_share, entropy / source_entropy if source_entropy > 0 else 1.0

    def verdict(self) -> str:
        """Name of the guard that fires, else empty."""
        limits = self._limits
        if len(self.window) >= self._recent and self.entropy_ratio < limits.entropy_ratio:
            return "entropy_ratio"
        if len(self.window) * ENOUGH < self.window.capacity:
            return ""
        share, entropy = self.concentration()
        if share > limits.top_share or entropy < limits.top_entropy:
            return "concentration"
        return "agreement" if self.agreement < limits.agreement else ""


class Losses(NamedTuple):
    """Mean log losses and predictions of rows whose labels are known.

    Attributes
    ----------
    source, adapted : float
        Log loss a row without and with the change.
    source_ratio, adapted_ratio : float
        Mean prediction divided by the mean label; 1 while that is 0.
    """

    source: float
    adapted: float
    source_ratio: float
    adapted_ratio: float


class LabelGate(Stateful):
    """Compares the log loss of predictions with and without the change, once labels are known. It has the last word.

    An event is all rows of a request that were resolved together, because rows of one slate are not independent. Clicks are
    known before it is known what was left alone. So an event counts once requests as late as its own have rows that were left
    alone; else a change that raises all predictions would look good at first.

    Parameters
    ----------
    limits : Limits
    events : int
        Last events that count.
    """

    def __init__(self, limits: Limits, events: int) -> None:
        self._limits = limits
        self.window = Window(events, **dict.fromkeys((*_SUMS, "time"), np.float64))
        self.closed = Arrays(time=np.full(1, -np.inf), private=["time"])

    def close(self, times: Times) -> None:
        """Note the times of requests (b,), Unix seconds, of which it is known what was left alone."""
        if times.size:
            self.closed["time"][0] = max(self.closed["time"][0], times.max())
            self.closed.mark()

    def add(self, request: Ids, time: Times, source: Floats, adapted: Floats, label: Floats, weight: Floats) -> None:
        """Add rows (n,).

        Parameters
        ----------
        request : (n,) int64
            Non-decreasing.
        time : (n,) float64
            Of the request, Unix seconds.
        source, adapted : (n,) float32
            Logits.
        label, weight : (n,) float32
            Labels from 0 to 1.
        """
        if not request.size:
            return
        z = np.stack((source, adapted)).astype(np.float64)
        loss = np.logaddexp(0, z) - label * z
        p = 1 / (1 + np.exp(-np.clip(z, -700, 700)))
        start = np.unique(request, return_index=True)[1]
        columns = (*loss * weight, *p * weight, label * weight, weight.astype(np.float64))
        sums = {name: np.add.reduceat(column, start) for name, column in zip(_SUMS, columns, strict=True)}
        self.window.add(**sums, time=time[start])

    @property
    def gains(self) -> Times:
        """What the change has saved of the log loss of each event that counts."""
        gains: Times = (self.window["source"] - self.window["adapted"])[self._known]
        return gains

    @property
    def z(self) -> float:
        """Mean gain of the change in standard errors; 0 while there are too few events."""
        gain = self.gains
        if gain.size * ENOUGH < self.window.capacity or gain.size < 2:
            return 0.0
        error = float(gain.std(ddof=1)) / gain.size**0.5
        return float(gain.mean()) / error if error > 0 else 0.0

    def losses(self) -> Losses:
        """Means over the events that count; of nothing, losses are 0."""
        known = self._known
        total = {name: float(self.window[name][known].sum()) for name in self.window.entries}
        rows, label = max(total["weight"], 1e-12), total["label"]
        ratios = (total[name] / label if label > 0 else 1.0 for name in ("source_sum", "adapted_sum"))
        return Losses(total["source"] / rows, total["adapted"] / rows, *ratios)

    def verdict(self) -> str:
        """Name of the guard that fires, else empty."""
        if self.gains.size * ENOUGH < self.window.capacity:
            return ""
        if self.z < -self._limits.z:
            return "labels"
        low, high = self._limits.calibration
        losses = self.losses()
        beyond = not low <= losses.adapted_ratio <= high
        return "calibration" if beyond and _distance(losses.adapted_ratio) > _distance(losses.source_ratio) else ""

    @property
    def _known(self) -> Bools:
        known: Bools = self.window["time"] <= self.closed["time"][0]
        return known


def _concentration(items: Ids) -> tuple[float, float]:
    """Largest share of an item, and the entropy of the shares, of at least one item."""
    shares = np.unique(items, return_counts=True)[1] / items.size
    return float(shares.max()), float(-(shares * np.log(shares)).sum())


def _distance(ratio: float) -> float:
    return abs(float(np.log(max(ratio, 1e-12))))
