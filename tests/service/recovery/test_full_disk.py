"""A service that ends while its disk is full: one sentence, an exit code, and nothing lost."""

from __future__ import annotations

import resource
from pathlib import Path

import httpx

from service.cli import ExitCode
from tests.service.processes import JSON, serving, settle

CONFIG = """
[stream]
url = "lmdb://{folder}"
window = 0.2
[stream.options]
max_bytes = 4194304
[checkpoint]
every = 3600.0
[users]
capacity = 1000
[items]
capacity = 1000
[ranker.fm]
bits = 10
"""

EVENTS = b'[{"type": "item", "item": "kettle"}, {"type": "interaction", "id": "c", "user": "ann", "item": "kettle"}]'

ROOM = 65_536
"""Bytes from which on a file cannot grow: enough for the log's pages, too few for a checkpoint."""


def test_a_service_that_cannot_save_at_its_end_says_so_and_learns_it_again(tmp_path: Path) -> None:
    config, folder = tmp_path / "service.toml", tmp_path / "data"
    config.write_text(CONFIG.format(folder=folder))
    with serving(config, tmp_path) as service, httpx.Client(base_url=service.url) as client:
        assert client.post("/v1/events", content=EVENTS, headers=JSON).status_code == 202
        before = settle(client)
        # A write beyond the limit of a file's size fails as on a full disk, with EFBIG in place of ENOSPC.
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (ROOM, ROOM))
        assert service.stop() == ExitCode.SYSTEM
        last = service.said().splitlines()[-1]
    assert "Traceback" not in service.said(), service.said()
    assert (
        last.startswith("system: ")
        and "File too large" in last
        and "nothing is lost" in last
        and "Make room" in last
        and str(folder) in last
    )
    assert not list((folder / "checkpoints").rglob("*.safetensors*")), "no half of a checkpoint stays"
    with serving(config, tmp_path) as again, httpx.Client(base_url=again.url) as client:
        after = settle(client)
        assert after["digest"] == before["digest"] and again.stop() <= 0
    assert list((folder / "checkpoints").rglob("*.safetensors")), "with room, it is saved at the end"
