"""Off-policy estimators: the value of an evaluated policy, estimated from the log of the logging policy.

``docs/evaluation.md`` explains what is estimated, and under which assumptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from service.evaluation.intervals import Terms, Values, standard_error

__all__ = [
    "Decisions",
    "NotEvaluable",
    "choose_clip",
    "clipped_bounds",
    "direct",
    "doubly_robust",
    "effective_sample_size",
    "importance_weights",
    "ips",
    "logged",
    "rejection",
    "snips",
]

Rows = npt.NDArray[np.int64]


class NotEvaluable(ValueError):
    """The log lacks usable decisions. The message names the log, what is missing, and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Shown items, their rewards, and their probabilities under both policies: n rows, one per position of m impressions.

    Attributes
    ----------
    start : (m,) int64
        First row of each impression, ascending, starting with 0. The rows of an impression are its positions, in order.
    reward : (n,) float64
    propensity : (n,) float64
        Probability of the item under the logging policy, given the positions above; in (0, 1].
    target : (n,) float64
        The same probability under the evaluated policy.
    importance : (n,) float64
        Number of rows that each row represents: 1, or more if the log keeps only a sample.
    predicted : (n,) float64
        A model's predicted reward of the shown item.
    expected : (n,) float64
        The model's expected reward under the evaluated policy, given the logged positions above.
    on_policy : (n,) float64
        The model's expected reward under the evaluated policy, given positions above that this policy filled itself.
    chain : bool
        Whether the evaluated policy also fills the positions above. If not, they stay as logged.
    """

    start: Rows
    reward: Values
    propensity: Values
    target: Values
    importance: Values
    predicted: Values
    expected: Values
    on_policy: Values
    chain: bool = True

    @property
    def weights(self) -> tuple[Values, Values]:
        """Importance weight of each row, and of the positions above it; see `importance_weights`."""
        ratio = self.target / self.propensity
        return importance_weights(ratio, self.start) if self.chain else (ratio, np.ones_like(ratio))

    def head(self, impressions: int | None) -> Decisions:
        """Return the decisions of the first impressions; None: of all."""
        if impressions is None or impressions >= self.start.size:
            return self
        rows = slice(0, int(self.start[impressions]))
        parts = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name not in ("start", "chain")}
        return Decisions(start=self.start[:impressions], chain=self.chain, **parts)

    def per_impression(self, values: Values) -> Values:
        """Sums over the rows of each impression, weighted by `importance`, (m,) float64."""
        return np.add.reduceat(values * self.importance, self.start)


def importance_weights(ratio: Values, start: Rows) -> tuple[Values, Values]:
    """Products of the ratios from the first position of an impression to each row, and to the row above it.

    Parameters
    ----------
    ratio : (n,) float64
        Probability of each item under the evaluated policy, divided by its probability under the logging policy.
    start : (m,) int64
        First row of each impression.

    Returns
    -------
    ((n,) float64, (n,) float64)

    References
    ----------
    J. McInerney, B. Brost, P. Chandar, R. Mehrotra, B. Carterette, "Counterfactual Evaluation of Slate Recommendations with
    Sequential Reward Interactions", KDD 2020, equation (8): reward interaction inverse propensity scoring.
    """
    weight, above = ratio.copy(), np.ones_like(ratio)
    length = np.diff(start, append=ratio.size)
    for position in range(1, int(length.max(initial=0))):
        row = start[length > position] + position
        above[row] = weight[row - 1]
        weight[row] *= above[row]
    return weight, above


def logged(decisions: Decisions) -> Terms:
    """Mean reward in the log: the value of the logging policy."""
    return _weighted(decisions, np.ones_like(decisions.reward), 1.0, 0.0)


def ips(decisions: Decisions, clip: float = math.inf) -> Terms:
    """Inverse propensity scoring. Weights are clipped at `clip`, which lowers the variance and biases the estimate towards 0.

    References
    ----------
    D. Horvitz, D. Thompson, "A Generalization of Sampling Without Replacement from a Finite Universe", JASA 47 (1952).
    E. Ionides, "Truncated Importance Sampling", Journal of Computational and Graphical Statistics 17 (2008).
    """
    return _weighted(decisions, np.minimum(decisions.weights[0], clip), clip, 0.0)


def clipped_bounds(decisions: Decisions, clip: float) -> tuple[Terms, Terms]:
    """Bounds below and above the policy's value, from weights clipped at `clip`.

    Weights have a mean of 1, so clipped weights lack ``1 - mean(min(w, clip))``. The bounds give this share the smallest and
    the largest reward of the log (or 0). The value lies between them, even if the log lacks the largest weights.

    References
    ----------
    L. Bottou et al., "Counterfactual Reasoning and Learning Systems", JMLR 14 (2013): inner and outer confidence
    intervals.
    """
    weight = np.minimum(decisions.weights[0], clip)
    low, high = _range(decisions.reward)
    return _weighted(decisions, weight, clip, low), _weighted(decisions, weight, clip, high)


def snips(decisions: Decisions) -> Terms:
    """Self-normalised inverse propensity scoring: a weighted mean, so always within the range of the rewards.

    References
    ----------
    A. Swaminathan, T. Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NIPS 2015, equation (9).
    """
    return _self_normalised(decisions, decisions.weights[0])


def direct(decisions: Decisions) -> Terms:
    """Direct method: the model's expected reward under the evaluated policy. Its bias is that of the model, so unknown.

    References
    ----------
    A. Beygelzimer, J. Langford, "The Offset Tree for Learning with Partial Labels", KDD 2009, section 6.
    """
    return Terms(decisions.per_impression(decisions.on_policy), _represented_rows(decisions))


def doubly_robust(decisions: Decisions) -> Terms:
    """Doubly robust: the direct method plus weighted residuals. Unbiased if the model or the propensities are right.

    References
    ----------
    M. Dudík, J. Langford, L. Li, "Doubly Robust Policy Evaluation and Learning", ICML 2011, equation (2).
    H. Kiyohara et al., "Doubly Robust Off-Policy Evaluation for Ranking Policies under the Cascade Behavior Model", WSDM 2022:
    for lists, each position is weighted by those above it.
    """
    weight, above = decisions.weights
    residual = decisions.reward - decisions.predicted
    baseline, denominator = decisions.per_impression(above * decisions.expected), _represented_rows(decisions)
    low, high = _range(residual)
    heaviest, max_weight = _heaviest(decisions, weight)
    return Terms(
        baseline + decisions.per_impression(weight * residual),
        denominator,
        spread=max_weight * (high - low) + float(np.ptp(baseline)),
        lowest=(float(baseline.min()) + max_weight * low, float(denominator[heaviest])),
        highest=(float(baseline.max()) + max_weight * high, float(denominator[heaviest])),
    )


def rejection(decisions: Decisions, rng: np.random.Generator) -> Terms:
    """Replay: keep each row with a probability proportional to its weight. Kept rows are distributed as under the policy.

    With uniform logging and a deterministic policy, these are the rows on which both agree.

    References
    ----------
    L. Li, W. Chu, J. Langford, X. Wang, "Unbiased Offline Evaluation of Contextual-bandit-based News Article Recommendation
    Algorithms", WSDM 2011, algorithm 2; here with rejection sampling, for any logging policy.
    """
    weight = decisions.weights[0]
    kept = (rng.random(weight.size) * weight.max(initial=0.0) < weight).astype(np.float64)
    return _self_normalised(decisions, kept)


def effective_sample_size(weight: Values) -> float:
    """Equivalent number of equally weighted impressions: ``sum(w)^2 / sum(w^2)`` of (m,) weights; 0 if all are 0.

    References
    ----------
    L. Kish, "Survey Sampling", Wiley 1965.
    """
    squares = float(weight @ weight)
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def choose_clip(decisions: Decisions) -> float:
    """Choose the clip whose estimate has the smallest estimated mean squared error.

    Candidates start at the largest weight and are halved down to 1. The bias of each is estimated by its distance to the
    unclipped estimate, the variance by the squared standard error.

    References
    ----------
    Y.-X. Wang, A. Agarwal, M. Dudík, "Optimal and Adaptive Off-policy Evaluation in Contextual Bandits", ICML 2017: the
    threshold of smallest estimated mean squared error.
    """
    clip = max(float(decisions.weights[0].max(initial=0.0)), 1.0)
    unbiased = ips(decisions).value
    chosen, smallest = clip, math.inf
    while True:
        terms = ips(decisions, clip)
        # Equal errors: the smaller clip, which has less variance. With one impression the error is NaN.
        error = (terms.value - unbiased) ** 2 + standard_error(terms) ** 2
        if error <= smallest:
            chosen, smallest = clip, error
        if clip == 1.0:
            return chosen
        clip = max(clip / 2, 1.0)


def _weighted(decisions: Decisions, weight: Values, bound: float, missing: float) -> Terms:
    """Mean of ``missing + weight * (reward - missing)``: the weight missing to a mean of 1 has the reward `missing`.

    `bound` is the largest possible weight, if known. If it is infinite, the largest weight in the log is used.
    """
    denominator = _represented_rows(decisions)
    low, high = _range(decisions.reward)
    heaviest, max_weight = _heaviest(decisions, weight)
    base = missing * float(denominator[heaviest])
    # At least 1, because impressions of different lengths also have different shares of `missing`.
    largest = max(bound, 1.0) * float(denominator.max()) if math.isfinite(bound) else max_weight
    return Terms(
        decisions.per_impression(missing + weight * (decisions.reward - missing)),
        denominator,
        spread=largest * (high - low),
        lowest=(base + max_weight * (low - missing), float(denominator[heaviest])),
        highest=(base + max_weight * (high - missing), float(denominator[heaviest])),
    )


def _self_normalised(decisions: Decisions, weight: Values) -> Terms:
    """Mean reward weighted by `weight`."""
    low, high = _range(decisions.reward)
    _, max_weight = _heaviest(decisions, weight)
    numerator, denominator = decisions.per_impression(weight * decisions.reward), decisions.per_impression(weight)
    return Terms(numerator, denominator, lowest=(max_weight * low, max_weight), highest=(max_weight * high, max_weight))


def _heaviest(decisions: Decisions, weight: Values) -> tuple[int, float]:
    """Index and weight of the impression with the largest weight, summed over its positions."""
    total = decisions.per_impression(weight)
    heaviest = int(total.argmax())
    return heaviest, float(total[heaviest])


def _represented_rows(decisions: Decisions) -> Values:
    return decisions.per_impression(np.ones_like(decisions.reward))


def _range(values: Values) -> tuple[float, float]:
    """Smallest and largest value, with 0 included."""
    return min(float(values.min()), 0.0), max(float(values.max()), 0.0)
