"""The predictions of every row: what each row is, its outcome, and what each learner said before it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from service.config import parse
from service.evaluation.replay import replay
from service.evaluation.reports import replay_report
from service.monitoring.quality import auc
from streams.codec import encode
from streams.events import Impression, Interaction


def test_rows_of_a_table_are_in_its_order_and_give_the_metrics(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = [(f"u{rng.integers(9)}", f"i{rng.integers(7)}", int(rng.random() < 0.4), 100.0 + n) for n in range(333)]
    path = tmp_path / "clicks.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("user", "item", "label", "timestamp"), *rows])
    stream = {"url": f"file:{path}", "kind": "click", "batch_rows": 50, "columns": {"value": "label"}}
    config = parse({"stream": stream, "ranker": {"bias": {}}, "retrievers": {"popularity": {}}}, "clicks")
    result = replay(config, k=0, keep_rows=True)
    assert result.predictions is not None
    table = result.predictions.table()
    read = [tuple(row[name] for name in ("user", "item", "reward", "timestamp")) for row in table.to_pylist()]
    assert read == rows
    assert table["request_id"].null_count == table["position"].null_count == 333
    score, positive = table["bias"].to_numpy(), table["reward"].to_numpy() > 0
    assert auc(score, positive) == result.quality["bias"].auc
    assert "predictions" not in json.loads(replay_report.as_json([result]))[0]
    assert replay(config, k=0).predictions is None


def test_rows_of_impressions_have_their_position_and_their_late_reward(tmp_path: Path) -> None:
    shown = Impression(request_id="r1", user="ann", items=("tea", "cup", "pot"), timestamp=10.0)
    click = Interaction(id="c1", request_id="r1", user="ann", item="cup", timestamp=12.0)
    loose = Interaction(id="c2", user="bob", item="jug", timestamp=11.0)
    # After the window, within the lateness: it corrects the row.
    late = Interaction(id="c3", request_id="r1", user="ann", item="pot", timestamp=150.0)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(map(encode, (shown, loose, click, late))))
    stream = {"url": f"file:{path}", "window": 100.0, "lateness": 100.0, "batch_rows": 1}
    result = replay(parse({"stream": stream, "ranker": {"bias": {}}}), k=0, keep_rows=True)
    assert result.predictions is not None
    rows = result.predictions.table().to_pylist()
    assert [(row["user"], row["item"], row["request_id"], row["position"], row["reward"]) for row in rows] == [
        ("bob", "jug", None, None, 1.0),
        ("ann", "tea", "r1", 0, 0.0),
        ("ann", "cup", "r1", 1, 1.0),
        ("ann", "pot", "r1", 2, 1.0),
    ]
    assert [row["timestamp"] for row in rows] == [11.0, 10.0, 10.0, 10.0]
    assert [row["bias"] for row in rows][1:] == [pytest.approx(0.5)] * 3, "predicted when it was shown, before any outcome"


def test_without_a_row_the_table_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"type": "item", "item": "tea", "timestamp": 1}\n')
    result = replay(parse({"stream": {"url": f"file:{path}"}}), k=0, keep_rows=True)
    assert result.predictions is not None
    assert result.predictions.table().num_rows == 0
