"""Small adapters over a network that has learned the world, and what happens to them."""

from __future__ import annotations

from typing import Any

import numpy as np

from learners.adapters.late_labels import LateLabels
from learners.adapters.sar import SharpnessAwareReliable
from learners.contract.answers import teach
from learners.contract.small import bind_to_world
from learners.contract.taught_network import TaughtNetwork
from learners.contract.worlds import world
from learners.networks.adaptation.guarded import GUARDS, GuardedAdapter

SMALL: dict[str, Any] = {"window": 40, "gate_events": 40, "pause": 64, "max_norm": 1e3, "mode": "gated"}

FREE: dict[str, Any] = {
    "entropy_ratio": 0.0, "agreement": 0.0, "top_share": 1e9, "top_entropy": 0.0, "calibration": (0.0, 1e9), "gate_z": 1e9,
}  # fmt: skip
"""Guards that never fire."""


def sar(**keywords: Any) -> SharpnessAwareReliable:
    steps = {"requests": 8, "learning_rate": 0.1, "floor": 0.0, "kl": 0.0}
    return bind_to_world(SharpnessAwareReliable(bind_to_world(TaughtNetwork()), **SMALL | steps | keywords))


def late_labels(**keywords: Any) -> LateLabels:
    return bind_to_world(LateLabels(bind_to_world(TaughtNetwork()), **SMALL | {"learning_rate": 0.02} | keywords))


def moved(u: np.ndarray, i: np.ndarray) -> np.ndarray:
    """The world with fewer positive rewards: what the network has learned is too high."""
    return np.where(u % 4 == i % 4, 0.4, 0.02)


def teach_worlds(adapter: GuardedAdapter, seeds: range, **keywords: Any) -> None:
    for seed in seeds:
        teach(adapter, world(seed, **keywords))


def fired(adapter: GuardedAdapter) -> set[str]:
    return {guard for guard in GUARDS if adapter.metrics()[f"resets_{guard}"]}
