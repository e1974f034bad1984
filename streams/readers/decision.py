"""A recorded decision: what every reader of decisions yields."""

from __future__ import annotations

from msgspec import Struct

from streams.events import Impression

__all__ = ["LARGEST", "Decision"]

LARGEST = 3.4e38
"""Largest reward, in magnitude: learners calculate with float32."""


class Decision(Struct, frozen=True, kw_only=True, gc=False):
    """The items shown, the candidates that were not shown, and the rewards.

    Attributes
    ----------
    impression : Impression
        Items shown, with their propensities.
    others : tuple of str
        The candidates that were not shown.
    kind : str
        Kind of interaction that a reward stands for.
    rewards : tuple of float
        Reward of each position.
    importance : float
        Number of decisions that this one stands for (above 1 in a sampled log).
    """

    impression: Impression
    others: tuple[str, ...]
    kind: str
    rewards: tuple[float, ...]
    importance: float = 1.0
