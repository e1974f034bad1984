"""A trainer restarted with another config: its replicas say so, and are not ready until it has their config again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec

from tests.service.processes import DEADLINE, JSON, serving
from tests.worlds import SMALL, two_tribes

CONFIG = """
[stream]
url = "lmdb://{folder}"
batch_rows = 16
window = 2.0
[weights]
url = "lmdb://{folder}"
every = 0.02
[checkpoint]
every = 0.2
[seen]
per_user = {per_user}
"""


def until(what: str, true: Callable[[], bool]) -> None:
    limit = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def test_replicas_are_not_ready_while_the_trainer_has_another_config(tmp_path: Path) -> None:
    files = []
    for name, per_user in (("a", 100), ("b", 200)):
        files.append(tmp_path / f"{name}.toml")
        files[-1].write_text(CONFIG.format(folder=tmp_path / "log", per_user=per_user) + SMALL)
    a, b = files
    with (
        serving(a, tmp_path, "train") as trainer,
        serving(a, tmp_path, "serve", "--replica") as replica,
        httpx.Client(base_url=replica.url, timeout=DEADLINE, headers=JSON) as client,
    ):
        client.post("/v1/events", content=msgspec.json.encode(list(two_tribes(0, 50)))).raise_for_status()
        until("it learns", lambda: client.get("/v1/status").json()["version"] > 3)
        trainer.stop()
        with serving(b, tmp_path, "train") as other:
            until("it is not ready", lambda: client.get("/readyz").status_code == 503)
            assert "the trainer has another config or version" in client.get("/readyz").json()["error"]
            status = client.get("/v1/status").json()
            assert status["follows"] is False
            notice = status["notices"][-1]
            assert notice.startswith("the trainer runs another config or version (fingerprint ")
            assert notice.endswith("restart this replica with the trainer's config")
            assert status["fingerprint"] in notice
            assert 'freshet_failures_total{what="other_config"} 1.0' in client.get("/metrics").text
            ranked = client.post("/v1/rank", json={"user": "u1", "items": ["i8", "i1"], "log": False})
            assert ranked.status_code == 200, "a load balancer decides, and some rankings are better than none"
            other.stop()
        with serving(a, tmp_path, "train"):
            until("it is ready again", lambda: client.get("/readyz").status_code == 200)
            before = client.get("/v1/status").json()["version"]
            client.post("/v1/events", content=msgspec.json.encode(list(two_tribes(1, 50)))).raise_for_status()
            until("it follows again", lambda: client.get("/v1/status").json()["version"] > before)
