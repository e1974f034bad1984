"""Reports of tuning: tables, JSON, and a picture of history, importance, whole trials and each key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from service.evaluation.reports.replay_report import finite
from service.evaluation.tuning.samples import LOWER_IS_BETTER, Objective
from service.evaluation.tuning.space import as_text
from service.evaluation.tuning.study import Tried
from service.evaluation.tuning.tune import Tuned
from service.tables.ranges import parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["as_json", "confirmation_table", "remarks", "table", "write"]

SHOWN = 10
"""Trials in the table, the base included."""

_NAMES = {
    Objective.LOG_LOSS: "log loss",
    Objective.AUC: "AUC",
    Objective.GAUC: "gAUC",
    Objective.HIT_RATE: "hit rate",
    Objective.NDCG: "NDCG",
    Objective.REWARD: "reward",
    Objective.OFF_POLICY: "off-policy estimate",
}


def table(tuned: Tuned) -> Table:
    """Table of the best trials, or of the front, with the base."""
    plan, front = tuned.plan, tuned.front
    name = _NAMES[plan.objective] + (", lower bound" if plan.objective is Objective.OFF_POLICY else "")
    shown = front or _best_first(tuned)[:SHOWN]
    if tuned.tried[0] not in shown:
        shown = [*(front or shown[: SHOWN - 1]), tuned.tried[0]]
    what = "front: no trial is both better and cheaper than one of these" if front else "best trials"
    units = "impressions" if plan.objective is Objective.OFF_POLICY else "rows"
    listed = Table(title=f"{plan.name}: {what}, on the first {tuned.first:,} of {tuned.total:,} {units}")
    listed.add_column("trial", justify="right")
    listed.add_column(name, justify="right")
    listed.add_column("µs a row" if units == "rows" else "µs an impression", justify="right")
    listed.add_column("values")
    for one in shown:
        number = f"{one.number} (base)" if one.number == 0 else str(one.number)
        cells = [number, f"{one.value:.5f}", f"{one.micros:,.0f}", _values(one)]
        listed.add_row(*cells, style="bold" if one.number == tuned.best.number else "")
    return listed


def confirmation_table(tuned: Tuned) -> Table | None:
    """Table of base and winner on the rest of the stream; None if the base is the best."""
    found, plan = tuned.confirmation, tuned.plan
    if found is None:
        return None
    listed = Table(title=f"On the rest, which the search has not seen ({found.units:,} {_units(plan.objective)})")
    for column in ("base", f"trial {tuned.best.number}", f"gain, {found.confidence:.0%} interval", "does it hold?"):
        listed.add_column(column, justify="right")
    interval = "too few rows" if math.isnan(found.margin) else f"{found.gain:+.5f} ±{found.margin:.5f}"
    listed.add_row(f"{found.base:.5f}", f"{found.winner:.5f}", interval, "yes" if found.holds else "no")
    return listed


def remarks(tuned: Tuned) -> Iterator[str]:
    """Yield what the tables do not say, the verdict first."""
    if tuned.confirmation is None:
        yield f"No trial of {len(tuned.tried)} is better than the base on the first part. Keep the base"
    else:
        yield tuned.confirmation.verdict
    if tuned.left_out:
        yield f"Not tuned, because {_NAMES[tuned.plan.objective]} does not depend on it: {', '.join(tuned.left_out)}"
    stopped = sum(one.state == "stopped" for one in tuned.tried)
    if stopped:
        yield f"{stopped} of {len(tuned.tried)} trials were stopped early"
    reasons: dict[str, int] = {}
    for one in tuned.tried:
        if one.reason:
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
    for reason, count in reasons.items():
        yield f"{count} trials failed: {reason}"
    for one in tuned.tried:
        for name, count in one.failures.items():
            yield f"trial {one.number}: {name} failed on {count} batches, which it did not learn"


def as_json(tuned: Tuned) -> str:
    """All results as JSON; undefined numbers are null."""
    plan = tuned.plan
    document = {
        "config": plan.name,
        "stream": plan.document.get("stream", {}).get("url"),
        "objectives": list(plan.objectives),
        "seed": plan.seed,
        "first": tuned.first,
        "total": tuned.total,
        "best": tuned.best.number,
        "values": tuned.best_values,
        "confirmation": None if tuned.confirmation is None else asdict(tuned.confirmation),
        "front": [one.number for one in tuned.front],
        "importance": tuned.importance,
        "trials": [asdict(one) for one in tuned.tried],
    }
    return json.dumps(finite(document), indent=1, allow_nan=False)


def write(tuned: Tuned, folder: Path) -> list[Path]:
    """Write ``tune.json`` and ``tune.png`` into a folder; return their paths."""
    import matplotlib as mpl  # Takes a second to import: only a report pays it.

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    data, picture = folder / "tune.json", folder / "tune.png"
    data.write_text(as_json(tuned), encoding="utf-8")
    paths = sorted({path for one in tuned.tried for path in one.params}, key=lambda path: -tuned.importance.get(path, 0.0))
    rows = 2 + math.ceil(len(paths) / 3)
    figure = plt.figure(figsize=(13, 3.4 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 3)
    name = _NAMES[tuned.plan.objective]
    figure.suptitle(f"{tuned.plan.name}: {name} on the first {tuned.first:,} of {tuned.total:,}")
    _history(figure.add_subplot(grid[0, :2]), tuned, name)
    _importance(figure.add_subplot(grid[0, 2]), tuned)
    _parallel(figure.add_subplot(grid[1, :]), tuned, paths)
    for n, path in enumerate(paths):
        _slice(figure.add_subplot(grid[2 + n // 3, n % 3]), tuned, path, name)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    return [data, picture]


def _history(axis: Axes, tuned: Tuned, name: str) -> None:
    pick = min if tuned.plan.objective in LOWER_IS_BETTER else max
    complete = [one for one in tuned.tried if one.state == "complete"]
    stopped = [one for one in tuned.tried if one.state == "stopped"]
    axis.plot([one.number for one in stopped], [one.value for one in stopped], "x", color="0.7", label="stopped early")
    axis.plot([one.number for one in complete], [one.value for one in complete], "o", label="complete")
    best = [pick(one.value for one in complete[: n + 1]) for n in range(len(complete))]
    axis.step([one.number for one in complete], best, where="post", color="C1", label="best so far")
    axis.axhline(tuned.tried[0].value, color="0.5", linestyle=":", label="base")
    axis.set(xlabel="trial", ylabel=name, title="History")
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize="small")


def _importance(axis: Axes, tuned: Tuned) -> None:
    found = list(tuned.importance.items())[:10][::-1]
    axis.barh([_short(path) for path, _ in found], [share for _, share in found])
    axis.set(title="Importance" if found else "Importance: too few complete trials")


def _parallel(axis: Axes, tuned: Tuned, paths: Sequence[str]) -> None:
    """Draw a line for each complete trial through its values; each key reaches from its lowest to its highest value."""
    from matplotlib import colormaps

    trials = _best_first(tuned)[::-1]
    for x, path in enumerate(paths):
        ends = _ordered([one.params[path] for one in trials if path in one.params])
        for value, y, side in zip(ends[:1] + ends[-1:], (-0.04, 1.04), ("top", "bottom"), strict=False):
            axis.text(x, y, as_text(value), ha="center", va=side, fontsize="x-small")
    columns = [_positions([one.params.get(path) for one in trials]) for path in paths]
    # Coloured by rank: by value, a few bad trials would leave the others with one colour.
    colours = colormaps["viridis_r"](np.linspace(0.0, 1.0, len(trials)))
    for heights, colour, one in zip(zip(*columns, strict=True), colours, trials, strict=False):
        best = one is trials[-1]
        axis.plot(heights, color="C1" if best else colour, linewidth=2.5 if best else 0.9, marker="o", markersize=3)
    axis.set(title="Values of the complete trials: the darker the better, the best in orange", ylim=(-0.15, 1.15), yticks=[])
    axis.set_xticks(range(len(paths)), [_short(path) for path in paths], rotation=10, ha="right", fontsize="small")
    axis.grid(visible=True, axis="x", alpha=0.5)


def _ordered(values: Sequence[Any]) -> list[Any]:
    """Different values in ascending order; texts and booleans by name."""
    return sorted(set(values), key=str if any(isinstance(value, bool | str) for value in values) else float)


def _positions(values: Sequence[Any]) -> list[float]:
    """Place each value between 0 (the lowest) and 1 (the highest); NaN where a trial has none."""
    ordered = _ordered([value for value in values if value is not None])
    if any(isinstance(value, bool | str) for value in ordered):
        numbers = {value: float(n) for n, value in enumerate(ordered)}
    else:
        numbers = {value: math.log(value) if _spans_decades(ordered) else float(value) for value in ordered}
    low, high = (numbers[ordered[0]], numbers[ordered[-1]]) if ordered else (0.0, 0.0)
    return [math.nan if value is None else (numbers[value] - low) / (high - low) if high > low else 0.5 for value in values]


def _spans_decades(values: Sequence[Any]) -> bool:
    """Whether numbers are better shown on a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def _slice(axis: Axes, tuned: Tuned, path: str, name: str) -> None:
    drawn = [one for one in tuned.tried if path in one.params and one.state != "failed"]
    values: Sequence[Any] = [one.params[path] for one in drawn]
    texts = any(isinstance(value, bool | str) for value in values)
    for state, marker, colour in (("stopped", "x", "0.7"), ("complete", "o", "C0")):
        of_state = [n for n, one in enumerate(drawn) if one.state == state]
        x = [as_text(values[n]) if texts else values[n] for n in of_state]
        axis.plot(x, [drawn[n].value for n in of_state], marker, color=colour)
    if not texts and _spans_decades(values):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    axis.set(ylabel=name)
    axis.set_title(path, fontsize="medium")
    axis.grid(visible=True, alpha=0.3)


def _best_first(tuned: Tuned) -> list[Tried]:
    complete = [one for one in tuned.tried if one.state == "complete"]
    return sorted(complete, key=lambda one: one.value if tuned.plan.objective in LOWER_IS_BETTER else -one.value)


def _values(one: Tried) -> str:
    return ", ".join(f"{_short(path)} = {as_text(value)}" for path, value in one.params.items())


def _short(path: str) -> str:
    """A path without its section."""
    return ".".join(parts(path)[1:] or parts(path))


def _units(objective: Objective) -> str:
    if objective is Objective.OFF_POLICY:
        return "impressions"
    return "tests of the list" if objective in (Objective.HIT_RATE, Objective.NDCG) else "rows"
