"""Decisions with a known best item: users in clusters, items, and the click probability of each pair.

The distribution and the seed are those of the stream on which the peers were measured: 1,000 users in 20 clusters, 500 items,
100 random candidates per decision. There is one coin for each decision, whatever is selected, and a click if it falls below the
probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CLUSTERS", "Decisions", "make"]

Doubles = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

USERS, CLUSTERS, ITEMS, DIMENSIONS, CANDIDATES = 1000, 20, 500, 32, 100
SEED = 77


@dataclass(slots=True, kw_only=True)
class Decisions:
    """N decisions.

    Attributes
    ----------
    user : (N,) int64
    candidates : (N, 100) int64
        Items to select from, in random order.
    best : (N,) float64
        Highest click probability of the candidates.
    probability : (users, items) float64
        True click probabilities; no contender sees them.
    vectors : (users, 32) float32
    centers : (clusters, 32) float64
        Centers from which the users were drawn.
    cluster : (users,) int64
    """

    user: Codes
    candidates: Codes
    best: Doubles
    probability: Doubles
    vectors: npt.NDArray[np.float32]
    centers: Doubles
    cluster: Codes

    def __len__(self) -> int:
        return self.user.size

    def coins(self, seed: int) -> Doubles:
        """Draw one coin for each decision, (N,)."""
        return np.random.default_rng((SEED, seed)).random(len(self))

    def regret(self, chosen: Codes) -> Doubles:
        """Click probability that each choice missed, for the first ``chosen.size`` decisions."""
        return self.best[: chosen.size] - self.probability[self.user[: chosen.size], chosen]


def make(decisions: int, seed: int = SEED) -> Decisions:
    """Make the stream. Other lengths give other users and candidates, because the length decides what is drawn."""
    rng = np.random.default_rng(seed)
    centers = _unit(rng.normal(0, 1, (CLUSTERS, DIMENSIONS)))
    cluster = rng.integers(0, CLUSTERS, USERS)
    vectors = _unit(centers[cluster] + 0.35 * rng.normal(0, 1, (USERS, DIMENSIONS)) / np.sqrt(DIMENSIONS))
    qualities = _unit(rng.normal(0, 1, (ITEMS, DIMENSIONS)))
    taste = rng.normal(0, 1, (CLUSTERS, ITEMS))
    logit = -2.6 + 0.7 * (vectors @ qualities.T) * np.sqrt(DIMENSIONS) + 0.9 * taste[cluster]
    logit += 0.3 * rng.normal(0, 1, ITEMS)[None]
    probability = 1 / (1 + np.exp(-logit))
    user = rng.integers(0, USERS, decisions)
    candidates = np.empty((decisions, CANDIDATES), np.int64)
    best = np.empty(decisions)
    for start in range(0, decisions, 5000):
        part = slice(start, min(start + 5000, decisions))
        candidates[part] = np.argsort(rng.random((part.stop - start, ITEMS)), axis=1)[:, :CANDIDATES]
        best[part] = np.take_along_axis(probability[user[part]], candidates[part], axis=1).max(axis=1)
    return Decisions(
        user=user,
        candidates=candidates,
        best=best,
        probability=probability,
        vectors=vectors.astype(np.float32),
        centers=centers,
        cluster=cluster,
    )


def _unit(x: npt.NDArray[Any]) -> Doubles:
    unit: Doubles = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit
