"""Rewards of interactions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from service.tables.rows import RewardRule
from streams.batch import Floats

__all__ = ["Rewards"]


class Rewards:
    """Computes the reward of an interaction from its kind and value.

    Parameters
    ----------
    rules : mapping of kind to float or RewardRule
        A number times the interaction's value, or a rule on its value.
    """

    def __init__(self, rules: Mapping[str, float | RewardRule]) -> None:
        self._rules = dict(rules)

    def of(self, kind: str, value: float) -> float:
        """Reward of one outcome; 0 for an item without an interaction (empty kind)."""
        if not kind:
            return 0.0
        rule = self._rules[kind]
        if isinstance(rule, RewardRule):
            return rule.then if value >= rule.at_least else rule.otherwise
        return rule * value

    def of_many(self, kind: str, value: npt.NDArray[np.float64]) -> Floats:
        """Rewards (n,) of outcomes of one kind with values (n,)."""
        rule = self._rules[kind]
        if isinstance(rule, RewardRule):
            return np.where(value >= rule.at_least, np.float32(rule.then), np.float32(rule.otherwise))
        return (rule * value).astype(np.float32)
