"""Off-policy evaluation: what another policy would have earned, from the log of the policy that acted.

``docs/evaluation.md`` says what is estimated, and under which assumptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """A log that does not say how likely its decisions were: names the log, what is missing, and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What was shown, how it went, and how likely it was under both policies: n rows, one for each place of m impressions.

    Attributes
    ----------
    start : (m,) int64
        First row of each impression, ascending, beginning with 0: its rows are its places, from the first.
    reward : (n,) float64
    propensity : (n,) float64
        Probability with which the logging policy put the item at its place, given the places above; in (0, 1].
    target : (n,) float64
        The same probability under the policy that is evaluated.
    importance : (n,) float64
        Rows that each stands for: 1, or more where a log keeps only a sample.
    predicted : (n,) float64
        A model's prediction of the reward of the item that was shown.
    expected : (n,) float64
        Its prediction for the evaluated policy's choice at this place, given the places above as they were logged.
    own : (n,) float64
        Its prediction for the evaluated policy's choice at this place, given the places above as the policy itself fills them.
    chain : bool
        Whether the evaluated policy fills the places above, too; else they stay as they were logged.
    """

    start: Rows
    reward: Values
    propensity: Values
    target: Values
    importance: Values
    predicted: Values
    expected: Values
    own: Values
    chain: bool = True

    @property
    def weights(self) -> tuple[Values, Values]:
        """Importance weight of each row, and of the places above it; see `importance_weights`."""
        ratio = self.target / self.propensity
        return importance_weights(ratio, self.start) if self.chain else (ratio, np.ones_like(ratio))

    def per_impression(self, values: Values) -> Values:
        """Sums over the rows of each impression, every row as often as it stands for, (m,) float64."""
        return np.add.reduceat(values * self.importance, self.start)


def importance_weights(ratio: Values, start: Rows) -> tuple[Values, Values]:
    """Products of the ratios from the first place of an impression down to each row, and down to the row above it.

    Parameters
    ----------
    ratio : (n,) float64
        Probability of each choice under the evaluated policy over that under the logging policy, given the places above.
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
    for place in range(1, int(length.max(initial=0))):
        row = start[length > place] + place
        above[row] = weight[row - 1]
        weight[row] *= above[row]
    return weight, above


def logged(decisions: Decisions) -> Terms:
    """Mean reward that the log itself has: the value of the logging policy."""
    return _weighted(decisions, np.ones_like(decisions.reward), 1.0, 0.0)


def ips(decisions: Decisions, clip: float = math.inf) -> Terms:
    """Inverse propensity scoring; with weights cut off at `clip`, which makes it less variable and draws it towards 0.

    References
    ----------
    D. Horvitz, D. Thompson, "A Generalization of Sampling Without Replacement from a Finite Universe", JASA 47 (1952).
    E. Ionides, "Truncated Importance Sampling", Journal of Computational and Graphical Statistics 17 (2008).
    """
    return _weighted(decisions, np.minimum(decisions.weights[0], clip), clip, 0.0)


def clipped_bounds(decisions: Decisions, clip: float) -> tuple[Terms, Terms]:
    """Means below and above the policy's value, from weights cut off at `clip`: what was cut off earned least, or most.

    Weights have a mean of 1, so those cut off lack ``1 - mean(min(w, clip))``. That share is given the smallest and the largest
    reward of the log (0 among them): the value lies between, however large the weights are that the log does not show.

    References
    ----------
    L. Bottou et al., "Counterfactual Reasoning and Learning Systems", JMLR 14 (2013): inner and outer confidence
    intervals.
    """
    weight = np.minimum(decisions.weights[0], clip)
    low, high = _range(decisions.reward)
    return _weighted(decisions, weight, clip, low), _weighted(decisions, weight, clip, high)


def snips(decisions: Decisions) -> Terms:
    """Self-normalised inverse propensity scoring: a mean weighted by the weights, so always among the rewards.

    References
    ----------
    A. Swaminathan, T. Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NIPS 2015, equation (9).
    """
    return _normalised(decisions, decisions.weights[0])


def direct(decisions: Decisions) -> Terms:
    """Direct method: what the model predicts for the evaluated policy. As right as the model, which no interval knows.

    References
    ----------
    A. Beygelzimer, J. Langford, "The Offset Tree for Learning with Partial Labels", KDD 2009, section 6.
    """
    return Terms(decisions.per_impression(decisions.own), _stands_for(decisions))


def doubly_robust(decisions: Decisions) -> Terms:
    """Doubly robust: the model's prediction, corrected by the weighted residuals. Right if either model or propensities are.

    References
    ----------
    M. Dudík, J. Langford, L. Li, "Doubly Robust Policy Evaluation and Learning", ICML 2011, equation (2).
    H. Kiyohara et al., "Doubly Robust Off-Policy Evaluation for Ranking Policies under the Cascade Behavior Model", WSDM 2022:
    for lists, each place weighted by those above it.
    """
    weight, above = decisions.weights
    residual = decisions.reward - decisions.predicted
    baseline, under = decisions.per_impression(above * decisions.expected), _stands_for(decisions)
    low, high = _range(residual)
    heaviest, most = _heaviest(decisions, weight)
    return Terms(
        baseline + decisions.per_impression(weight * residual),
        under,
        spread=most * (high - low) + float(np.ptp(baseline)),
        lowest=(float(baseline.min()) + most * low, float(under[heaviest])),
        highest=(float(baseline.max()) + most * high, float(under[heaviest])),
    )


def rejection(decisions: Decisions, rng: np.random.Generator) -> Terms:
    """Replay: keep each row with a probability proportional to its weight; what is kept is as the evaluated policy chose.

    For uniform logging and a policy without randomness: the rows on which the two agree.

    References
    ----------
    L. Li, W. Chu, J. Langford, X. Wang, "Unbiased Offline Evaluation of Contextual-bandit-based News Article Recommendation
    Algorithms", WSDM 2011, algorithm 2; by rejection sampling for any logging policy.
    """
    weight = decisions.weights[0]
    kept = (rng.random(weight.size) * weight.max(initial=0.0) < weight).astype(np.float64)
    return _normalised(decisions, kept)


def effective_sample_size(weight: Values) -> float:
    """Impressions of equal weight that would say as much: ``sum(w)^2 / sum(w^2)`` of (m,) weights; 0 if all are 0.

    References
    ----------
    L. Kish, "Survey Sampling", Wiley 1965.
    """
    squares = float(weight @ weight)
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def choose_clip(decisions: Decisions) -> float:
    """Where to clip the weights: the bound whose estimate has the smallest mean squared error, as far as the log can tell.

    Bounds go down from the largest weight by halves to 1. The bias of each is estimated by how far it lies from the estimate
    without a clip, the variance by the squared standard error.

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
        # Equal errors: the smaller bound, which is calmer on the next log. Of one impression no error is known.
        error = (terms.value - unbiased) ** 2 + standard_error(terms) ** 2
        if error <= smallest:
            chosen, smallest = clip, error
        if clip == 1.0:
            return chosen
        clip = max(clip / 2, 1.0)


def _weighted(decisions: Decisions, weight: Values, bound: float, missing: float) -> Terms:
    """Mean of ``missing + weight * (reward - missing)``: weight below a mean of 1 has the reward `missing`.

    `bound` is how large weights can be, if that is known beforehand. If it is infinite, the largest that occurred stands in.
    """
    under = _stands_for(decisions)
    low, high = _range(decisions.reward)
    heaviest, most = _heaviest(decisions, weight)
    base = missing * float(under[heaviest])
    # At least 1: impressions of different lengths have different shares of `missing`, too.
    largest = max(bound, 1.0) * float(under.max()) if math.isfinite(bound) else most
    return Terms(
        decisions.per_impression(missing + weight * (decisions.reward - missing)),
        under,
        spread=largest * (high - low),
        lowest=(base + most * (low - missing), float(under[heaviest])),
        highest=(base + most * (high - missing), float(under[heaviest])),
    )


def _normalised(decisions: Decisions, weight: Values) -> Terms:
    """Mean reward weighted by `weight`."""
    low, high = _range(decisions.reward)
    _, most = _heaviest(decisions, weight)
    over, under = decisions.per_impression(weight * decisions.reward), decisions.per_impression(weight)
    return Terms(over, under, lowest=(most * low, most), highest=(most * high, most))


def _heaviest(decisions: Decisions, weight: Values) -> tuple[int, float]:
    """The impression that weighs most, and its weight: the sum over its places."""
    total = decisions.per_impression(weight)
    heaviest = int(total.argmax())
    return heaviest, float(total[heaviest])


def _stands_for(decisions: Decisions) -> Values:
    return decisions.per_impression(np.ones_like(decisions.reward))


def _range(values: Values) -> tuple[float, float]:
    """The smallest and the largest, 0 among them."""
    return min(float(values.min()), 0.0), max(float(values.max()), 0.0)
