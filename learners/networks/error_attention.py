"""Error estimates of ReLoop2 on a GPU: the same sums as `learners.rerankers.reloop2.compensation`, in float64.

References
----------
J. Zhu et al., "ReLoop2: Building Self-Adaptive Recommendation Models via Responsive Error Compensation Loop", KDD 2023,
arXiv 2306.08808: equations 11 to 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memory.vectors.gpu_vectors import Nearest
from streams.batch import Ids

__all__ = ["GpuEvidence"]

Values = npt.NDArray[Any]


class GpuEvidence(NamedTuple):
    """Up to K earlier outcomes for each of q queries, on a GPU.

    Attributes
    ----------
    similarity : (q, K) float64
        Similarity to the query; -inf for none.
    values : (q, K, 3) float64
        Label, base score and weight.
    age : (q, K) int64
        Number of rows written since.
    """

    similarity: Tensor
    values: Tensor
    age: Tensor

    @classmethod
    def of_rows(cls, nearest: Nearest, place: int, capacity: int) -> GpuEvidence:
        """Make it from the slots found in a ring of `capacity` slots, of which `place` is written next."""
        age = place - 1 - nearest.slots
        return cls(nearest.similarity.double(), nearest.values.double(), age + capacity * (nearest.slots >= place))

    def of(self, queries: Ids) -> GpuEvidence:
        """Select queries (n,), in the given order."""
        at = torch.from_numpy(queries).to(self.age.device)
        return GpuEvidence(self.similarity[at], self.values[at], self.age[at])

    def errors(self, score: Values, gamma: float, temperature: float, horizons: Sequence[int]) -> Values:
        """Estimate the errors of scores (q,): from all outcomes, and from those younger than each of h decreasing horizons.

        Returns
        -------
        (1 + h, q) float64
            NaN for a row without outcomes.
        """
        return self._errors(score, gamma, temperature, horizons).cpu().numpy()

    def correction(self, score: Values, gamma: float, temperature: float, horizons: Sequence[int], weights: Values) -> Values:
        """Return the sum of a row's `errors` with these weights (1 + h,): one number per row, (q,) float64."""
        shares = torch.from_numpy(np.ascontiguousarray(weights, np.float64)).to(self.age.device)
        return (shares @ self._errors(score, gamma, temperature, horizons)).cpu().numpy()

    def _errors(self, score: Values, gamma: float, temperature: float, horizons: Sequence[int]) -> Tensor:
        label, base_score, weight = self.values.unbind(2)
        best = self.similarity.max(1, keepdim=True).values
        # Without outcomes, the difference of infinities makes every number of the row NaN.
        attention = ((self.similarity - best) / temperature).exp() * weight
        attention = attention / attention.sum(1, keepdim=True)
        windows = [attention]
        for horizon in horizons:
            young = attention * (self.age < horizon)
            total = young.sum(1, keepdim=True)
            windows.append(torch.where(total > 0, young / total, windows[-1]))
        over = torch.stack(windows)
        labels, bases = (over * label).sum(2), (over * base_score).sum(2)
        scores = torch.from_numpy(np.ascontiguousarray(score, np.float64)).to(self.age.device)
        return gamma * (labels - scores) + (1.0 - gamma) * (labels - bases)
