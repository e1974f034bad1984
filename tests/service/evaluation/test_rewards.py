"""The reward a request in a replay: known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.config import parse
from service.evaluation.replay import Replay, replay
from service.evaluation.reports.replay_report import as_json


def replayed(tmp_path: Path, events: list[dict[str, Any]], k: int, **sections: Any) -> Replay:
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, events)))
    rewards = {"click": 1.0, "buy": 5.0, "dislike": -2.0}
    stream = {"url": f"file:{file}", "format": "events", "kind": "click", "window": 60.0, "batch_rows": 1}
    return replay(parse({"stream": stream, "reward": rewards, "ranker": {"bias": {}}} | sections, "shop"), k=k)


def impression(number: int, items: list[str], at: float) -> dict[str, Any]:
    return {"type": "impression", "request_id": f"r{number}", "user": "u", "items": items, "timestamp": at}


def interaction(item: str, kind: str, at: float, number: int | None = None, user: str = "u") -> dict[str, Any]:
    request = {} if number is None else {"request_id": f"r{number}"}
    return {"type": "interaction", "user": user, "item": item, "kind": kind, "timestamp": at} | request


def test_the_reward_of_the_first_item_of_an_impression(tmp_path: Path) -> None:
    """All scores are equal when the impressions are read, so the first item is any of them."""
    done = replayed(
        tmp_path,
        [
            impression(0, ["a", "b", "c"], 1000.0),
            impression(1, ["d", "e"], 1001.0),
            interaction("a", "dislike", 1002.0, 0),
            interaction("b", "click", 1003.0, 0),
            interaction("b", "buy", 1004.0, 0),
            interaction("e", "buy", 1005.0, 1),
        ],
        k=0,
    )
    assert done.rows == 5
    assert done.graded
    assert done.logged_reward == pytest.approx((-2 + 0) / 2), "a dislike is worse than nothing"
    assert done.quality["bias"].top_reward == pytest.approx(((-2 + 5 + 0) / 3 + (0 + 5) / 2) / 2)


def test_a_late_dislike_revises_the_reward(tmp_path: Path) -> None:
    events = [impression(0, ["a"], 1000.0), impression(1, ["b"], 1100.0), interaction("a", "dislike", 1101.0, 0)]
    done = replayed(tmp_path, events, k=0)
    assert done.logged_reward == pytest.approx(-2 / 2)


def test_the_reward_of_lists(tmp_path: Path) -> None:
    """Of three requests, the second has its item on the list of one: it is bought."""
    events = [
        interaction("a", "buy", 1000.0, user="u1"),
        interaction("a", "buy", 1001.0, user="u2"),
        interaction("b", "click", 1002.0, user="u3"),
    ]
    done = replayed(tmp_path, events, 1, retrievers={"popularity": {}})
    top = done.top_n["popularity"]
    assert (top.tests, top.hit_rate, top.reward) == (3, pytest.approx(1 / 3), pytest.approx(5 / 3))
    assert json.loads(as_json([done]))[0]["top_n"]["popularity"]["reward"] == pytest.approx(5 / 3)


def test_clicks_alone_are_not_graded_and_large_rewards_are_counted(tmp_path: Path) -> None:
    events = [interaction("a", "click", 1000.0 + n, user=f"u{n}") for n in range(3)]
    assert not replayed(tmp_path, events, 0).graded
    events[1]["value"] = 3600.0
    assert replayed(tmp_path, events, 0).capped == {"bias": 1}
