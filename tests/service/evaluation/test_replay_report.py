"""The table of a replay shows first what a visitor gets, and says when a part of it would do better alone."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console

from service.evaluation.progressive import Curve, Quality, TopN
from service.evaluation.replay import Replay
from service.evaluation.reports.replay_report import remarks, table


def quality(auc: float, log_loss: float) -> Quality:
    none = math.nan
    numbers: dict[str, Any] = {"gauc": auc, "impression_auc": none, "top_reward": none, "gain": none, "margin": none}
    return Quality(rows=9, auc=auc, log_loss=log_loss, auc_curve=Curve(), log_loss_curve=Curve(), **numbers)


def top(hit_rate: float) -> TopN:
    return TopN(tests=9, hit_rate=hit_rate, ndcg=hit_rate / 2, reward=hit_rate * 2, hit_rate_curve=Curve(), ndcg_curve=Curve())


def replay(served: float, part: float, untrained: int = 0) -> Replay:
    return Replay(
        name="shop",
        stream="file:shop.csv",
        batch_rows=64,
        rows=9,
        open_rows=0,
        recomputed=0,
        seconds=1.0,
        cpu_seconds=1.0,
        quality={"item_knn": quality(0.7, math.nan), "fm": quality(0.8, 0.4), "bias": quality(0.6, 0.3)},
        top_n={"item_knn": top(part), "recommend": top(served)},
        graded=False,
        logged_reward=math.nan,
        capped={"fm": 0},
        untrained=untrained,
        dead={},
        warnings=[],
        digest="",
        memory_bytes={},
    )


def rows_of(one: Replay) -> list[list[str]]:
    shown = table([one], 10)
    cells = [list(column.cells) for column in shown.columns]
    return [[str(column.header) for column in shown.columns], *map(list, zip(*cells, strict=True))]  # type: ignore[list-item]


def test_what_is_served_comes_first_and_the_best_is_bold() -> None:
    header, *rows = rows_of(replay(served=0.2, part=0.3))
    assert header == ["config", "learner", "hit rate@10", "NDCG@10", "AUC", "gAUC", "log loss", "rows/s"]
    assert [row[1] for row in rows] == ["recommend", "item_knn", "fm", "bias"]
    assert rows[0][2:4] == ["0.2000", "0.1000"]
    assert rows[1][2:4] == ["[bold]0.3000[/bold]", "[bold]0.1500[/bold]"]
    assert rows[2][4] == "[bold]0.8000[/bold]" and rows[2][6] == "0.4000"
    assert rows[3][6] == "[bold]0.3000[/bold]", "of losses the smallest"
    Console(record=True).print(table([replay(0.2, 0.3)], 10))
    assert "Micro-batches of up to 64 rows" in str(table([replay(0.2, 0.3)], 10).caption)


def test_it_says_when_a_part_alone_would_do_better() -> None:
    (remark,) = remarks(replay(served=0.2, part=0.3))
    assert "0.2000, below item_knn alone with 0.3000" in remark and "[rerankers.mixture]" in remark
    assert list(remarks(replay(served=0.3, part=0.3))) == []


def test_rewards_are_shown_where_they_are_not_clicks() -> None:
    one = replay(served=0.2, part=0.1)
    one.quality["fm"].top_reward, one.logged_reward = 1.5, 0.25
    assert not [name for name in rows_of(one)[0] if "reward" in name]
    assert not list(remarks(one))
    one.graded = True
    header, *rows = rows_of(one)
    assert [row[header.index("reward@10")] for row in rows[:2]] == ["[bold]0.4000[/bold]", "0.2000"]
    assert [row[header.index("impression reward@1")] for row in rows] == ["", "", "1.5000", ""]
    (remark,) = remarks(one)
    assert "as the log has them, has a mean reward of 0.2500" in remark


def test_it_says_when_rewards_were_too_large() -> None:
    one = replay(served=0.2, part=0.1)
    one.capped = {"fm": 1200, "bias": 0}
    (remark,) = remarks(one)
    assert "fm limited the weight of 1,200 rows" in remark and "[reward]" in remark


def test_a_ranker_that_saw_only_what_was_chosen_is_not_said_to_order_the_catalogue() -> None:
    assert [remark for remark in remarks(replay(0.3, 0.2, untrained=1234)) if "1,234 likes have no impression" in remark]
    assert not list(remarks(replay(0.3, 0.2)))
