"""What the pictures of all reports share: labels beside the lines, and time axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["as_dates", "day", "label_lines", "limit_to", "saved"]

Places = npt.NDArray[np.float64]

_EARLIEST = 86_400.0 * 365
"""Smaller times, Unix seconds, are counts and not dates."""


@contextmanager
def saved(
    path: Path, rows: int, columns: int, size: tuple[float, float], title: str
) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """Give axes to draw on, and save the picture at the end.

    Parameters
    ----------
    path : Path
        The suffix chooses the format.
    rows, columns : int
    size : (float, float)
        Width and height, in inches.
    title : str
    """
    import matplotlib as mpl  # Takes a second to import: only a report pays it.

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "date.converter": "concise",
        }
    ):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        figure.suptitle(title, fontsize="medium", horizontalalignment="left", x=0.01)
        yield figure, axes.tolist()
        figure.savefig(path, dpi=120)
        plt.close(figure)


def as_dates(times: Sequence[float]) -> list[datetime] | None:
    """Return Unix seconds as dates; None if they are none, or do not grow."""
    known = [time for time in times if math.isfinite(time)]
    if len(known) < len(times) or not known or known[0] < _EARLIEST or known[0] == known[-1]:
        return None
    return [datetime.fromtimestamp(time, UTC) for time in known]


def day(time: float) -> str:
    """Return the day of a time, such as ``1998-04-22``."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d")


def limit_to(axis: Axes, values: Sequence[float]) -> None:
    """Show the range of the values, and a little space around it."""
    known = [value for value in values if math.isfinite(value)]
    if known:
        low, high = min(known), max(known)
        space = 0.08 * (high - low or abs(high) or 1.0)
        axis.set_ylim(low - space, high + space)


def label_lines(axis: Axes, gap: float = 0.065) -> None:
    """Write each line's label beside its end, at least `gap` of the axis' height apart.

    Parameters
    ----------
    axis : Axes
        Its limits have to be final.
    gap : float
    """
    lines = [line for line in axis.lines if not str(line.get_label()).startswith("_") and len(line.get_xdata())]  # type: ignore[arg-type]
    to_axis = axis.transData + axis.transAxes.inverted()
    ends = np.array([to_axis.transform((0.0, _last(np.asarray(line.get_ydata(), float).tolist())))[1] for line in lines])
    for line, place in zip(lines, _spread(np.clip(ends, 0.0, 1.0), gap), strict=True):
        axis.annotate(
            str(line.get_label()),
            xy=(1.0, place),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize="small",
            color=line.get_color(),
            annotation_clip=False,
        )


def _last(values: Sequence[float]) -> float:
    return next((value for value in reversed(values) if math.isfinite(value)), 0.0)


def _spread(places: Places, gap: float) -> Places:
    """Move places apart, in their order, by as little as a pass upwards and one downwards need."""
    order = np.argsort(places, kind="stable")
    moved = places[order].copy()
    for n in range(1, moved.size):
        moved[n] = max(moved[n], moved[n - 1] + gap)
    if moved.size and moved[-1] > 1.0:
        moved[-1] = 1.0
        for n in range(moved.size - 2, -1, -1):
            moved[n] = min(moved[n], moved[n + 1] - gap)
    found = np.empty_like(places)
    found[order] = moved
    return found
