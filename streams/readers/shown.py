"""A recorded decision, as every reader of decisions gives it."""

from __future__ import annotations

from msgspec import Struct

from streams.events import Impression

__all__ = ["Decision"]


class Decision(Struct, frozen=True, kw_only=True, gc=False):
    """What was shown, among what, and what came of it.

    Attributes
    ----------
    impression : Impression
        Items shown, each with its propensity.
    others : tuple of str
        The candidates that were not shown.
    kind : str
        What kind of interaction a reward is.
    rewards : tuple of float
        Of each place.
    importance : float
        Decisions that this one stands for.
    """

    impression: Impression
    others: tuple[str, ...]
    kind: str
    rewards: tuple[float, ...]
    importance: float = 1.0
