"""All estimates of one policy's value, their intervals, and whether they allow a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from service.evaluation import estimators
from service.evaluation.estimators import Decisions
from service.evaluation.intervals import Terms, Values, bernstein, bootstrap, running_errors, running_intervals, standard_error
from service.evaluation.progressive import Curve

__all__ = ["Estimate", "OffPolicyResult", "Running", "judge"]

RESAMPLES = 1000
POINTS = 200
MAX_STANDARD_ERRORS = 4.0
"""Largest accepted distance of the mean weight from 1, in standard errors."""
TOLERANCE = 1e-3
"""Distance of the mean weight from 1 that is always accepted: propensities are logged in single precision."""


@dataclass(slots=True)
class Running:
    """An estimate after the first ``value.row[i]`` impressions: ``value.value[i]``, and its interval."""

    value: Curve
    low: list[float]
    high: list[float]


@dataclass(slots=True, kw_only=True)
class Estimate:
    """One estimate of the value: the mean reward per position.

    Attributes
    ----------
    value : float
    low, high : float
        Bootstrap interval of the policy's value. NaN if the bias is unknown: for ``dm``, and for all estimates if all rewards
        are 0.
    bernstein_low, bernstein_high : float
        Empirical Bernstein interval. NaN for the same, and for estimates that are not means (``replay``, ``snips``).
    running : Running
        The estimate as the log grows, with large-sample intervals.
    """

    value: float
    low: float
    high: float
    bernstein_low: float
    bernstein_high: float
    running: Running


@dataclass(slots=True, kw_only=True)
class OffPolicyResult:
    """Estimates of a policy's value from the log of another policy, and the verdict.

    Attributes
    ----------
    impressions, rows : int
        Number of impressions, and of their positions.
    confidence : float
        Level of the intervals.
    estimates : dict of str to Estimate
        ``logged`` is the mean reward in the log. The others estimate the mean reward of the policy.
    difference : (float, float, float)
        SNIPS minus ``logged``, and its bootstrap interval.
    effective_sample_size : float
        Computed from the weights of the impressions.
    largest_weight, mean_weight : float
        Over the rows. The expected mean is 1 if the logging policy can make every choice of the policy.
    match_rate : float
        Mean probability of the logged item under the policy, over the rows, given the positions above.
    kept : int
        Rows that ``replay`` kept, weighted by importance.
    clip : float
        Largest weight of ``clipped``.
    verdict : str
        ``better``, ``worse`` or ``undecided``, by the interval of `difference`; or ``refused``.
    reasons : list of str
        Why there is no verdict.
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
) -> OffPolicyResult:
    """Compute all estimates of a policy's value, and decide whether it is better than the logging policy.

    Parameters
    ----------
    decisions : Decisions
        At least one impression.
    clip : float or None
        Largest weight of ``clipped``; None: chosen by `service.evaluation.estimators.choose_clip`.
    confidence : float
        Level of the intervals, between 0 and 1.
    floor : float
        Effective sample size below which there is no verdict.
    seed : int
        Seed of bootstrap and rejection sampling.
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
    # The bias of the direct method is that of the ranker, so unknown. If all rewards are 0, their range is unknown.
    unknown = set(terms) if not decisions.reward.any() else {"dm"}
    gain = [draws["snips"][end] - draws["logged"][end] for end in (0, 1)]
    difference = terms["snips"].value - terms["logged"].value, *_percentile_interval(gain[0], gain[1], confidence)
    weights = Terms(terms["snips"].denominator, terms["logged"].denominator)
    size = estimators.effective_sample_size(weights.numerator)
    reasons = _reasons(size, floor, weights)
    if not decisions.reward.any():
        reasons.append("reward: all rewards are 0, so nothing can be compared; use a longer log, or check [reward]")
    return OffPolicyResult(
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
        kept=round(float(kept.denominator.sum())),
        clip=clip,
        verdict="refused" if reasons else _verdict(difference[1], difference[2]),
        reasons=reasons,
    )


def _estimate(terms: Terms, bounds: tuple[Terms, Terms], draws: tuple[Values, Values], confidence: float) -> Estimate:
    """Estimate with intervals from the lower end of the lower bound to the upper end of the upper bound."""
    low, high = _percentile_interval(*draws, confidence)
    at = _points(terms)
    value, _ = running_errors(terms, at)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    running = [running_intervals(one, at, z)[end].tolist() for end, one in enumerate(bounds)]
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
    value, undefined = running_errors(terms, at)[0].tolist(), [math.nan] * at.size
    return Estimate(
        value=terms.value,
        low=math.nan,
        high=math.nan,
        bernstein_low=math.nan,
        bernstein_high=math.nan,
        running=Running(Curve(at.tolist(), value), undefined, undefined),
    )


def _points(terms: Terms) -> npt.NDArray[np.int64]:
    """Numbers of impressions at which the running estimate is recorded."""
    m = terms.numerator.size
    return np.unique(np.linspace(1, m, min(POINTS, m)).astype(np.int64))


def _percentile_interval(lower: Values, upper: Values, confidence: float) -> tuple[float, float]:
    """Percentile interval of the draws; NaN if no draw is finite."""
    below, above = lower[np.isfinite(lower)], upper[np.isfinite(upper)]
    if not below.size or not above.size:
        return math.nan, math.nan
    return float(np.quantile(below, (1 - confidence) / 2)), float(np.quantile(above, (1 + confidence) / 2))


def _reasons(size: float, floor: float, weights: Terms) -> list[str]:
    reasons = []
    if size < floor:
        reasons.append(
            f"effective sample size {size:.1f} is below {floor:g}: the log has too few of the choices of the policy; "
            "evaluate fewer positions (--positions 1), or use a longer log of a policy that explores more"
        )
    distance = abs(weights.value - 1)
    error = standard_error(weights)
    if distance > TOLERANCE and not distance <= MAX_STANDARD_ERRORS * error:
        reasons.append(
            f"mean weight {weights.value:.3f} is not 1 (standard error {error:.3f}): the log lacks some choices of the policy, "
            "or its propensities are wrong; use a logging policy that gives every candidate a positive probability"
        )
    return reasons


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "better"
    return "worse" if high < 0 else "undecided"
