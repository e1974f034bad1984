"""A process that starts while the broker is away waits for it, says so, and starts by itself."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.cli import ExitCode
from tests.broker import Broker
from tests.proxy import Proxy
from tests.service.processes import DEADLINE, command, environment
from tests.worlds import SMALL

Faults = tuple[Broker, Proxy]

CONFIG = """
[stream]
url = "kafka://{servers}/{events}"
broker_wait = {wait}
[weights]
url = "kafka://{servers}/{weights}"
[checkpoint]
folder = "{folder}"
"""


def written(folder: Path, broker: Broker, wait: float) -> Path:
    file = folder / "service.toml"
    topics = {"servers": broker.servers, "events": broker.topic(2), "weights": broker.topic(1)}
    file.write_text(CONFIG.format(wait=wait, folder=folder / "state", **topics) + SMALL)
    return file


@contextmanager
def started(file: Path, port: int, *role: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*role, "--config", str(file), "--port", str(port)), env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.05)


def answer(port: int, path: str) -> httpx.Response | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE)
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("role", [("train",), ("serve",)], ids="".join)
def test_it_waits_for_the_broker_and_is_not_ready(faults: Faults, tmp_path: Path, role: tuple[str, ...]) -> None:
    broker, proxy = faults
    file, port = written(tmp_path, broker, 600.0), free_port()
    proxy.refuse()
    proxy.cut()
    with started(file, port, *role) as process:
        until(lambda: answer(port, "/readyz") is not None)
        for path in ("/readyz", "/v1/status", "/v1/rank"):
            refused = answer(port, path)
            assert refused is not None
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1"), path
            assert "waiting for the broker" in refused.json()["error"]
        alive = answer(port, "/healthz")
        assert alive is not None
        assert alive.json() == {"status": "alive"}
        assert process.poll() is None
        proxy.heal()
        until(lambda: (found := answer(port, "/readyz")) is not None and found.status_code == 200)
        status = answer(port, "/v1/status")
        assert status is not None
        (notice,) = (one for one in status.json()["notices"] if "broker" in one)
        assert notice.startswith("waited ")
        process.terminate()
        _, said = process.communicate(timeout=DEADLINE)
    assert "not ready, waiting up to" in said
    assert "no broker at" in said


def test_the_wait_has_an_end(faults: Faults, tmp_path: Path) -> None:
    broker, proxy = faults
    file = written(tmp_path, broker, 1.0)
    proxy.refuse()
    proxy.cut()
    with started(file, 0, "serve", "--replica") as process:
        _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == ExitCode.SYSTEM
    assert "not ready, waiting up to" in said
    assert "system: " in said
    assert "no broker at" in said


def test_a_signal_ends_the_wait(faults: Faults, tmp_path: Path) -> None:
    broker, proxy = faults
    file, port = written(tmp_path, broker, 600.0), free_port()
    proxy.refuse()
    proxy.cut()
    with started(file, port, "train") as process:
        until(lambda: answer(port, "/readyz") is not None)
        process.terminate()
        assert process.wait(DEADLINE) in (0, -15)
