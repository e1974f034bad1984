"""The picture of an off-policy evaluation: each estimate with its interval."""

from __future__ import annotations

import math
from pathlib import Path

from service.evaluation.off_policy import EvaluatedPolicy
from service.evaluation.reports.axes import saved

__all__ = ["LABELS", "draw"]

LABELS = {
    "logged": "logged: what was shown",
    "replay": "replay (rejection)",
    "ips": "IPS",
    "clipped": "IPS, clipped",
    "snips": "SNIPS",
    "dm": "direct method",
    "dr": "doubly robust",
}
"""Estimators as a reader knows them."""


def draw(evaluated: EvaluatedPolicy, path: Path) -> None:
    """Draw a dot and an interval for each estimate, and a line at the logged policy's value.

    Parameters
    ----------
    evaluated : EvaluatedPolicy
    path : Path
        The suffix chooses the format, such as ``.png`` or ``.svg``.
    """
    result = evaluated.result
    estimates = [(name, one) for name, one in result.estimates.items() if math.isfinite(one.value)]
    title = (
        f"{evaluated.policy} on {evaluated.log}: {result.verdict}. {result.impressions:,} impressions, "
        f"effective sample size {result.effective_sample_size:,.0f}, {100 * result.confidence:g} % bootstrap intervals"
    )
    with saved(path, 1, 1, (9.0, 1.4 + 0.45 * max(len(estimates), 2)), title) as (_, ((axis,),)):
        for place, (name, one) in enumerate(reversed(estimates)):
            colour = "black" if name == "logged" else "C0"
            if math.isfinite(one.low) and math.isfinite(one.high):
                axis.plot([one.low, one.high], [place, place], color=colour, linewidth=2.5, solid_capstyle="round")
            axis.plot([one.value], [place], "o", color=colour)
            axis.annotate(
                f"{one.value:.4f}", (one.value, place), (0, 6), textcoords="offset points", ha="center", fontsize="small"
            )
        logged = result.estimates["logged"].value
        if math.isfinite(logged):
            axis.axvline(logged, color="black", linestyle=":", linewidth=1.0)
        axis.set_yticks(range(len(estimates)), [LABELS[name] for name, _ in reversed(estimates)])
        axis.set_ylim(-0.6, len(estimates) - 0.3)
        axis.set_xlabel("mean reward per position")
        axis.grid(visible=False, axis="y")
