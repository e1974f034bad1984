"""Reports of replays: a table, JSON, and a plot of the sliding-window metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from service.evaluation.progressive import SERVED, Curve
from service.evaluation.replay import Replay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["as_json", "finite", "remarks", "table", "write"]


_LOWER_IS_BETTER = "log loss"


def table(replays: Sequence[Replay], k: int) -> Table:
    """Table of all replays: one row per learner and configuration, what is served first. The best of each column is bold."""
    rows = [(one, name) for one in replays for name in _learners(one)]
    columns = _columns(rows, k)
    shown = Table(title="Progressive validation: every row is predicted when it is ranked, before its outcome is learned")
    shown.add_column("config")
    shown.add_column("learner")
    for name in (*columns, "rows/s"):
        shown.add_column(name, justify="right")
    cells = [_marked(name, values) for name, values in columns.items()]
    for n, (one, name) in enumerate(rows):
        rate = f"{one.rows / one.seconds:,.0f}" if one.seconds else ""
        shown.add_row(one.name, name, *(column[n] for column in cells), rate)
    return shown


def _learners(one: Replay) -> list[str]:
    """Rows of a replay: what is served, then the learners."""
    names = dict.fromkeys([*one.quality, *one.top_n])
    return sorted(names, key=lambda name: name != SERVED)


def _columns(rows: Sequence[tuple[Replay, str]], k: int) -> dict[str, list[tuple[float, float]]]:
    """Value and margin of each row in each column; columns without any value are left out."""
    nothing = math.nan

    def of_quality(field: str, margin: str = "") -> list[tuple[float, float]]:
        found = [one.quality.get(name) for one, name in rows]
        return [
            (nothing, nothing) if one is None else (getattr(one, field), getattr(one, margin) if margin else nothing)
            for one in found
        ]

    def of_lists(field: str) -> list[tuple[float, float]]:
        found = [one.top_n.get(name) for one, name in rows]
        return [(nothing if one is None else getattr(one, field), nothing) for one in found]

    columns = {
        f"hit rate@{k}": of_lists("hit_rate"),
        f"NDCG@{k}": of_lists("ndcg"),
        f"reward@{k}": of_lists("reward"),
        "AUC": of_quality("auc"),
        "gAUC": of_quality("gauc"),
        "impression AUC": of_quality("impression_auc"),
        "impression reward@1": of_quality("top_reward"),
        _LOWER_IS_BETTER: of_quality("log_loss"),
        "gain": of_quality("gain", "margin"),
    }
    if not any(one.graded for one, _ in rows):
        # Each reward is 1, so a reward is a hit.
        del columns[f"reward@{k}"], columns["impression reward@1"]
    always = {"AUC", "gAUC", _LOWER_IS_BETTER}
    return {
        name: values for name, values in columns.items() if name in always or any(not math.isnan(value) for value, _ in values)
    }


def _marked(name: str, values: Sequence[tuple[float, float]]) -> list[str]:
    """Cells of a column; the best is bold where there is more than one."""
    known = [value for value, _ in values if not math.isnan(value)]
    best = (min(known) if name == _LOWER_IS_BETTER else max(known)) if len(known) > 1 else math.nan
    texts = [_text(value) + ("" if math.isnan(margin) else f" ±{margin:.4f}") for value, margin in values]
    return [f"[bold]{text}[/bold]" if value == best else text for text, (value, _) in zip(texts, values, strict=True)]


def remarks(one: Replay) -> Iterator[str]:
    """Yield remarks that help to interpret the metrics of a replay."""
    parts = {name: top for name, top in one.top_n.items() if name != SERVED}
    served = one.top_n.get(SERVED)
    if served is not None and parts:
        best = max(parts, key=lambda name: parts[name].hit_rate)
        if served.hit_rate < parts[best].hit_rate:
            yield (
                f"{one.name}: the served ranking ({SERVED}) has a hit rate of {served.hit_rate:.4f}, below {best} alone with "
                f"{parts[best].hit_rate:.4f}; add [rerankers.mixture], which learns to order what all retrievers find"
            )
    if one.graded and not math.isnan(one.logged_reward):
        yield f"{one.name}: the first item of an impression, as the log has them, has a mean reward of {one.logged_reward:.4f}"
    for name, rows in one.capped.items():
        if rows:
            yield (
                f"{one.name}: {name} limited the weight of {rows:,} rows, because their rewards are far from 1; "
                "choose [reward] so that the usual reward is about 1"
            )
    if served is not None and one.untrained:
        yield (
            f"{one.name}: {one.untrained:,} likes have no impression, so the ranker learned which chosen items are liked, not "
            f"which are chosen: {SERVED} is not trained for the catalogue. Set n in [negatives], or add [rerankers.mixture]"
        )
    if one.open_rows:
        yield (
            f"{one.name}: the last {one.open_rows:,} rows are in batches or windows that the log does not close; they "
            "are measured, but the digest is of the state before them, as in a service that has read the log"
        )
    if one.recomputed:
        yield (
            f"{one.name}: {one.recomputed:,} rows of impressions have features of another config, or are not signed with "
            "the key in the log's data folder; they were scored with the state at the time when the impression was read"
        )


def as_json(replays: Sequence[Replay]) -> str:
    """All results as a JSON list; undefined numbers are null."""
    return json.dumps([finite(_figures(one)) for one in replays], indent=1, allow_nan=False)


def _figures(one: Replay) -> dict[str, Any]:
    """All fields but the predictions of the rows."""
    found = asdict(replace(one, predictions=None))
    del found["predictions"]
    return found


def write(replays: Sequence[Replay], folder: Path, k: int) -> list[Path]:
    """Write ``replay.json`` and ``replay.png`` into a folder; return their paths."""
    import matplotlib as mpl  # Takes a second to import: only a report pays it.

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    data, picture = folder / "replay.json", folder / "replay.png"
    data.write_text(as_json(replays), encoding="utf-8")
    with_lists = any(one.top_n for one in replays)
    figure, axes = plt.subplots(2 + with_lists, 1, figsize=(9, 3 * (2 + with_lists)), layout="constrained", squeeze=False)
    auc_axes, loss_axes, *hit_axes = axes[:, 0]
    colours: dict[str, str] = {}

    def plot(axis: Axes, config: str, learner: str, curve: Curve) -> None:
        label = f"{config}: {learner}"
        axis.plot(curve.row, curve.value, label=label, color=colours.setdefault(label, f"C{len(colours)}"))

    for one in replays:
        for learner, quality in one.quality.items():
            plot(auc_axes, one.name, learner, quality.auc_curve)
            if not math.isnan(quality.log_loss):
                plot(loss_axes, one.name, learner, quality.log_loss_curve)
        for learner, top in one.top_n.items():
            plot(hit_axes[0], one.name, learner, top.hit_rate_curve)
    auc_axes.set_ylabel("AUC")
    loss_axes.set_ylabel("log loss")
    loss_axes.set_xlabel("rows")
    for axis in hit_axes:
        axis.set_ylabel(f"hit rate@{k}")
        axis.set_xlabel("tests")
    for axis in axes[:, 0]:
        axis.grid(visible=True, alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    return [data, picture]


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def finite(value: Any) -> Any:
    """Replace numbers that JSON lacks, infinite or NaN, by None."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
