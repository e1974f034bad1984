"""A damaged record in the log of a service: named by a replay, skipped by the service. A damaged index: one sentence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from service.cli import ExitCode
from streams.codec import encode
from streams.events import Interaction
from streams.lmdb_log import LmdbLog
from tests.service.processes import DEADLINE, command, environment, serving

LEAF = 2
"""Flag of LMDB's pages that hold records."""

CONFIG = '[stream]\nurl = "lmdb://{folder}"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A service's folder with a log of 30 interactions."""
    log = LmdbLog(tmp_path / "data" / "events")
    events = [Interaction(id=f"event-{n:02}", user=f"u{n % 5}", item=f"i{n % 7}", timestamp=1e9 + n) for n in range(30)]
    log.append([(event.user.encode(), encode(event)) for event in events])
    log.close()
    file = tmp_path / "service.toml"
    file.write_text(CONFIG.format(folder=tmp_path / "data"))
    return file


def damage(config: Path) -> Path:
    file = config.parent / "data" / "events" / "data.mdb"
    data = file.read_bytes()
    assert b"event-17" in data
    file.write_bytes(data.replace(b"event-17", b"event-97"))
    return file


def freshet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=DEADLINE)


def test_a_replay_stops_at_a_damaged_record_and_names_it(config: Path) -> None:
    file = damage(config)
    done = freshet("replay", "--config", str(config), "--top", "0")
    assert done.returncode == ExitCode.SYSTEM
    assert "Traceback" not in done.stderr
    assert "record 17 of partition 0 is damaged (its checksum is wrong)" in done.stderr
    assert str(file) in done.stderr


def test_a_service_skips_a_damaged_record_and_learns_the_others(config: Path, tmp_path: Path) -> None:
    damage(config)
    with serving(config, tmp_path) as service:
        status = httpx.get(f"{service.url}/v1/status").json()
        assert status["lag"] == 0 and status["next"]["0"] >= 30
        metrics = httpx.get(f"{service.url}/metrics").text
        assert 'freshet_dead_total{reason="damaged"} 1.0' in metrics
        assert 'freshet_joiner_total{outcome="interactions"} 29.0' in metrics
        assert service.stop() in (0, -15)


@pytest.mark.parametrize("cut", ["zeros", "empty", "short"])
def test_a_damaged_index_is_one_sentence_and_exit_code_5(config: Path, cut: str) -> None:
    file = config.parent / "data" / "events" / "data.mdb"
    data = file.read_bytes()
    file.write_bytes({"zeros": bytes(8192) + data[8192:], "empty": b"", "short": data[:5000]}[cut])
    for command_ in ("serve", "replay"):
        done = freshet(command_, "--config", str(config), *(["--port", "0"] if command_ == "serve" else []))
        assert done.returncode == ExitCode.SYSTEM
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("system: [Errno 5] the ") and "restore" in done.stderr and str(file) in done.stderr


def test_info_names_a_page_that_ends_the_process_that_reads_it(tmp_path: Path) -> None:
    """LMDB aborts at a page that is no leaf in the place of one."""
    log = LmdbLog(tmp_path / "events")
    log.append([(b"u", encode(Interaction(id=f"event-{n:03}", user="u", item="i", timestamp=1e9 + n))) for n in range(400)])
    log.close()
    file = tmp_path / "events" / "data.mdb"
    data, page = bytearray(file.read_bytes()), 4096
    flags = data.index(b"event-200") // page * page + 10
    assert data[flags] == LEAF, "the page is a leaf"
    data[flags] = 0
    file.write_bytes(data)
    done = freshet("log", "info", str(tmp_path))
    assert done.returncode == ExitCode.SYSTEM, done.stderr
    assert done.stderr.startswith("system: [Errno 5] the file is damaged: reading its pages ends a process by SIGABRT; restore")
    assert done.stderr.count("\n") == 1 and str(file) in done.stderr
