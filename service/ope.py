"""Off-policy evaluation: what another policy would have earned, from the log of the policy that acted.

``docs/evaluation.md`` says what is estimated, and under which assumptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.intervals import Terms, Values, standard_error

__all__ = [
    "Decisions",
    "NotEvaluable",
    "choose_clip",
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
    return _mean(decisions, decisions.reward, _width(decisions.reward) * float(_stands_for(decisions).max()))


def ips(decisions: Decisions, clip: float = math.inf) -> Terms:
    """Inverse propensity scoring; with weights cut off at `clip`, which makes it less variable and draws it towards 0.

    References
    ----------
    D. Horvitz, D. Thompson, "A Generalization of Sampling Without Replacement from a Finite Universe", JASA 47 (1952).
    E. Ionides, "Truncated Importance Sampling", Journal of Computational and Graphical Statistics 17 (2008).
    """
    weight = np.minimum(decisions.weights[0], clip)
    # Known beforehand with a clip; without one, the largest that has occurred has to do.
    most = float(decisions.per_impression(weight).max())
    if math.isfinite(clip):
        most = clip * float(_stands_for(decisions).max())
    return _mean(decisions, weight * decisions.reward, most * _width(decisions.reward))


def snips(decisions: Decisions) -> Terms:
    """Self-normalised inverse propensity scoring: a mean weighted by the weights, so always among the rewards.

    References
    ----------
    A. Swaminathan, T. Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NIPS 2015, equation (9).
    """
    weight = decisions.weights[0]
    return Terms(decisions.per_impression(weight * decisions.reward), decisions.per_impression(weight))


def direct(decisions: Decisions) -> Terms:
    """Direct method: what the model predicts for the evaluated policy. As right as the model.

    References
    ----------
    A. Beygelzimer, J. Langford, "The Offset Tree for Learning with Partial Labels", KDD 2009, section 6.
    """
    over = decisions.per_impression(decisions.own)
    return _mean(decisions, decisions.own, float(np.ptp(over)))


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
    most = float(decisions.per_impression(weight).max())
    baseline = decisions.per_impression(above * decisions.expected)
    spread = most * _width(residual) + float(np.ptp(baseline))
    return _mean(decisions, above * decisions.expected + weight * residual, spread)


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
    return Terms(decisions.per_impression(kept * decisions.reward), decisions.per_impression(kept))


def effective_sample_size(weight: Values) -> float:
    """Impressions of equal weight that would say as much: ``sum(w)^2 / sum(w^2)`` of (m,) weights; 0 if all are 0.

    References
    ----------
    L. Kish, "Survey Sampling", Wiley 1965.
    """
    squares = float(weight @ weight)
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def choose_clip(decisions: Decisions) -> float:
    """Where to clip the weights: the smallest bound that is not contradicted by a larger one.

    Bounds go down from the largest weight by halves to 1, which trades variance for bias. As long as the intervals
    (estimate +- 2 standard errors) of all bounds so far have a point in common, no bias is seen that is larger than those.

    References
    ----------
    Y. Su, P. Srinath, A. Krishnamurthy, "Adaptive Estimator Selection for Off-Policy Evaluation", ICML 2020, algorithm 1
    (SLOPE), with the standard error as width.
    """
    clip = chosen = max(float(decisions.weights[0].max(initial=0.0)), 1.0)
    low, high = -math.inf, math.inf
    while True:
        terms = ips(decisions, clip)
        reach = 2 * standard_error(terms)
        low, high = max(low, terms.value - reach), min(high, terms.value + reach)
        if not low <= high:
            return chosen
        chosen = clip
        if clip == 1.0:
            return chosen
        clip = max(clip / 2, 1.0)


def _mean(decisions: Decisions, values: Values, spread: float) -> Terms:
    return Terms(decisions.per_impression(values), _stands_for(decisions), spread)


def _stands_for(decisions: Decisions) -> Values:
    return decisions.per_impression(np.ones_like(decisions.reward))


def _width(values: Values) -> float:
    """Difference between the largest and the smallest, 0 among them."""
    return max(float(values.max()), 0.0) - min(float(values.min()), 0.0)
