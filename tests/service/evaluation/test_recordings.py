"""Recorded files as a config reads them: admission as over HTTP, digits of categories, and labels that are all alike."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from service.config import Config, parse
from service.evaluation.off_policy import evaluate
from service.evaluation.recordings import examine
from service.evaluation.replay import replay
from service.evaluation.reports.replay_report import remarks

SMALL: dict[str, Any] = {
    "ranker": {"fm": {"bits": 10, "factors": 2}},
    "features": {"item": {"id": "category", "cat": "category"}, "context": {"device": "category"}},
}


def config_of(path: Path, **tables: Any) -> Config:
    stream = {"url": f"file:{path}", **tables.pop("stream", {})}
    return parse({**SMALL, "stream": stream, **tables})


def lines(*events: dict[str, Any]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


SHOWN: dict[str, Any] = {"type": "impression", "request_id": "r", "item": None}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "interaction", "kind": "cart"}, "kind", "'cart' is not in [reward]; known are click"),
    ({"type": "interaction", "value": 1e39}, "not_an_event", "value: 1e+39 is beyond"),
    ({"type": "interaction", "context": {"age": 1e39}}, "not_an_event", "context.age"),
    ({"type": "interaction", "timestamp": 4e9}, "future", "in the future"),
    ({"type": "interaction", "user": ""}, "not_an_event", "user"),
    ({"type": "interaction", "user": "u" * 257}, "not_an_event", "at most 256"),
    (
        {"type": "impression", "request_id": "r", "item": None, "items": ["i", "j"], "propensities": [0.5]},
        "not_an_event",
        "1 for 2",
    ),
    (SHOWN | {"items": ["i"], "scores": [1.0, 2.0]}, "not_an_event", "2 for 1"),
    (
        {"type": "impression", "request_id": "r", "item": None, "items": ["i"], "propensities": [2.0]},
        "not_an_event",
        "from 0 to 1",
    ),
    ({"type": "item", "user": None, "attributes": {"price": 1e39}}, "not_an_event", "attributes.price"),
    ({"type": "item", "user": None, "attributes": {"tags": ["a", None]}}, "not_an_event", "attributes"),
]


@pytest.mark.parametrize(("event", "kind", "says"), BAD)
def test_native_events_that_http_would_refuse_are_bad_rows(event: dict[str, Any], kind: str, says: str, tmp_path: Path) -> None:
    event = {"user": "u", "item": "i", "timestamp": 1.7e9} | event
    event = {name: value for name, value in event.items() if value is not None}
    good = {"type": "interaction", "user": "v", "item": "i", "timestamp": 1.7e9}
    (tmp_path / "t.jsonl").write_text(lines(good, event, good))
    config = config_of(tmp_path / "t.jsonl", reward={"click": 1.0})
    report = examine(config)
    assert (report.rows, report.bad) == (2, {kind: 1})
    assert report.examples[kind][0].startswith("t.jsonl row 2: ")
    assert says in report.examples[kind][0]
    done = replay(config, k=0)
    assert (done.rows, done.dead) == (2, {kind: 1})


def test_an_evaluation_admits_the_same(tmp_path: Path) -> None:
    shown = {"type": "impression", "user": "u", "items": ["a", "b"], "timestamp": 1.7e9}
    rows = [shown | {"request_id": str(n), "propensities": [0.5, 0.5], "timestamp": 1.7e9 + n} for n in range(300)]
    rows += [shown | {"request_id": "bad", "propensities": [0.5]}]
    rows += [{"type": "interaction", "user": "u", "item": "a", "kind": "cart", "timestamp": 1.7e9}]
    rows += [{"type": "interaction", "user": "u", "item": "a", "timestamp": 1.7e9 + 9000}]
    (tmp_path / "t.jsonl").write_text(lines(*rows))
    found = evaluate(
        config_of(tmp_path / "t.jsonl", reward={"click": 1.0}, stream={"format": "events", "window": 10.0}), floor=1.0
    )
    assert found.dead == {"not_an_event": 1, "kind": 1}
    assert len(found.request_ids) == 300


TABLE = {"stream": {"columns": {"kind": "kind", "value": "value", "context": ["device"]}}, "reward": {"click": 2.0}}


@pytest.mark.parametrize("in_order", [True, False])
def test_rows_of_a_table_that_http_would_refuse_are_bad_rows(in_order: bool, tmp_path: Path) -> None:
    rows = [
        "u,i,click,1,phone,1700000000",
        "u,i,cart,1,phone,1700000001",
        "u,i,click,2e38,phone,1700000002",
        "u,i,click,1e39,phone,1700000003",
        f"u,i,click,1,phone,{time.time() + 9999:.0f}",
        "u,i,click,1,phone,1700000005",
        "u,i,view,1,phone,1700000006",
    ]
    (tmp_path / "t.csv").write_text("user,item,kind,value,device,timestamp\n" + "\n".join(rows) + "\n")
    tables = TABLE | {"stream": TABLE["stream"] | {"sorted": in_order}}
    report = examine(config_of(tmp_path / "t.csv", **tables))
    assert (report.rows, report.bad) == (2, {"kind": 2, "not_an_event": 1, "bad_value": 1, "future": 1})
    assert report.examples["kind"][0] == "t.csv row 3: kind: 'cart' is not in [reward]; known are click: send one, or add it"
    assert report.examples["not_an_event"][0].startswith("t.csv row 4: value: 2e+38 times 2.0")
    assert report.examples["future"][0].startswith("t.csv row 6: timestamp")
    done = replay(config_of(tmp_path / "t.csv", **tables), k=0)
    assert (done.rows, done.dead) == (2, report.bad)


def test_a_table_without_one_good_row_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item,kind,timestamp\nu,i,view,1700000000\n")
    with pytest.raises(ValueError, match=r"no good row \(row 2: kind: 'view' is not in \[reward\]"):
        examine(config_of(tmp_path / "t.csv", stream={"columns": {"kind": "kind"}}))


def test_digits_of_a_category_make_another_state_exactly_if_they_differ(tmp_path: Path) -> None:
    def digest(one: str, other: str) -> str:
        rows = "".join(f"u,i{n % 2},{1_700_000_000 + n},{(one, other)[n % 2]}\n" for n in range(4))
        (tmp_path / "t.csv").write_text(f"user,item,timestamp,cat\n{rows}")
        columns = {"item_attributes": ["cat"]}
        return replay(config_of(tmp_path / "t.csv", stream={"columns": columns}, reward={"rating": 1.0}), k=0).digest

    pairs = [("2103807459595387724", "2103807459595387725"), ("01234", "1234"), ("1.0", "1"), ("1e5", "100000"), ("NA", "nan")]
    for one, other in pairs:
        assert len({digest(one, one), digest(one, other), digest(other, other)}) == 3


@pytest.mark.parametrize(
    ("ratings", "says"),
    [
        ([1, 2, 3], "none of the 3 rows has a positive reward"),
        ([4, 5, 5], "all of the 3 rows have a positive reward"),
        ([1, 5, 3], None),
    ],
)
def test_labels_that_are_all_alike_are_warned_of(ratings: list[int], says: str | None, tmp_path: Path) -> None:
    rows = "".join(f"u,i{n},{n + 1},{rating}\n" for n, rating in enumerate(ratings))
    (tmp_path / "t.csv").write_text(f"user,item,timestamp,rating\n{rows}")
    config = config_of(tmp_path / "t.csv")
    warnings = examine(config).warnings
    done = replay(config, k=0)
    assert done.warnings == warnings
    assert [warning[: len(says or "")] for warning in warnings] == ([says] if says else [])
    assert sum("positive reward" in line for line in remarks(done)) == len(warnings)
    if says and "none" in says:
        assert "rating from a value of 4 on" in warnings[0]


def test_impressions_are_labels_too(tmp_path: Path) -> None:
    shown = {"type": "impression", "user": "u", "request_id": "r", "items": ["a", "b"], "timestamp": 1.7e9}
    click = {"type": "interaction", "user": "u", "request_id": "r", "item": "a", "timestamp": 1.7e9 + 1}
    (tmp_path / "t.jsonl").write_text(lines(shown, click))
    assert examine(config_of(tmp_path / "t.jsonl")).warnings == []
