"""Replay of recorded files: the same state and the same metrics as the single events."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.config import Config, ConfigError, parse
from service.evaluation.progressive import Evaluation
from service.evaluation.recordings import open_stream
from service.evaluation.replay import replay
from service.evaluation.reports import replay_report
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.monitoring.measure import Scored
from service.process.runtime import build_pipeline, joiners
from streams.block import Block
from streams.join import Joiner

SHARED = Path(__file__).parents[3].parent / "shared"


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    """Users of two groups who click items of their own group; 997 rows, so that no batch size divides them."""
    rng = np.random.default_rng(5)
    path = tmp_path / "clicks.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "label", "ts", "ctx", "useg", "icat"])
        for n in range(997):
            user, item = int(rng.integers(0, 30)), int(rng.integers(0, 40))
            label = int(rng.random() < (0.8 if user % 2 == item % 2 else 0.1))
            writer.writerow([user, item, label, 1000.0 + n // 3, rng.integers(0, 3), f"s{user % 2}", f"c{item % 2}"])
    return path


def config_for(path: Path, **stream: Any) -> Config:
    columns = {
        "user": "user",
        "item": "item",
        "value": "label",
        "timestamp": "ts",
        "context": ["ctx"],
        "user_attributes": ["useg"],
        "item_attributes": ["icat"],
    }
    return parse(
        {
            "stream": {"url": f"file:{path}", "kind": "click", "batch_rows": 64, "columns": columns} | stream,
            "features": {
                "user": {"id": "category", "useg": "category"},
                "item": {"id": "category", "icat": "category"},
                "context": {"ctx": "category"},
            },
            "retrievers": {"popularity": {"capacity": 100}, "item_knn": {"capacity": 100, "users": 100}},
            "ranker": {"fm": {"factors": 4, "bits": 12}},
            "users": {"capacity": 100},
            "items": {"capacity": 100},
            "history": {"capacity": 100, "length": 20},
        },
        "clicks",
    )


def one_by_one(config: Config) -> str:
    """Digest of the state after every row went through the joiner as an event."""
    from memory.stateful import digest

    pipeline = build_pipeline(config)
    fold, joiner = Fold(pipeline, FeedbackBuilder(pipeline, config.reward)), joiners(config, 1)()

    def learn(joiner_output: list[Any]) -> None:
        for joined in joiner_output:
            assert fold.joined(joined) is not None

    offset = 0
    for event in open_stream(config).events():
        for single in event.interactions() if isinstance(event, Block) else [event]:
            pipeline.apply(single)
            learn(joiner.push(offset, single.timestamp, single))
            offset += 1
    learn(joiner.finish())
    return digest(pipeline.state_dict())


@pytest.mark.parametrize("batch_rows", [1, 7, 64, 5000])
def test_columns_learn_what_events_do(clicks: Path, batch_rows: int) -> None:
    config = config_for(clicks, batch_rows=batch_rows)
    done = replay(config)
    assert done.rows == 997
    assert done.digest == one_by_one(config)


def test_small_blocks_learn_what_large_ones_do(clicks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(clicks)
    whole = replay(config).digest
    monkeypatch.setattr("streams.recorded.CHUNK", 50)
    columns = config.stream.columns
    assert columns is not None
    # Attributes are read once per block, so they are constant for each id here.
    assert replay(config).digest == whole


def test_the_metrics_are_those_of_a_solvable_world(clicks: Path) -> None:
    done = replay(config_for(clicks, batch_rows=1), k=10, window=200)
    assert done.quality["fm"].auc > 0.75
    assert done.quality["fm"].log_loss < 0.6
    assert done.quality["fm"].auc_curve.row == [*range(200, 998, 40)]
    assert done.quality["fm"].auc_curve.value[-1] > done.quality["fm"].auc_curve.value[0]
    assert set(done.top_n) == {"popularity", "item_knn", "recommend"}
    assert done.top_n["item_knn"].hit_rate > done.top_n["popularity"].hit_rate


def test_hit_rate_and_ndcg_of_a_stream_whose_next_item_is_known(tmp_path: Path) -> None:
    """Everyone clicks a, b, c, d in this order; popularity ranks the items new to the user in the same order."""
    path = tmp_path / "order.csv"
    rows = [(f"u{user}", item, 1, user * 10 + n) for user in range(50) for n, item in enumerate("abcd")]
    path.write_text("user,item,label,ts\n" + "".join(f"{u},{i},{y},{t}\n" for u, i, y, t in rows))
    config = parse(
        {
            "stream": {
                "url": f"file:{path}",
                "kind": "click",
                "batch_rows": 1,
                "columns": {"user": "user", "item": "item", "value": "label", "timestamp": "ts"},
            },
            "retrievers": {"popularity": {"half_life": math.inf}},
            "ranker": {"bias": {}},
        }
    )
    top = replay(config, k=1).top_n["popularity"]
    assert top.tests == 200
    assert top.hit_rate == pytest.approx((200 - 4) / 200), "only the first user's four items were unknown"
    assert top.ndcg == pytest.approx(top.hit_rate), "at k = 1 both count the same"
    second = replay(config, k=4).top_n["popularity"]
    assert second.ndcg == pytest.approx(top.ndcg)


def test_bad_rows_are_counted_and_the_others_learned(clicks: Path) -> None:
    with clicks.open("a") as file:
        file.write("7,3,maybe,2000,1,s1,c1\n,3,1,2001,1,s1,c1\n")
    done = replay(config_for(clicks))
    assert done.rows == 997
    assert sum(done.dead.values()) == 2


def test_a_kind_without_a_reward_is_refused(clicks: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[reward\] 'stars'"):
        replay(config_for(clicks, kind="stars"))


def test_a_report_is_json_and_a_picture(clicks: Path, tmp_path: Path) -> None:
    done = [replay(config_for(clicks)), replay(config_for(clicks, batch_rows=1))]
    data, picture, _ = replay_report.write(done, tmp_path / "report", 10)
    read = json.loads(data.read_text())
    assert [one["rows"] for one in read] == [997, 997]
    assert read[0]["quality"]["fm"]["auc"] == done[0].quality["fm"].auc
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_evaluation_of_nothing_is_empty(make_config: Callable[..., Config], tmp_path: Path) -> None:
    from streams.lmdb_log import LmdbLog

    LmdbLog(tmp_path / "events", max_bytes=1 << 20).close()
    done = replay(make_config(tmp_path))
    assert done.rows == 0
    assert done.quality == {}
    assert "NaN" not in replay_report.as_json([done])


@pytest.mark.skipif(not (SHARED / "data").exists(), reason="the recorded streams are not beside this checkout")
def test_movielens_100k_is_learned_as_well_as_by_the_best_peer() -> None:
    """Strict test-then-train; peers: 0.7658 / 0.5716 (factorization machine), 0.195 / 0.102 (item-kNN)."""
    document = {
        "stream": {"url": f"file:{SHARED / 'data/ml-100k/u.data'}", "batch_rows": 1},
        "features": {
            "user": {"id": "category", "occupation": "category", "age": {"type": "bucket", "width": 10.0}},
            "item": {"id": "category", "genres": {"type": "tags", "max_tags": 6}},
        },
    }
    fm = replay(parse(document | {"retrievers": {}}), k=0)
    assert fm.rows == 100_000
    assert fm.quality["fm"].auc >= 0.766
    assert fm.quality["fm"].log_loss <= 0.571
    knn = replay(parse(document | {"retrievers": {"item_knn": {}}, "ranker": {"bias": {}}}), k=10)
    assert knn.quality["bias"].auc >= 0.755
    assert knn.top_n["item_knn"].tests == 55_375
    assert knn.top_n["item_knn"].hit_rate >= 0.190
    assert knn.top_n["item_knn"].ndcg >= 0.099


def test_room_is_the_number_of_rows_left_in_the_open_batch() -> None:
    assert Joiner(batch_rows=5).room == 5


def test_the_progress_bar_shows_the_quality_of_the_last_rows(make_config: Callable[..., Config]) -> None:
    evaluation = Evaluation(build_pipeline(make_config(rerankers={})), k=0, window=4)
    assert math.isnan(evaluation.recent()["auc"])

    def add(score: list[float], reward: list[float]) -> None:
        said = {"fm": np.array(score, np.float32)}
        evaluation.add(Scored(np.ones(len(score), np.int64), np.array(reward, np.float32), None, said))

    add([0.1, 0.9], [1.0, 0.0])
    assert evaluation.recent()["auc"] == 0.0
    add([0.8, 0.2], [1.0, 0.0])
    add([0.6, 0.4], [5.0, 0.0])
    recent = evaluation.recent()
    assert recent["auc"] == 1.0
    loss = -np.log([0.8, 0.8, 0.6, 0.6])
    assert recent["logloss"] == pytest.approx(np.average(loss, weights=[1, 1, 5, 1])), "a reward of 5 weighs 5"
