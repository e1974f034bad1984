"""Replay measures the scores at serving time, not later ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from service.config import Config, parse
from service.evaluation.recordings import open_stream
from service.evaluation.replay import replay
from service.learning.feedback import FeedbackBuilder
from service.process.runtime import build_pipeline, joiners
from service.ranking.requests import RankRequest
from streams.codec import encode
from streams.events import Impression
from tests.service.on_topic import running, until
from tests.worlds import busy_world, two_tribes

MIND = Path(__file__).parents[4] / "shared" / "data" / "mind-cut" / "events.jsonl"


def served(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores and labels of the shown rows of a file of events: what the pipeline answers when asked to rank them.

    The service is asked for each impression in the state before its micro-batch, as a visitor would ask it.
    """
    pipeline, joiner = build_pipeline(config), joiners(config, 1)()
    builder = FeedbackBuilder(pipeline, config.reward)
    score: dict[tuple[str, str], list[float]] = {}
    label: dict[tuple[str, str], float] = {}

    def fold(batches: list[Any]) -> None:
        for joined in batches:
            for one in joined.shown:
                shown = one.impression
                request = RankRequest(user=shown.user, items=list(shown.items), context=shown.context, explain=True)
                response, _ = pipeline.rank([request])[0]
                for place in response.items:
                    assert place.reasons is not None
                    score[shown.request_id, place.item] = [place.score, place.reasons.base]
                    label.setdefault((shown.request_id, place.item), 0.0)
            builder.add_snapshots(joined.shown)
            if joined.rows:
                feedback = builder.from_rows(joined.rows)
                pipeline.prepare(feedback)
                pipeline.learn(feedback)
                for row in joined.rows:
                    if row.shown is not None and row.kind:
                        label[row.shown.impression.request_id, row.item] = 1.0

    for at, event in enumerate(open_stream(config).events()):
        pipeline.apply(event)
        fold(joiner.push(at, 0.0, event))
    fold(joiner.finish())
    scores, labels = np.array([score[key] for key in score], np.float32), np.array([label[key] for key in score])
    return {name: (scores[:, n], labels) for n, name in enumerate((pipeline.last_name, pipeline.ranker_name))}


def brute_auc(score: np.ndarray, label: np.ndarray) -> float:
    values, at = np.unique(score, return_inverse=True)
    up, down = np.bincount(at, label, values.size), np.bincount(at, 1 - label, values.size)
    below = np.cumsum(down) - down
    return float((up * (below + down / 2)).sum() / up.sum() / down.sum())


def brute_loss(score: np.ndarray, label: np.ndarray) -> float:
    p = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(label > 0, np.log(p), np.log1p(-p)).mean())


def learners(name: str) -> dict[str, Any]:
    rerankers = {"reloop2": {"capacity": 500}} if name == "reloop2" else {}
    return {"ranker": {"bias" if name == "bias" else "fm": {}}, "rerankers": rerankers}


def check(file: Path, name: str, window: float, batch_rows: int) -> None:
    stream = {"url": f"file:{file}", "format": "events", "window": window, "batch_rows": batch_rows}
    config = parse({"stream": stream, "features": {"user": {"id": "category"}, "item": {"id": "category"}}} | learners(name))
    done = replay(config, k=0)
    for learner, (score, label) in served(config).items():
        found = done.quality[learner]
        assert found.rows == label.size
        assert found.auc == pytest.approx(brute_auc(score, label), abs=1e-9)
        assert found.log_loss == pytest.approx(brute_loss(score, label), abs=1e-6)


@pytest.mark.parametrize("batch_rows", [1, 64])
@pytest.mark.parametrize("window", [10.0, 600.0])
@pytest.mark.parametrize("name", ["bias", "fm", "reloop2"])
def test_metrics_are_those_of_the_scores_at_serving(name: str, window: float, batch_rows: int, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(map(encode, two_tribes(3, 250))))
    check(file, name, window, batch_rows)


@pytest.mark.skipif(not MIND.exists(), reason="the recorded news impressions are not here")
@pytest.mark.parametrize(("name", "window", "batch_rows"), [("bias", 600.0, 64), ("fm", 10.0, 64), ("reloop2", 600.0, 1)])
def test_metrics_on_recorded_impressions(name: str, window: float, batch_rows: int, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(MIND.read_text().splitlines()[:700]))
    check(file, name, window, batch_rows)


@pytest.mark.anyio
@pytest.mark.parametrize("rerankers", [{}, {"reloop2": {"capacity": 100}}])
async def test_the_live_monitor_and_replay_agree_with_what_was_served(
    make_config: Callable[..., Config], tmp_path: Path, rerankers: dict[str, Any]
) -> None:
    """Through HTTP, while it learns between ranking and clicks."""
    stream = {"window": 0.2, "lateness": 60.0}
    config = make_config(tmp_path, rerankers=rerankers, reward={"click": 1.0}, stream=stream, server={"flush": 0.001})
    rng, score, label = random.Random(0), list[float](), list[float]()
    async with running(config) as (runtime, client):
        await client.post("/v1/events", json=[msgspec.to_builtins(event) for event in two_tribes(0, 0)])
        for n in range(60):
            request = {"user": f"u{n % 20}", "items": [f"i{i}" for i in rng.sample(range(10), 5)]}
            told = (await client.post("/v1/rank", json=request)).json()
            clicked = {place["item"] for place in told["items"] if rng.random() < 0.3}
            score += [place["score"] for place in told["items"]]
            label += [float(place["item"] in clicked) for place in told["items"]]
            click = {"type": "interaction", "request_id": told["request_id"], "user": request["user"]}
            await client.post("/v1/events", json=[click | {"id": f"{n} {item}", "item": item} for item in clicked])
        last = runtime.pipeline.last_name
        await until(lambda: runtime.monitor.events >= 60 * 5)
        live = runtime.monitor.quality.snapshot({last: runtime.pipeline.ranker_name} if rerankers else {})
    done = replay(config, k=0)
    served = brute_auc(np.array(score, np.float32), np.array(label))
    assert done.quality["serving"].rows == len(score) == 300
    assert done.quality["serving"].auc == pytest.approx(served, abs=1e-9)
    assert done.quality["serving"].log_loss == pytest.approx(brute_loss(np.array(score), np.array(label)), abs=1e-6)
    assert done.recomputed == 0, "the key is beside the log"
    assert done.quality[last].auc == pytest.approx(served, abs=1e-9)
    assert live[last]["auc"] == pytest.approx(served, abs=1e-9)
    if rerankers:
        assert live[last]["gain"] == pytest.approx(done.quality[last].gain, abs=1e-9)
        assert done.quality[last].gain != 0


def test_a_row_counts_once_whatever_follows(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    """Late clicks and second clicks revise; clicks without an impression are rows of their own."""
    events = list(busy_world(seed=4, length=200))
    shown = {event.request_id: event for event in events if isinstance(event, Impression)}
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(map(encode, events)))
    done = replay(make_config(f"file:{file}", stream={"format": "events"}, rerankers={}), k=0)
    assert done.quality["fm"].rows == done.rows
    assert done.rows >= sum(len(one.items) for one in shown.values()) * 0.9
