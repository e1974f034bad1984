"""Reports of replays: a table, JSON, a picture, and a page that holds them all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from service.evaluation.progressive import SERVED
from service.evaluation.replay import Replay
from service.evaluation.reports.page import write_page
from service.evaluation.reports.replay_figure import draw

__all__ = ["as_json", "finite", "remarks", "table", "write"]


_LOWER_IS_BETTER = "log loss"


def table(replays: Sequence[Replay], k: int) -> Table:
    """Table of all replays: one row per learner and configuration, what is served first. The best of each column is bold."""
    rows = [(one, name) for one in replays for name in _learners(one)]
    columns = _columns(rows, k)
    shown = Table(title="Progressive validation: every row is predicted when it is ranked, before its outcome is learned")
    most = max((one.batch_rows for one in replays), default=1)
    if most > 1:
        shown.caption = (
            f"Micro-batches of up to {most} rows: none is predicted by what was learned from its own; --batch-rows 1 is strict"
        )
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
    for warning in one.warnings:
        yield f"{one.name}: {warning}"
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


def write(
    replays: Sequence[Replay], folder: Path, k: int, configs: Sequence[str] = (), command: str = "", *, by_rows: bool = False
) -> list[Path]:
    """Write ``replay.json``, ``replay.png`` and ``replay.html`` into a folder; return their paths.

    Parameters
    ----------
    replays : sequence of Replay
    folder : Path
    k : int
        Length of the lists.
    configs : sequence of str
        TOML of each replay's config with all its values, for the page.
    command : str
        What made the report, for the page.
    by_rows : bool
        Whether the horizontal axes have rows even where the stream has dates.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, picture, page = (folder / f"replay.{suffix}" for suffix in ("json", "png", "html"))
    data.write_text(as_json(replays), encoding="utf-8")
    draw(replays, k, picture, by_rows=by_rows)
    drawing = folder / "replay.svg"
    draw(replays, k, drawing, by_rows=by_rows)
    lines = [line for one in replays for line in remarks(one)]
    write_page(
        page, table(replays, k), drawing, lines, dict(zip([one.name for one in replays], configs, strict=False)), command
    )
    drawing.unlink()
    return [data, picture, page]


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def finite(value: Any) -> Any:
    """Replace numbers that JSON lacks, infinite or NaN, by None."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
