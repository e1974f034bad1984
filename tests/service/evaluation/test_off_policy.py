"""Evaluation of logs and of files of decisions, end to end."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from learners.features import hash_id
from service.config import ConfigError, parse
from service.evaluation.estimators import NotEvaluable
from service.evaluation.off_policy import evaluate, policy_of_log
from service.evaluation.reports import off_policy_report
from streams.codec import encode
from streams.events import Event, Impression, Interaction, ItemUpdate
from streams.kafka.log import KafkaLog
from streams.lmdb_log import LmdbLog
from streams.recorded import BadRecording
from tests.broker import Broker
from tests.service.conftest import records
from tests.service.evaluation.inputs import OPEN_BANDIT, PAIRS, clicks

START = 1_700_000_000.0


def coin(n: int, *, propensities: bool = True) -> list[Event]:
    """Two items shown at random; one is clicked far more often."""
    rng = np.random.default_rng(7)
    events: list[Event] = [ItemUpdate(item=item, timestamp=START) for item in ("good", "bad")]
    for at in range(n):
        item, other = ("good", "bad") if rng.random() < 0.5 else ("bad", "good")
        now = START + at
        events.append(
            Impression(
                request_id=f"r{at}",
                user=f"u{at % 9}",
                items=(item,),
                propensities=(0.5,) if propensities else (),
                unshown=np.array([hash_id(other)], "<i8").tobytes(),
                timestamp=now,
            )
        )
        if rng.random() < (0.6 if item == "good" else 0.1):
            events.append(Interaction(id=f"c{at}", request_id=f"r{at}", user=f"u{at % 9}", item=item, timestamp=now + 0.1))
    return events


def log_of(folder: Path, events: list[Event]) -> str:
    log = LmdbLog(folder / "events")
    log.append(records(events))
    log.close()
    return f"lmdb://{folder}"


def lines_of(path: Path, events: list[Event]) -> str:
    path.write_bytes(b"".join(encode(event) + b"\n" for event in events))
    return f"file:{path}"


GREEDY: dict[str, Any] = {
    "features": {"item": {"id": "category"}, "user": {}},
    "ranker": {"bias": {}},
    "policy": {"greedy": {}},
}


def test_a_log_and_its_events_in_a_file_give_the_same_result(tmp_path: Path) -> None:
    events = coin(600)
    stream = {"window": 10.0, "batch_rows": 16}
    log = evaluate(parse(GREEDY | {"stream": stream | {"url": log_of(tmp_path / "log", events)}}))
    file = evaluate(parse(GREEDY | {"stream": stream | {"url": lines_of(tmp_path / "e.jsonl", events), "format": "events"}}))
    assert log.request_ids == file.request_ids
    assert np.array_equal(log.decisions.reward, file.decisions.reward)
    assert np.array_equal(log.decisions.target, file.decisions.target)
    assert log.left_out == file.left_out == {"young": 10}
    found = log.result
    assert found.verdict == "better"
    # Greedy soon shows only the good item: its value is 0.6, and that of the log is 0.35.
    assert found.estimates["snips"].low < 0.6 < found.estimates["snips"].high
    assert found.estimates["dr"].low < 0.6 < found.estimates["dr"].high
    assert found.match_rate == pytest.approx(0.5, abs=0.06)
    assert found.largest_weight == 2.0


def test_positions_that_are_not_learned_count_as_not_clicked(tmp_path: Path) -> None:
    """The value of a policy is a mean over all positions that it fills, seen or not."""
    rng, events = np.random.default_rng(3), list[Event]()
    for at in range(200):
        items, now = tuple(rng.permutation(list("abc")).tolist()), START + at
        events.append(Impression(request_id=f"r{at}", user="u", items=items, propensities=(1 / 3, 1 / 2, 1.0), timestamp=now))
        events.append(Interaction(id=f"c{at}", request_id=f"r{at}", user="u", item="a", timestamp=now))
    stream = {"window": 10.0, "format": "events", "url": lines_of(tmp_path / "e.jsonl", events)}
    learned, skipped = (
        evaluate(parse(GREEDY | {"stream": stream | settings})).decisions
        for settings in ({}, {"close_after_click": 1.0, "below_clicks": "skip"})
    )
    assert learned.reward.size == skipped.reward.size == 3 * 190
    assert np.array_equal(learned.reward, skipped.reward)
    assert not np.array_equal(learned.predicted, skipped.predicted), "the ranker has learned from fewer rows"


def test_partitions_give_the_same_decisions_in_another_order(tmp_path: Path) -> None:
    events = coin(300)
    log = LmdbLog(tmp_path / "four" / "events", partitions=4)
    for start in range(0, len(events), 7):
        log.append(records(events[start : start + 7]))
    log.close()
    one, four = (
        evaluate(parse(GREEDY | {"stream": {"url": url, "window": 10.0, "batch_rows": 16}}))
        for url in (log_of(tmp_path / "one", events), f"lmdb://{tmp_path}/four")
    )
    rewards = [dict(zip(told.request_ids, told.decisions.reward.tolist(), strict=True)) for told in (one, four)]
    assert rewards[0] == rewards[1]
    assert one.left_out == four.left_out == {"young": 10}


def test_a_topic_gives_the_same_result_as_a_log_on_disk(broker: Broker, tmp_path: Path) -> None:
    events = coin(200)
    topic = broker.topic()
    log = KafkaLog(broker.servers, topic)
    log.append(records(events))
    log.close()
    stream = {"window": 10.0, "batch_rows": 16}
    disk = evaluate(parse(GREEDY | {"stream": stream | {"url": log_of(tmp_path, events)}}))
    kafka = evaluate(parse(GREEDY | {"stream": stream | {"url": f"kafka://{broker.servers}/{topic}"}}))
    assert kafka.request_ids == disk.request_ids
    assert repr(kafka.result) == repr(disk.result)


def test_scores_do_not_depend_on_later_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same impressions, with reversed clicks in the second half: the values of the first half stay the same.

    The scale of the predictions is measured on the whole log, and left out here.
    """
    monkeypatch.setattr("service.evaluation.off_policy.calibrated", lambda decisions: decisions)
    events = coin(200)
    turned = [
        msgspec.structs.replace(event, item="bad" if event.item == "good" else "good")
        if isinstance(event, Interaction) and event.timestamp > START + 100
        else event
        for event in events
    ]
    stream = {"window": 10.0, "batch_rows": 16, "format": "events"}
    one, other = (
        evaluate(parse(GREEDY | {"stream": stream | {"url": lines_of(tmp_path / name, told)}}))
        for name, told in (("a.jsonl", events), ("b.jsonl", turned))
    )
    assert np.array_equal(one.decisions.target[:100], other.decisions.target[:100])
    assert np.array_equal(one.decisions.predicted[:100], other.decisions.predicted[:100])
    assert not np.array_equal(one.decisions.predicted[100:], other.decisions.predicted[100:])


def test_a_log_without_propensities_is_refused_with_the_reason(tmp_path: Path) -> None:
    url = log_of(tmp_path, coin(50, propensities=False))
    with pytest.raises(NotEvaluable, match=r"propensities: none of its 50 impressions .* replay"):
        evaluate(parse(GREEDY | {"stream": {"url": url, "window": 1.0}}))


def test_a_log_that_is_too_young_or_has_no_impressions_is_refused(tmp_path: Path) -> None:
    url = log_of(tmp_path / "young", coin(5))
    with pytest.raises(NotEvaluable, match="all of its 5 impressions are younger"):
        evaluate(parse(GREEDY | {"stream": {"url": url, "window": 100.0}}))
    url = log_of(tmp_path / "empty", [ItemUpdate(item="a", timestamp=START)])
    with pytest.raises(NotEvaluable, match="no impressions"):
        evaluate(parse(GREEDY | {"stream": {"url": url}}))


def test_impressions_without_propensities_among_others_are_counted(tmp_path: Path) -> None:
    events = coin(60)
    events[2] = msgspec.structs.replace(events[2], propensities=())
    found = evaluate(parse(GREEDY | {"stream": {"url": log_of(tmp_path, events), "window": 10.0}}))
    assert found.left_out == {"no_propensities": 1, "young": 10}


def ds(n: int, **more: Any) -> dict[str, Any]:
    """Two actions that only have features, shown in turn; warm ones are better."""
    rng = np.random.default_rng(n)
    warm = bool(rng.random() < 0.5)
    reward = float(rng.random() < (0.7 if warm else 0.2))
    hues = [{"T": {"hue": "warm"}}, {"T": {"hue": "cold"}}]
    chosen = 1 if warm else 2
    return {
        "_label_cost": -reward,
        "_label_probability": 0.5,
        "_label_Action": chosen,
        "EventId": f"e{n}",
        "a": [chosen, 3 - chosen],
        "p": [0.5, 0.5],
        "c": {"G": {"x": "y"}, "_multi": hues},
        **more,
    }


@pytest.fixture
def dsjson(tmp_path: Path) -> Path:
    path = tmp_path / "log.dsjson"
    path.write_text("".join(json.dumps(ds(n)) + "\n" for n in range(500)))
    return path


HUE = {"features": {"item": {"T.hue": "category"}, "user": {}}, "ranker": {"bias": {}}, "policy": {"greedy": {}}}


def test_a_policy_is_evaluated_on_a_dsjson_log(dsjson: Path) -> None:
    found = evaluate(parse(HUE | {"stream": {"url": f"file:{dsjson}", "batch_rows": 16}}))
    assert found.result.verdict == "better"
    snips = found.result.estimates["snips"]
    assert snips.low < 0.7 < snips.high
    assert (found.result.impressions, found.left_out, found.dead) == (500, {}, {})


def test_a_sampled_decision_counts_more_and_a_repeated_one_once(tmp_path: Path) -> None:
    lines = [ds(n, _label_cost=-1.0 if n < 10 else 0.0, **({"pdrop": 0.5} if n < 10 else {})) for n in range(40)]
    path = tmp_path / "log.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[3], lines[4]]))
    found = evaluate(parse(HUE | {"stream": {"url": f"file:{path}"}}))
    assert found.left_out == {"duplicates": 2}
    assert found.result.impressions == 40
    assert found.result.estimates["logged"].value == pytest.approx(20 / 50)


needs_open_bandit = pytest.mark.skipif(not OPEN_BANDIT.is_dir(), reason=f"no Open Bandit sample in {OPEN_BANDIT}")


@needs_open_bandit
@pytest.mark.parametrize(("logged", "target", "campaign"), PAIRS)
def test_the_true_value_of_a_policy_lies_in_the_intervals_from_the_other_policys_log(
    logged: str, target: str, campaign: str
) -> None:
    url = f"file:{OPEN_BANDIT / logged / campaign / f'{campaign}.csv'}"
    chooser = policy_of_log(OPEN_BANDIT / target / campaign / f"{campaign}.csv")
    config = {"stream": {"url": url}, "features": {"item": {"id": "category"}, "user": {}}, "ranker": {"bias": {}}}
    found = evaluate(parse(config), chooser=chooser).result
    assert found.effective_sample_size > (2000 if logged == "random" else 300)
    truth = clicks(target, campaign)
    for name in ("replay", "ips", "clipped", "snips", "dr"):
        assert found.estimates[name].low < truth < found.estimates[name].high, name
    assert found.difference[1] < truth - clicks(logged, campaign) < found.difference[2]
    # The ranker starts at one half, a hundred times too high, so it is useless at first.
    assert found.estimates["dm"].value == pytest.approx(clicks(logged, campaign), rel=0.25)
    assert math.isnan(found.estimates["dm"].low)
    assert found.estimates["logged"].value == pytest.approx(clicks(logged, campaign))


def test_the_report_is_complete(dsjson: Path, tmp_path: Path) -> None:
    found = evaluate(parse(HUE | {"stream": {"url": f"file:{dsjson}", "batch_rows": 16}}, "hue"))
    written = off_policy_report.write(found, tmp_path / "report")
    assert [path.name for path in written] == ["evaluate.json", "impressions.csv", "evaluate.png", "evaluate.html"]
    told = json.loads(written[0].read_text())
    assert told["estimates"]["snips"]["value"] == found.result.estimates["snips"].value
    assert told["estimates"]["snips"]["bernstein_low"] is None
    assert told["policy"] == "hue" and told["above"] == "policy"
    rows = list(csv.DictReader(written[1].read_text().splitlines()))
    assert [row["request_id"] for row in rows] == found.request_ids
    total = sum(float(row["ips"]) for row in rows) / sum(float(row["positions"]) for row in rows)
    assert total == pytest.approx(found.result.estimates["ips"].value)
    assert written[2].read_bytes().startswith(b"\x89PNG")


def test_files_that_are_no_log_of_decisions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an evaluation needs"):
        evaluate(parse(HUE | {"stream": {"url": "memory://"}}))
    for name, problem in (("gone.csv", "no such file"), ("x.dat", "format")):
        with pytest.raises(BadRecording, match=problem):
            evaluate(parse(HUE | {"stream": {"url": f"file:{tmp_path}/{name}"}}))
