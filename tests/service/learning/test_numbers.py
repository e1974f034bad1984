"""Numbers are standardised the same way in live, replay, restart and replica."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from learners.features import hash_ids
from memory.moments import LARGEST
from service.config import Config, parse
from service.evaluation.replay import replay
from service.process.runtime import build_pipeline
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankRequest
from streams.events import Event, Impression, Interaction, ItemUpdate, UserUpdate
from streams.lmdb_log import LmdbLog
from streams.log import MemoryLog
from tests.service.evaluation.test_replay import one_by_one
from tests.service.learning.test_live_equals_replay import fill, fold, trainer
from tests.service.replication.test_replica import World, follow, states
from tests.worlds import busy_world

MakeConfig = Callable[..., Config]

NUMBERS = {
    "user": {"id": "category", "age": "number"},
    "item": {"id": "category", "colour": "category", "price": "number"},
    "context": {"device": "category", "x": "number"},
    "crosses": ["user.age * item.price"],
}


def numbered(seed: int = 1, length: int = 300) -> list[Event]:
    """`busy_world` with ages, prices of very different sizes, and a context of true, 1, 1.0, "1" and other numbers."""
    rng, made = random.Random(seed), list[Event]()
    for event in busy_world(seed, length):
        if isinstance(event, ItemUpdate) and not event.deleted:
            event = msgspec.structs.replace(event, attributes=event.attributes | {"price": rng.lognormvariate(0, 20)})
        elif isinstance(event, UserUpdate):
            event = msgspec.structs.replace(event, attributes=event.attributes | {"age": rng.choice([0.0, -0.0, 30.0, "40"])})
        elif isinstance(event, Impression) or (isinstance(event, Interaction) and event.request_id is None):
            x: Any = rng.choice([True, 1, 1.0, "1", rng.gauss(1e15, 1e14), 3e38, 1e-45])
            event = msgspec.structs.replace(event, context=event.context | {"x": x})
        made.append(event)
    return made


EVENTS = numbered()


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    return make_config(features=NUMBERS)


def put(pipeline: Pipeline, prices: dict[str, Any], ages: dict[str, Any]) -> None:
    for item, price in prices.items():
        pipeline.apply(ItemUpdate(item=item, attributes={"price": price}))
    for user, age in ages.items():
        pipeline.apply(UserUpdate(user=user, attributes={"age": age}))


def test_a_row_holds_standard_deviations_and_the_log_what_was_scored(config: Config) -> None:
    pipeline = build_pipeline(config)
    put(pipeline, {"a": 100.0, "b": 300.0, "c": "1e308", "d": 200.0}, {"ann": 20, "bob": 40})
    pipeline.apply(Impression(request_id="1", user="ann", items=("a",), context={"x": 1e15}))
    pipeline.apply(Interaction(user="ann", item="a", context={"x": 3e15}))
    pipeline.apply(Interaction(user="ann", item="a", request_id="1", context={"x": 9e15}))
    ((_, impression),) = pipeline.rank([RankRequest(user="bob", items=["a", "b", "c", "z"], context={"x": 3e15})])
    assert impression is not None
    featurizer = pipeline.featurizer
    rows = pipeline.rows.unpack(impression.features, 4)
    assert rows is not None
    place = [impression.items.index(item) for item in ("a", "b", "c", "z")]
    values = {name: rows[1][place, column].tolist() for column, name in enumerate(featurizer.names)}
    size = np.sqrt(1.5)
    assert values["item.price"] == pytest.approx([-size, size, 0.0, 0.0])
    assert values["user.age"] == [1.0] * 4
    assert values["context.x"] == pytest.approx([1.0] * 4), "an interaction with a ranking has no context of its own"
    assert values["user.age * item.price"] == pytest.approx([-size, size, 0.0, 0.0])


def test_retrievers_see_standard_deviations_too(config: Config) -> None:
    pipeline = build_pipeline(config)
    put(pipeline, {f"i{n}": 1e38 * n for n in range(3)}, {})
    columns = pipeline.retrievers.named["diag_linucb"]._columns  # type: ignore[attr-defined]
    _, values = columns.items(hash_ids(["i0", "i1", "i2"]))
    assert values[:, -1] == pytest.approx([-np.sqrt(1.5), 0.0, np.sqrt(1.5)])


def test_live_replay_and_restart_agree(config: Config, make_config: MakeConfig, tmp_path: Path) -> None:
    whole = fold(config, fill(MemoryLog(), EVENTS))
    log = MemoryLog()
    live = trainer(config, log, poll=3)
    live.restore()
    for start in range(0, len(EVENTS), 3):
        fill(log, EVENTS[start : start + 3])
        live.drain()
    assert live.digest() == whole.digest()
    life, rng = trainer(config, log, folder=tmp_path / "state"), random.Random(0)
    life.restore()
    while life.turn():
        if rng.random() < 0.1:
            life.save()
            for _ in range(3):
                life.turn()
            life.close()
            life = trainer(config, log, folder=tmp_path / "state")
            life.restore()
    assert life.digest() == whole.digest()
    fill(LmdbLog(tmp_path / "log" / "events", max_bytes=64 << 20), EVENTS).close()
    assert replay(make_config(tmp_path / "log", features=NUMBERS), k=0).digest == whole.digest()
    assert not np.isnan(whole.pipeline.ranker.rows["weights"]).any()  # type: ignore[attr-defined]
    assert all((known > 0).all() for known in whole.pipeline.contexts.known)


def test_a_replica_agrees(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.service.replication.test_replica.EVENTS", EVENTS)
    world = World(config, tmp_path, partitions=1)
    trainer, replica = world.trainer(), world.replica()
    while trainer.turn():
        follow(replica)
    one, other = states(trainer, replica)
    assert one == other
    request = RankRequest(user="u1", items=[f"i{n}" for n in range(10)], context={"x": 1e15}, seed=1)
    ((mine, _),), ((theirs, _),) = trainer.pipeline.rank([request]), replica.pipeline.rank([request])
    assert mine.items == theirs.items


@pytest.mark.parametrize("batch_rows", [1, 7, 64, 5000])
def test_recorded_columns_learn_what_events_do(batch_rows: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    path = tmp_path / "clicks.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "label", "ts", "x", "age", "price"])
        for n in range(997):
            user, item = int(rng.integers(0, 30)), int(rng.integers(0, 40))
            x = "" if n % 9 == 0 else repr(float(np.float32(rng.normal(1e15, 1e14))))
            writer.writerow([user, item, int(rng.random() < 0.3), 1000 + n // 3, x, user * 1e6, item * 1e-40])
    columns = {
        **{name: name for name in ("user", "item")},
        **{"value": "label", "timestamp": "ts", "context": ["x"], "user_attributes": ["age"], "item_attributes": ["price"]},
    }
    numbers = {"user": {"age": "number"}, "item": {"price": "number"}, "context": {"x": "number"}}
    document = {
        "stream": {"url": f"file:{path}", "kind": "click", "batch_rows": batch_rows, "columns": columns},
        "features": {side: {"id": "category"} | named if side != "context" else named for side, named in numbers.items()},
        "ranker": {"fm": {"factors": 4, "bits": 12}},
    }
    done = replay(parse(document), k=0)
    assert done.digest == one_by_one(parse(document))
    assert 0.0 < done.quality["fm"].log_loss < 0.7


def test_contexts_that_python_takes_for_equal_are_encoded_by_their_type(config: Config, make_config: MakeConfig) -> None:
    """The order in which they arrive does not matter."""
    ways: list[Any] = [True, 1, 1.0, "1", -0.0, 0.0]
    features = {"context": {"x": "category"}}
    encoded = {}
    for first in range(len(ways)):
        featurizer = build_pipeline(make_config(features=features)).featurizer
        order = ways[first:] + ways[:first]
        keys, _ = featurizer.encode_context([{"x": way} for way in order])
        for way, key in zip(order, keys[:, 0].tolist(), strict=True):
            encoded.setdefault(f"{type(way).__name__} {way}", set()).add(key)
    assert all(len(keys) == 1 for keys in encoded.values()), "earlier values do not matter"
    assert encoded["int 1"] == encoded["float 1.0"] == encoded["str 1"] != encoded["bool True"]
    numbers = build_pipeline(config).featurizer
    keys, values = numbers.encode_context([{"x": -0.0}, {"x": 0.0}])
    assert keys[0].tobytes() == keys[1].tobytes()
    assert values[0].tobytes() == values[1].tobytes()


def test_live_replay_and_restart_agree_on_true_and_1(make_config: MakeConfig, tmp_path: Path) -> None:
    """A restart in the middle starts with an empty cache."""
    features = {"context": {"x": "category"}, "user": {"id": "category"}, "item": {"id": "category"}}
    rng = random.Random(3)
    events: list[Event] = [
        Interaction(
            user=f"u{rng.randrange(9)}",
            item=f"i{rng.randrange(9)}",
            context={"x": rng.choice([True, 1, 1.0, "1"])},
            timestamp=1e9 + n,
        )
        for n in range(400)
    ]
    config = make_config(features=features)
    log = fill(MemoryLog(), events)
    whole = fold(config, log)
    for life in range(1, 30):
        part = trainer(config, log, folder=tmp_path / "state", poll=life)
        part.restore()
        part.turn()
        part.save()
        part.close()
    last = trainer(config, log, folder=tmp_path / "state")
    last.restore()
    last.drain()
    assert last.digest() == whole.digest()
    fill(LmdbLog(tmp_path / "log" / "events", max_bytes=64 << 20), events).close()
    assert replay(make_config(tmp_path / "log", features=features), k=0).digest == whole.digest()


def test_ages_and_years_do_not_spoil_the_machine(tmp_path: Path) -> None:
    """Clicks depend on the year: with the raw number, fm was worse than chance."""
    rng = np.random.default_rng(0)
    path = tmp_path / "events.jsonl"
    with path.open("w") as file:
        for item in range(50):
            document = {"type": "item", "item": f"i{item}", "attributes": {"year": 1950 + item}, "timestamp": 1.0}
            file.write(json.dumps(document) + "\n")
        for n in range(4000):
            item = int(rng.integers(0, 50))
            value = int(rng.random() < (0.8 if item >= 25 else 0.2))
            event = {
                "type": "interaction",
                "user": "u",
                "item": f"i{item}",
                "kind": "click",
                "value": value,
                "timestamp": 2.0 + n,
            }
            file.write(json.dumps(event) + "\n")
    document = {"stream": {"url": f"file:{path}"}, "features": {"item": {"year": "number"}}, "ranker": {"fm": {}}}
    quality = replay(parse(document), k=0).quality["fm"]
    assert quality.auc > 0.75
    assert quality.log_loss < 0.58
    assert LARGEST < 10
