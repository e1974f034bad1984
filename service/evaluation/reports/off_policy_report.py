"""Reports of an off-policy evaluation: a table, JSON, the terms of each impression, a picture, and a page."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from service.evaluation import estimators
from service.evaluation.off_policy import EvaluatedPolicy
from service.evaluation.reports.off_policy_figure import LABELS, draw
from service.evaluation.reports.page import write_page
from service.evaluation.reports.replay_report import finite
from service.evaluation.verdict import OffPolicyResult

__all__ = ["as_json", "summary", "table", "write"]


def table(evaluated: EvaluatedPolicy) -> Table:
    """Table of all estimates with their intervals."""
    result = evaluated.result
    percent = f"{100 * result.confidence:g} %"
    shown = Table(title=f"Mean reward per position: {evaluated.policy} on {evaluated.log}")
    shown.add_column("estimator")
    for name in ("value", f"bootstrap {percent}", f"empirical Bernstein {percent}"):
        shown.add_column(name, justify="right")
    for name, one in result.estimates.items():
        label = f"{LABELS[name]} at {result.clip:.4g}" if name == "clipped" else LABELS[name]
        shown.add_row(label, _text(one.value), _interval(one.low, one.high), _interval(one.bernstein_low, one.bernstein_high))
    return shown


def summary(evaluated: EvaluatedPolicy) -> list[str]:
    """Lines with the sample sizes and the verdict."""
    result = evaluated.result
    positions = "all positions" if evaluated.positions is None else f"the first {evaluated.positions} positions"
    filled = "filled by the policy" if evaluated.above == "policy" else "as logged"
    lines = [
        f"{result.impressions:,} impressions, {result.rows:,} rows: {positions}, with the positions above {filled}",
        f"effective sample size {result.effective_sample_size:,.1f}, largest weight {result.largest_weight:.4g}, "
        f"mean weight {result.mean_weight:.4f}, match rate {result.match_rate:.4f}, rows kept by replay {result.kept:,}",
    ]
    if evaluated.left_out:
        lines.append("excluded: " + ", ".join(f"{count:,} {reason}" for reason, count in evaluated.left_out.items()))
    lines.append(_verdict(result))
    return lines


def as_json(evaluated: EvaluatedPolicy) -> str:
    """All results as JSON; undefined numbers are null."""
    found = {key: getattr(evaluated, key) for key in ("policy", "log", "above", "positions", "left_out", "dead", "letters")}
    return json.dumps(finite(found | asdict(evaluated.result)), indent=1, allow_nan=False)


def write(evaluated: EvaluatedPolicy, folder: Path, config: str = "", command: str = "") -> list[Path]:
    """Write ``evaluate.json``, ``evaluate.png``, ``evaluate.html`` and ``impressions.csv`` into a folder; return their paths.

    Parameters
    ----------
    evaluated : EvaluatedPolicy
    folder : Path
    config : str
        TOML of the policy's config with all its values, for the page.
    command : str
        What made the report, for the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, picture, page = (folder / f"evaluate.{suffix}" for suffix in ("json", "png", "html"))
    rows, drawing = folder / "impressions.csv", folder / "evaluate.svg"
    data.write_text(as_json(evaluated), encoding="utf-8")
    _write_impressions(evaluated, rows)
    draw(evaluated, picture)
    draw(evaluated, drawing)
    write_page(page, table(evaluated), drawing, summary(evaluated), {evaluated.policy: config} if config else {}, command)
    drawing.unlink()
    return [data, rows, picture, page]


def _write_impressions(evaluated: EvaluatedPolicy, path: Path) -> None:
    """Write one line per impression: the number of its positions, and its terms in each estimate."""
    decisions, clip = evaluated.decisions, evaluated.result.clip
    logged, weighted = estimators.logged(decisions), estimators.snips(decisions)
    columns = {
        "request_id": evaluated.request_ids,
        "positions": logged.denominator.tolist(),
        "reward": logged.numerator.tolist(),
        "weight": weighted.denominator.tolist(),
        "ips": estimators.ips(decisions).numerator.tolist(),
        "clipped": estimators.ips(decisions, clip).numerator.tolist(),
        "dm": estimators.direct(decisions).numerator.tolist(),
        "dr": estimators.doubly_robust(decisions).numerator.tolist(),
    }
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _verdict(result: OffPolicyResult) -> str:
    if result.reasons:
        return "no verdict: " + "; ".join(result.reasons)
    gain, low, high = result.difference
    text = {"better": "better than the logged policy", "worse": "worse than the logged policy", "undecided": "undecided"}
    return f"verdict: {text[result.verdict]}; SNIPS minus logged {gain:+.5f}, between {low:+.5f} and {high:+.5f}"


def _interval(low: float, high: float) -> str:
    return "none" if math.isnan(low) or math.isnan(high) else f"{_text(low)} to {_text(high)}"


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.5f}"
