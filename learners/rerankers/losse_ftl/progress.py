"""How well the world model predicts what it is about to learn, beside the mean so far."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from memory.arrays import Floats

__all__ = ["Progress"]

Values = npt.NDArray[np.float64]

_RATE = 0.002
"""Weight of a new error in the mean lately."""


class Progress:
    """Means of squared errors since the process started; not part of the state.

    Parameters
    ----------
    outcomes, changes : int
        Lengths of an outcome, whose first number is the reward, and of a change of state.
    """

    def __init__(self, outcomes: int, changes: int) -> None:
        self._mean = [np.zeros(outcomes), np.zeros(changes)]
        self._count = [0, 0]
        self._errors = np.zeros((2, 2))

    def note(self, outcome: Floats, true_outcome: Values, change: Floats | None, true_change: Values | None) -> None:
        """Count a prediction before its row is learned; without a change of state, the outcome only."""
        self._note(0, outcome[:1], true_outcome[:1])
        if change is not None and true_change is not None:
            self._note(1, change, true_change)

    def metrics(self) -> Mapping[str, float]:
        """Mean squared errors lately, of the model and of the mean so far."""
        names = ("reward_error", "reward_constant"), ("change_error", "change_constant")
        return {name: float(self._errors[n, k]) for n, pair in enumerate(names) for k, name in enumerate(pair)}

    def _note(self, which: int, predicted: Floats, true: Values) -> None:
        mean = self._mean[which][: true.size]
        errors = np.array([((predicted - true) ** 2).mean(), ((mean - true) ** 2).mean()])
        self._count[which] += 1
        self._errors[which] += max(_RATE, 1.0 / self._count[which]) * (errors - self._errors[which])
        mean += (true - mean) / self._count[which]
