"""Reports of replays: a table, JSON, and a plot of the sliding-window metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from service.evaluation.progressive import Curve
from service.evaluation.replay import Replay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["as_json", "finite", "remarks", "table", "write"]


def table(replays: Sequence[Replay], k: int) -> Table:
    """Table of all replays: one row per learner and configuration."""
    shown = Table(title="Progressive validation: every row is predicted when it is ranked, before its outcome is learned")
    shown.add_column("config")
    shown.add_column("learner")
    with_lists = any(one.top_n for one in replays)
    lists = (f"hit rate@{k}", f"NDCG@{k}") if with_lists else ()
    with_gain = any(not math.isnan(quality.gain) for one in replays for quality in one.quality.values())
    gains = ("gain",) if with_gain else ()
    with_impressions = any(not math.isnan(quality.impression_auc) for one in replays for quality in one.quality.values())
    of_impressions = ("impression AUC",) if with_impressions else ()
    for name in ("AUC", "gAUC", *of_impressions, "log loss", *gains, *lists, "rows/s"):
        shown.add_column(name, justify="right")
    for one in replays:
        for learner in dict.fromkeys([*one.quality, *one.top_n]):
            quality, top = one.quality.get(learner), one.top_n.get(learner)
            names = ("auc", "gauc", "impression_auc", "log_loss") if with_impressions else ("auc", "gauc", "log_loss")
            cells = [_text(math.nan if quality is None else getattr(quality, name)) for name in names]
            if with_gain:
                cells.append("" if quality is None or math.isnan(quality.gain) else f"{quality.gain:.4f} ±{quality.margin:.4f}")
            if with_lists:
                cells += map(_text, [math.nan] * 2 if top is None else [top.hit_rate, top.ndcg])
            rate = f"{one.rows / one.seconds:,.0f}" if one.seconds else ""
            shown.add_row(one.name, learner, *cells, rate)
    return shown


def remarks(one: Replay) -> Iterator[str]:
    """Yield remarks that help to interpret the metrics of a replay."""
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
    return json.dumps([finite(asdict(one)) for one in replays], indent=1, allow_nan=False)


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
