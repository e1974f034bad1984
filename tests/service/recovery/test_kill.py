"""The service killed with SIGKILL in the middle of its stream, again and again."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import httpx
import msgspec

from service import config as configs
from service.evaluation.replay import replay
from streams.codec import decode
from streams.events import Event, Interaction
from streams.lmdb_log import LmdbLog
from tests.service.processes import DEADLINE, JSON, serving, settle
from tests.worlds import SMALL, busy_world

CONFIG = """
[stream]
url = "lmdb://{folder}"
window = 2.0
lateness = 20.0
batch_rows = 16
[rerankers.reloop2]
capacity = 300
weight = "learned"
[retrievers.item_knn]
capacity = 100
users = 100
[retrievers.diag_linucb]
clusters = 3
width = 8
items = 100
first = 100
epoch = 300
refresh = 70
sample = 64
dim = 4
bits = 8
[checkpoint]
every = 0.05
"""


KILLS = int(os.environ.get("FRESHET_KILLS", "3"))


def test_kill_9_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """A client resends everything that was not acknowledged, while the service is killed again and again."""
    config = tmp_path / "service.toml"
    config.write_text(CONFIG.format(folder=tmp_path / "data") + SMALL)
    rng = random.Random(KILLS)
    events = [event for event in busy_world(seed=3, length=400) if not isinstance(event, Interaction) or event.id]
    bodies = [msgspec.json.encode(events[start : start + 20]) for start in range(0, len(events), 20)]
    fatal = sorted(rng.sample(range(1, len(bodies) - 10), KILLS))
    sent = kills = 0
    while sent < len(bodies):
        with serving(config, tmp_path) as process, httpx.Client(base_url=process.url, timeout=DEADLINE) as client:
            began_at, doomed = client.get("/v1/status").json()["version"], False
            try:
                while sent < len(bodies):
                    if fatal and sent >= fatal[0] and not doomed:
                        doomed = True
                        del fatal[0]
                        threading.Timer(rng.uniform(0.0, 0.02), process.process.kill).start()
                    client.post("/v1/events", content=bodies[sent], headers=JSON).raise_for_status()
                    sent += 1
                    time.sleep(0.02)
                status = settle(client)
            except httpx.TransportError:
                assert process.process.wait(DEADLINE) == -signal.SIGKILL
                kills += 1
    assert kills == KILLS
    assert began_at > 0, "the last process continued from a checkpoint"

    log = LmdbLog(tmp_path / "data" / "events", readonly=True)
    kept: list[Event] = [decode(record.value) for record in log.read(log.begin(), 1_000_000)]
    log.close()
    assert {e.id for e in kept if isinstance(e, Interaction)} == {e.id for e in events if isinstance(e, Interaction)}
    assert replay(configs.load(config)).digest == status["digest"]
