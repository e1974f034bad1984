"""`freshet train` with two `freshet serve --replica`: events sent to one show in the rankings of the other."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service import config as configs
from service.evaluation.replay import replay
from service.process.runtime import LEDGER
from tests.broker import Broker
from tests.service.processes import DEADLINE, Process, serving, settle
from tests.worlds import SMALL, START, two_tribes

CONFIG = """
[stream]
url = "{events}"
window = 2.0
lateness = 20.0
batch_rows = 16
[stream.options]
{options}
[weights]
url = "{weights}"
every = 0.02
[weights.options]
{weights_options}
[rerankers.reloop2]
capacity = 300
lists = 4
neighbours = 10
[checkpoint]
folder = "{folder}"
every = 0.2
"""


@pytest.fixture(params=["lmdb", "kafka"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "lmdb":
        logs = {
            "events": f"lmdb://{tmp_path}",
            "weights": f"lmdb://{tmp_path}",
            "options": "partitions = 4",
            "weights_options": "",
        }
    else:
        broker: Broker = request.getfixturevalue("broker")
        quick = "fetch_max_wait_ms = 10"
        logs = {
            "events": f"kafka://{broker.servers}/{broker.topic(4)}",
            "weights": f"kafka://{broker.servers}/{broker.topic(1)}",
            "options": quick,
            "weights_options": quick,
        }
    file = tmp_path / "service.toml"
    file.write_text(CONFIG.format(folder=tmp_path / "state", **logs) + SMALL)
    return file


def client(process: Process) -> httpx.Client:
    return httpx.Client(base_url=process.url, timeout=DEADLINE, headers={"Content-Type": "application/json"})


def until(what: str, true: Any) -> Any:
    limit = time.monotonic() + DEADLINE
    while not (found := true()):
        assert time.monotonic() < limit, what
        time.sleep(0.02)
    return found


def test_events_sent_to_one_replica_show_in_the_other(config: Path, tmp_path: Path) -> None:
    events = list(two_tribes(0, 150))
    ask = {"user": "u1", "items": ["i8", "i1"], "log": False}
    with (
        serving(config, tmp_path, "train") as trainer,
        serving(config, tmp_path, "serve", "--replica") as one,
        serving(config, tmp_path, "serve", "--replica") as other,
        client(trainer) as train,
        client(one) as a,
        client(other) as b,
    ):
        unlearned = b.post("/v1/rank", json=ask).json()
        assert unlearned["version"] == 0
        for start in range(0, len(events), 50):
            a.post("/v1/events", content=msgspec.json.encode(events[start : start + 50])).raise_for_status()
        learned = until(
            "the other replica ranks by what was learned",
            lambda: (
                (found := b.post("/v1/rank", json=ask).json())["items"][0]["item"] == "i1" and found["version"] > 20 and found
            ),
        )
        assert 0 <= learned["lag"] < DEADLINE
        item = {"attributes": {"colour": "red"}, "timestamp": START}
        assert b.put("/v1/items/new", json=item).json() == {"visible": True}
        until("the item is at the first replica too", lambda: a.get("/v1/items/new").status_code == 200)

        status = settle(train)
        assert status["role"] == "trainer"
        for replica in (a, b):
            until("it has come as far", lambda replica=replica: replica.get("/v1/status").json()["next"] == status["next"])
            followed = replica.get("/v1/status?digest=1").json()
            assert followed["role"] == "replica"
            assert "digest" not in followed, "it does not have the private part of the state"
            assert (followed["shared_digest"], followed["version"], followed["epoch"], followed["loads"]) == (
                status["shared_digest"],
                status["version"],
                status["epoch"],
                1,
            )
            assert f"freshet_version {float(status['version'])}" in replica.get("/metrics").text
        assert train.post("/v1/rank", json=ask).status_code == 404
        assert train.get("/readyz").status_code == 200
        assert {process.stop() for process in (trainer, one, other)} <= {0, -signal.SIGTERM}
    settings = configs.load(config)
    assert settings.checkpoints is not None
    assert replay(settings, ledger=settings.checkpoints / LEDGER).digest == status["digest"]


def test_a_replica_goes_on_without_its_trainer_and_a_new_one_is_followed(config: Path, tmp_path: Path) -> None:
    events = list(two_tribes(0, 100))
    ask = {"user": "u1", "items": ["i8", "i1"], "log": False}
    with (
        serving(config, tmp_path, "train") as trainer,
        serving(config, tmp_path, "serve", "--replica") as one,
        client(one) as a,
    ):
        a.post("/v1/events", content=msgspec.json.encode(events[:150])).raise_for_status()
        until("it learns", lambda: a.post("/v1/rank", json=ask).json()["version"] > 5)
        trainer.process.kill()
        trainer.process.wait()
        version = a.post("/v1/rank", json=ask).json()["version"]
        a.post("/v1/events", content=msgspec.json.encode(events[150:])).raise_for_status()
        until("its lag says so", lambda: a.post("/v1/rank", json=ask).json()["lag"] > 1.5)
        with serving(config, tmp_path, "train") as again, client(again) as train:
            status = settle(train)
            found = until("it follows", lambda: (s := a.get("/v1/status?digest=1").json())["next"] == status["next"] and s)
            assert (found["shared_digest"], found["loads"]) == (status["shared_digest"], 1)
            assert found["version"] > version
            assert a.post("/v1/rank", json=ask).json()["lag"] < 1.5
