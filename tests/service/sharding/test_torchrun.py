"""Real processes, started by torchrun: one is killed, and the state is that of an uninterrupted run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from memory import checkpoint as checkpoints
from memory.stateful import digest
from service import config as configs
from service.process.runtime import LEDGER
from service.recovery.ledger import Ledger
from service.recovery.snapshots import split_snapshots
from service.sharding.keeping import recorded_rounds
from service.sharding.opening import open_sharded
from streams.lmdb_log import LmdbLog
from tests.service.conftest import records
from tests.service.processes import DEADLINE, environment, settle
from tests.sharded import Together, trainer
from tests.worlds import busy_world

CONFIG = """
[stream]
url = "lmdb://{folder}"
window = 2.0
lateness = 20.0
batch_rows = 16
[stream.options]
partitions = 3
[features.user]
id = "category"
[features.item]
id = "category"
[retrievers.popularity]
capacity = 100
[ranker.bias]
users = 100
items = 100
[users]
capacity = 100
[items]
capacity = 100
[history]
capacity = 100
[checkpoint]
every = 0.05
"""


@contextmanager
def together(config: Path, ranks: int, errors: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run ``torchrun -m service train``; yields the launcher, and the address of process 0."""
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        rendezvous, port = one.getsockname()[1], other.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--max-restarts=3"]
    command = [*launcher, f"--master-port={rendezvous}", "-m", "service", "train", f"--config={config}", f"--port={port}"]
    with errors.open("wb") as file:
        process = subprocess.Popen(command, env=environment() | {"OMP_NUM_THREADS": "1"}, stderr=file, stdout=file)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(DEADLINE)


def wait_for(what: object, errors: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + DEADLINE
    while not what():  # type: ignore[operator]
        assert time.monotonic() < until and process.poll() is None, errors.read_text()
        time.sleep(0.02)


def test_one_of_two_is_killed_and_all_restart(tmp_path: Path) -> None:
    """The state is that of one process which followed the recorded rounds without interruption."""
    folder, file, errors = tmp_path / "data", tmp_path / "service.toml", tmp_path / "err"
    file.write_text(CONFIG.format(folder=folder))
    config = configs.load(file)
    kept = config.checkpoints
    assert kept is not None
    log = LmdbLog(folder / "events", partitions=3)
    events = list(busy_world(seed=2, length=1500))
    log.append(records(events[:1500]))
    with together(file, 2, errors) as (process, url):
        wait_for(lambda: len(checkpoints.metadata(kept)) >= 1, errors, process)
        log.append(records(events[1500:3000]))
        wait_for(lambda: len(checkpoints.metadata(kept)) >= 2, errors, process)
        victim = int((folder / "rank-1" / "writer.lock").read_text())
        os.kill(victim, signal.SIGKILL)
        log.append(records(events[3000:]))
        wait_for(lambda: (folder / "rank-1" / "writer.lock").read_text() not in ("", str(victim)), errors, process)
        wait_for(lambda: _answers(url), errors, process)
        with httpx.Client(base_url=url, timeout=DEADLINE) as client:
            status = settle(client)
        assert status["ranks"] == 2 and sum(status["next"].values()) == sum(log.end().values())  # type: ignore[attr-defined]
    newest = checkpoints.load(checkpoints.path_of(kept, max(checkpoints.metadata(kept))))
    ledger = LmdbLog(kept / LEDGER, readonly=True)
    alone = trainer(config, log, Together(1).peer(0))
    alone.restore()
    alone.follow([stops for stops, _ in recorded_rounds(Ledger(ledger).runs())])
    alone.drain()
    assert digest(split_snapshots(newest.state)[1]) == alone.digest()
    assert alone.pipeline.version == newest.version > 10
    ledger.close()
    log.close()


def test_more_processes_than_partitions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    file = tmp_path / "service.toml"
    file.write_text(CONFIG.format(folder=tmp_path / "data"))
    with pytest.raises(configs.ConfigError, match=r"3 partitions for 4 processes; start fewer, or .* partitions = 4"):
        open_sharded(configs.load(file))


@pytest.mark.parametrize(
    ("url", "more", "remedy"), [("memory://", "", "give lmdb"), ("kafka://b:1/t", 'group = "g"', "remove the key")]
)
def test_what_cannot_be_shared_is_refused(url: str, more: str, remedy: str, tmp_path: Path) -> None:
    text = (
        CONFIG.replace("lmdb://{folder}", url + f'"\n{more}\n#')
        .replace("{folder}", "")
        .replace("every = 0.05", f'folder = "{tmp_path}"')
    )
    file = tmp_path / "service.toml"
    file.write_text(text)
    with pytest.raises(configs.ConfigError, match=remedy):
        open_sharded(configs.load(file))


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
