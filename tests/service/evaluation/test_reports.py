"""Pictures and pages of reports: labels that can be read, dates where there are some, and nothing from elsewhere."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from service.evaluation.event_clock import EventClock
from service.evaluation.progressive import Curve, Quality, TopN
from service.evaluation.replay import Replay
from service.evaluation.reports.axes import as_dates, day, label_lines, saved
from service.evaluation.reports.page import write_page
from service.evaluation.reports.replay_figure import draw

APRIL = 893_203_200.0


def curve(*values: float, time: float = APRIL) -> Curve:
    return Curve([10 * n for n in range(len(values))], list(values), [time + 86_400.0 * n for n in range(len(values))])


def replay(name: str, learner: str, value: float, time: float = APRIL) -> Replay:
    def of(by: float) -> Curve:
        return curve(by, by + 0.01, by, time=time)

    quality = Quality(
        rows=30, auc=value, gauc=value, impression_auc=math.nan, log_loss=value, top_reward=math.nan, gain=math.nan,
        margin=math.nan, auc_curve=of(value), log_loss_curve=of(value),
    )  # fmt: skip
    top = TopN(tests=30, hit_rate=value, ndcg=value, reward=value, hit_rate_curve=of(value), ndcg_curve=of(value))
    return Replay(
        name=name, stream="file:shop.csv", batch_rows=64, rows=30, open_rows=0, recomputed=0, seconds=1.0, cpu_seconds=1.0,
        quality={learner: quality}, top_n={"recommend": top}, graded=False, logged_reward=math.nan, capped={}, untrained=0,
        dead={}, warnings=[], digest="", memory_bytes={},
    )  # fmt: skip


def texts(picture: Path) -> str:
    """What an SVG says. Its letters are shapes, but each text stands in a comment."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", picture.read_text()))


def test_a_picture_names_stream_dates_and_lines(tmp_path: Path) -> None:
    draw([replay("one", "fm", 0.7), replay("two", "bias", 0.6)], 10, tmp_path / "replay.svg")
    said = texts(tmp_path / "replay.svg")
    for words in ("file:shop.csv: 30 rows, 1998-04-22 to 1998-04-24", "one: fm", "two: bias", "NDCG@10", "AUC - that of one"):
        assert words in said


def test_rows_are_on_the_axis_where_there_are_no_dates_or_rows_are_asked_for(tmp_path: Path) -> None:
    one = replay("one", "fm", 0.7)
    draw([one], 10, tmp_path / "dates.svg")
    draw([one], 10, tmp_path / "rows.svg", by_rows=True)
    draw([replay("one", "fm", 0.7, time=100.0)], 10, tmp_path / "counts.svg")
    assert ["rows" in texts(tmp_path / f"{name}.svg").splitlines() for name in ("dates", "rows", "counts")] == [
        False,
        True,
        True,
    ]


def test_times_that_are_no_dates() -> None:
    assert as_dates([1.0, 2.0]) is None
    assert as_dates([APRIL, math.nan]) is None
    assert as_dates([APRIL, APRIL]) is None
    assert [day(date.timestamp()) for date in as_dates([APRIL, APRIL + 86_400.0]) or []] == ["1998-04-22", "1998-04-23"]


def test_labels_of_lines_that_end_together_do_not_cover_each_other(tmp_path: Path) -> None:
    with saved(tmp_path / "lines.svg", 1, 1, (4, 3), "") as (_, ((axis,),)):
        for n in range(5):
            axis.plot([0, 1], [0, 0.001 * n], label=f"line {n}")
        axis.set_ylim(-1, 1)
        label_lines(axis, gap=0.1)
        places = [text.xy[1] for text in axis.texts]
    assert np.diff(places) == pytest.approx(0.1)


def test_a_page_holds_everything_and_escapes_it(tmp_path: Path) -> None:
    draw([replay("one", "fm", 0.7)], 10, tmp_path / "replay.svg")
    table = Table(title="Shop <1>")
    table.add_column("AUC", justify="right")
    table.add_row("[bold]0.7[/bold]")
    write_page(tmp_path / "page.html", table, tmp_path / "replay.svg", ["1 < 2"], {"one": 'seed = "<0>"'}, "freshet replay")
    page = (tmp_path / "page.html").read_text()
    for words in (
        "<h1>Shop &lt;1&gt;</h1>",
        '<td class="right"><b>0.7</b></td>',
        "1 &lt; 2",
        "seed = &quot;&lt;0&gt;&quot;",
        "numpy ",
    ):
        assert words in page
    assert "<svg" in page
    assert not re.search(r'(src|href)="https?://', page)


def test_a_clock_keeps_few_points_of_many_rows() -> None:
    clock = EventClock()
    for n in range(100_000):
        clock.add(n, 2.0 * n)
    assert clock.at([0, 54_321]).tolist() == pytest.approx([0.0, 108_642.0])
    assert len(clock._rows) <= 4097
    assert np.isnan(EventClock().at([3])).all()
