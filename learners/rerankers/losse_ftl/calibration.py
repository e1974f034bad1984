"""Makes scores probabilities again after they were changed.

References
----------
J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999: a logistic regression of the outcome on the score.
E. Hazan, A. Agarwal, S. Kale, "Logarithmic regret algorithms for online convex optimization", Machine Learning 69 (2007): the
online Newton step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Floats
from memory.jit import njit
from memory.stateful import Stateful

__all__ = ["Calibration"]

Values = npt.NDArray[np.float64]

_PRIOR, _KEEP = 20.0, 0.9995
"""Strength of the beginning, where scores stay as they are; weight that is left to earlier rows after each one."""

_CERTAIN = 1e-6


class Calibration(Stateful):
    """``sigmoid(offset + slope * logit(score))``, which begins as the score itself and learns with each row.

    The slope stays above 0, so the order of scores stays.
    """

    def __init__(self) -> None:
        start = np.array([[0.0, 1.0]])
        self.curve = Arrays(theta=start, hessian=_PRIOR * np.eye(2)[None], private=["hessian"])

    def apply(self, score: Values) -> Floats:
        """Calibrated scores, (n,) float32, of scores (n,)."""
        offset, slope = self.curve["theta"][0]
        inside = np.clip(score, _CERTAIN, 1.0 - _CERTAIN)
        calibrated: Floats = (1.0 / (1.0 + np.exp(-(offset + slope * np.log(inside / (1.0 - inside)))))).astype(np.float32)
        return calibrated

    def learn(self, score: Values, label: Floats, weight: Values) -> None:
        """Learn scores (n,) of rows with labels (n,) from 0 to 1 and weights (n,)."""
        if score.size:
            inside = np.clip(score, _CERTAIN, 1.0 - _CERTAIN)
            logit = np.log(inside / (1.0 - inside))
            _learn(logit, label, weight, self.curve["theta"][0], self.curve["hessian"][0])
            self.curve.mark()


@njit(cache=True, nogil=True)
def _learn(logit, label, weight, theta, hessian):  # type: ignore[no-untyped-def]
    for n in range(logit.size):
        chance = 1.0 / (1.0 + np.exp(-(theta[0] + theta[1] * logit[n])))
        pull, mass = weight[n] * (chance - label[n]), weight[n] * max(chance * (1.0 - chance), 1e-4)
        for i in range(2):
            for j in range(2):
                hessian[i, j] *= _KEEP
            hessian[i, i] += (1.0 - _KEEP) * _PRIOR
        hessian[0, 0] += mass
        hessian[0, 1] += mass * logit[n]
        hessian[1, 0] += mass * logit[n]
        hessian[1, 1] += mass * logit[n] * logit[n]
        determinant = hessian[0, 0] * hessian[1, 1] - hessian[0, 1] * hessian[1, 0]
        theta[0] -= pull * (hessian[1, 1] - hessian[0, 1] * logit[n]) / determinant
        theta[1] -= pull * (hessian[0, 0] * logit[n] - hessian[1, 0]) / determinant
        theta[1] = min(max(theta[1], 0.05), 3.0)
        theta[0] = min(max(theta[0], -5.0), 5.0)
