"""The picture of replays: each metric over time, and how it differs from that of the first config."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from service.evaluation.progressive import SERVED, Curve
from service.evaluation.replay import Replay
from service.evaluation.reports.axes import as_dates, day, label_lines, limit_to, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]


class _Panel(NamedTuple):
    """A metric: its name, and the curve of each learner of a replay."""

    name: str
    of: Callable[[Replay], dict[str, Curve]]


def draw(replays: Sequence[Replay], k: int, path: Path, *, by_rows: bool = False) -> None:
    """Draw the sliding-window metrics of replays.

    Parameters
    ----------
    replays : sequence of Replay
        Of the same stream. Differences are to the first one.
    k : int
        Length of the lists.
    path : Path
        The suffix chooses the format, such as ``.png`` or ``.svg``.
    by_rows : bool
        Whether the horizontal axis has rows even where the stream has dates.
    """
    panels = [panel for panel in _panels(k) if any(_drawn(panel.of(one)) for one in replays)] or list(_panels(k))[2:3]
    columns = 2 if len(replays) > 1 else 1
    size = 8.0 * columns, 1.0 + 2.6 * len(panels)
    colours: dict[str, str] = {}
    with saved(path, len(panels), columns, size, _title(replays)) as (_, axes):
        for panel, (axis, *rest) in zip(panels, axes, strict=True):
            first = _drawn(panel.of(replays[0])) if replays else {}
            lines = [(one, name, curve) for one in replays for name, curve in _drawn(panel.of(one)).items()]
            for one, name, curve in lines:
                label = name if columns == 1 else f"{one.name}: {name}"
                colour = colours.setdefault(label, f"C{len(colours)}")
                _line(axis, curve, curve.value, label, colour, by_rows=by_rows)
                base = _base(first, name)
                if rest and one is not replays[0] and base is not None and base.row == curve.row:
                    difference = [mine - theirs for mine, theirs in zip(curve.value, base.value, strict=True)]
                    _line(rest[0], curve, difference, label, colour, by_rows=by_rows)
            axis.set_ylabel(panel.name)
            _finish(axis)
            for other in rest:
                if not other.lines:
                    other.set_visible(False)
                    continue
                other.axhline(0.0, color="black", linewidth=0.8, label="_zero")
                other.set_ylabel(f"{panel.name} - that of {replays[0].name}")
                _finish(other)


def _panels(k: int) -> Iterator[_Panel]:
    yield _Panel(f"hit rate@{k}", lambda one: {name: top.hit_rate_curve for name, top in one.top_n.items()})
    yield _Panel(f"NDCG@{k}", lambda one: {name: top.ndcg_curve for name, top in one.top_n.items()})
    yield _Panel("AUC", lambda one: {name: quality.auc_curve for name, quality in one.quality.items()})
    yield _Panel("log loss", lambda one: {name: quality.log_loss_curve for name, quality in one.quality.items()})


def _base(first: dict[str, Curve], name: str) -> Curve | None:
    """Return the curve to which a learner's is compared: that of its name, or of the last learner, which makes the scores."""
    return first.get(name) or (list(first.values())[-1] if first and name not in first else None)


def _drawn(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Curves with a value, what is served first."""
    found = {name: curve for name, curve in curves.items() if any(map(math.isfinite, curve.value))}
    return dict(sorted(found.items(), key=lambda item: item[0] != SERVED))


def _line(axis: Axes, curve: Curve, values: Sequence[float], label: str, colour: str, *, by_rows: bool) -> None:
    dates = None if by_rows else as_dates(curve.time)
    width = 2.2 if label.endswith(SERVED) else 1.3
    axis.plot(curve.row if dates is None else dates, values, label=label, color=colour, linewidth=width)  # type: ignore[arg-type]
    axis.set_xlabel("rows" if dates is None else "")


def _finish(axis: Axes) -> None:
    drawn = [np.asarray(line.get_ydata(), float).tolist() for line in axis.lines if line.get_label() != "_zero"]
    # The first windows are those of learners that know nothing yet, and would flatten the rest.
    limit_to(axis, [value for values in drawn for value in values[len(values) // 5 :]])
    label_lines(axis)


def _title(replays: Sequence[Replay]) -> str:
    if not replays:
        return "nothing was replayed"
    one = replays[0]
    times = [time for quality in one.quality.values() for time in quality.auc_curve.time]
    span = f", {day(min(times))} to {day(max(times))}" if times and as_dates(sorted(times)) else ""
    return f"{one.stream}: {one.rows:,} rows{span}. Each row is predicted before it is learned; sliding windows"
