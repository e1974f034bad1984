"""All estimates of one policy's value side by side, how far they can be trusted, and whether they allow a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from service.evaluation import estimators
from service.evaluation.estimators import Decisions
from service.evaluation.intervals import Terms, Values, bernstein, bootstrap, running_ends, running_errors, standard_error
from service.evaluation.progressive import Curve

__all__ = ["Estimate", "OffPolicy", "Running", "judge"]

RESAMPLES = 1000
POINTS = 200
OFF_BY = 4.0
"""Standard errors by which the mean weight may miss 1."""
ROUNDING = 1e-3
"""By how much the mean weight may miss 1 in any case: propensities are logged in single precision."""


@dataclass(slots=True)
class Running:
    """An estimate as the log grew: after ``value.row[i]`` impressions it was ``value.value[i]``, within an interval."""

    value: Curve
    low: list[float]
    high: list[float]


@dataclass(slots=True, kw_only=True)
class Estimate:
    """One estimate of the value: mean reward of a place.

    Attributes
    ----------
    value : float
    low, high : float
        Bootstrap interval of the policy's value; NaN where how far the estimate is off is not known: of ``dm``, and of all when
        no reward has occurred.
    bernstein_low, bernstein_high : float
        Empirical Bernstein interval; NaN for the same, and for estimates that are no means (``replay``, ``snips``).
    running : Running
        The estimate over the log, with large-sample intervals.
    """

    value: float
    low: float
    high: float
    bernstein_low: float
    bernstein_high: float
    running: Running


@dataclass(slots=True, kw_only=True)
class OffPolicy:
    """What a log says about a policy that did not make it.

    Attributes
    ----------
    impressions, rows : int
        Impressions, and their places.
    confidence : float
        Level of the intervals.
    estimates : dict of str to Estimate
        ``logged`` is the mean reward in the log; all others estimate what the policy would have got.
    difference : (float, float, float)
        SNIPS less ``logged``, and its bootstrap interval.
    effective_sample_size : float
        Of the impressions' weights.
    largest_weight, mean_weight : float
        Of the rows. The mean is 1, but for chance, when the log has all that the policy would do.
    match_rate : float
        Mean probability with which the policy does what the log did, row by row, given the places above.
    kept : int
        Rows that ``replay`` kept, each as often as it stands for.
    clip : float
        Where ``clipped`` cuts weights off.
    verdict : str
        ``better``, ``worse`` or ``undecided``, by the interval of `difference`; or ``refused``.
    reasons : list of str
        Why a verdict is refused.
    """

    impressions: int
    rows: int
    confidence: float
    estimates: dict[str, Estimate]
    difference: tuple[float, float, float]
    effective_sample_size: float
    largest_weight: float
    mean_weight: float
    match_rate: float
    kept: int
    clip: float
    verdict: str
    reasons: list[str] = field(default_factory=list)


def judge(
    decisions: Decisions, *, clip: float | None = None, confidence: float = 0.95, floor: float = 100.0, seed: int = 0
) -> OffPolicy:
    """Estimate the value of a policy in every way, and say whether it is better than what was logged.

    Parameters
    ----------
    decisions : Decisions
        Of one impression at least.
    clip : float or None
        Largest weight of ``clipped``; None: chosen by `service.evaluation.estimators.choose_clip`.
    confidence : float
        Level of the intervals, between 0 and 1.
    floor : float
        Effective sample size below which there is no verdict.
    seed : int
        Of the bootstrap and of the rejection sampling.
    """
    rng = np.random.default_rng(seed)
    weight, _ = decisions.weights
    clip = estimators.choose_clip(decisions) if clip is None else clip
    kept = estimators.rejection(decisions, rng)
    terms = {
        "logged": estimators.logged(decisions),
        "replay": kept,
        "ips": estimators.ips(decisions),
        "clipped": estimators.ips(decisions, clip),
        "snips": estimators.snips(decisions),
        "dm": estimators.direct(decisions),
        "dr": estimators.doubly_robust(decisions),
    }
    bounds = {name: (one, one) for name, one in terms.items()}
    bounds["clipped"] = estimators.clipped_bounds(decisions, clip)
    lower, upper = bootstrap([one for pair in bounds.values() for one in pair], RESAMPLES, rng)
    draws = {name: (lower[:, 2 * n], upper[:, 2 * n + 1]) for n, name in enumerate(bounds)}
    # The direct method is off by as much as the ranker is; and without a reward nobody knows how large one would be.
    unknown = set(terms) if not decisions.reward.any() else {"dm"}
    gain = [draws["snips"][end] - draws["logged"][end] for end in (0, 1)]
    difference = terms["snips"].value - terms["logged"].value, *_ends(gain[0], gain[1], confidence)
    weights = Terms(terms["snips"].under, terms["logged"].under)
    size = estimators.effective_sample_size(weights.over)
    reasons = _reasons(size, floor, weights)
    if not decisions.reward.any():
        reasons.append("reward: all are 0, so nothing says what another choice would earn; log more, or see [reward]")
    return OffPolicy(
        impressions=decisions.start.size,
        rows=decisions.reward.size,
        confidence=confidence,
        estimates={
            name: _without_interval(one) if name in unknown else _estimate(one, bounds[name], draws[name], confidence)
            for name, one in terms.items()
        },
        difference=difference,
        effective_sample_size=size,
        largest_weight=float(weight.max()),
        mean_weight=weights.value,
        match_rate=float(np.average(decisions.target, weights=decisions.importance)),
        kept=round(float(kept.under.sum())),
        clip=clip,
        verdict="refused" if reasons else _verdict(difference[1], difference[2]),
        reasons=reasons,
    )


def _estimate(terms: Terms, bounds: tuple[Terms, Terms], draws: tuple[Values, Values], confidence: float) -> Estimate:
    """With intervals from the low end of what bounds the value from below to the high end of what bounds it from above."""
    low, high = _ends(*draws, confidence)
    at = _points(terms)
    value, _ = running_errors(terms, at)
    reach = NormalDist().inv_cdf((1 + confidence) / 2)
    running = [running_ends(one, at, reach)[end].tolist() for end, one in enumerate(bounds)]
    return Estimate(
        value=terms.value,
        low=low,
        high=high,
        bernstein_low=bernstein(bounds[0], confidence)[0],
        bernstein_high=bernstein(bounds[1], confidence)[1],
        running=Running(Curve(at.tolist(), value.tolist()), *running),
    )


def _without_interval(terms: Terms) -> Estimate:
    at = _points(terms)
    value, none = running_errors(terms, at)[0].tolist(), [math.nan] * at.size
    return Estimate(
        value=terms.value,
        low=math.nan,
        high=math.nan,
        bernstein_low=math.nan,
        bernstein_high=math.nan,
        running=Running(Curve(at.tolist(), value), none, none),
    )


def _points(terms: Terms) -> npt.NDArray[np.int64]:
    """Numbers of impressions at which the running estimate is kept."""
    m = terms.over.size
    return np.unique(np.linspace(1, m, min(POINTS, m)).astype(np.int64))


def _ends(lower: Values, upper: Values, confidence: float) -> tuple[float, float]:
    """Percentiles of the draws for either end; NaN where there are none."""
    below, above = lower[np.isfinite(lower)], upper[np.isfinite(upper)]
    if not below.size or not above.size:
        return math.nan, math.nan
    return float(np.quantile(below, (1 - confidence) / 2)), float(np.quantile(above, (1 + confidence) / 2))


def _reasons(size: float, floor: float, weights: Terms) -> list[str]:
    reasons = []
    if size < floor:
        reasons.append(
            f"effective sample size {size:.1f} is below {floor:g}: the log hardly shows what the policy would do; "
            "evaluate fewer places (--places 1), or log more, by a policy that explores more"
        )
    missed = abs(weights.value - 1)
    error = standard_error(weights)
    if missed > ROUNDING and not missed <= OFF_BY * error:
        reasons.append(
            f"mean weight {weights.value:.3f} is not 1 (standard error {error:.3f}): the log lacks some of what the policy "
            "would do, or its propensities are wrong; let the logging policy give every candidate a chance"
        )
    return reasons


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "better"
    return "worse" if high < 0 else "undecided"
