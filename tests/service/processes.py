"""The service as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.kafka_options import OPTIONS

ROOT = Path(__file__).parents[2]
JSON = {"Content-Type": "application/json"}
"""Of a post whose body is bytes."""

DEADLINE = 120.0
"""Seconds until a process that says nothing is taken for stuck; the first start compiles."""


def command(*arguments: str) -> list[str]:
    options = "import tests.kafka_options; " if OPTIONS else ""
    return [sys.executable, "-c", f"{options}from service.cli import main; main()", *arguments]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "COLUMNS": "200"}


class Process:
    """A running service: its address, and how it ends."""

    def __init__(self, config: Path, port: int, errors: Path, *role: str) -> None:
        self.errors = errors
        with errors.open("wb") as file:
            self.process = subprocess.Popen(
                command(*role, "--config", str(config), "--port", str(port)), env=environment(), stderr=file
            )
        self.url = self._address()
        self._until_ready()

    def said(self) -> str:
        return self.errors.read_text()

    def stop(self) -> int:
        """End it with SIGTERM; its exit status."""
        self.process.terminate()
        return self.process.wait(DEADLINE)

    def _address(self) -> str:
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until and self.process.poll() is None:
            for line in self.said().splitlines():
                if line.startswith(("serving on ", "training on ")) and "," in line:
                    return line.split(" on ", 1)[1].split(",")[0]
            time.sleep(0.05)
        raise AssertionError(f"the service did not start:\n{self.said()}")

    def _until_ready(self) -> None:
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            if httpx.get(f"{self.url}/readyz").status_code == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"the service is not ready:\n{self.said()}")


@contextmanager
def serving(config: Path, folder: Path, *role: str, port: int = 0) -> Iterator[Process]:
    """Run ``freshet serve``, or another `role`, for as long as the block lasts; killed at its end if it still lives."""
    running = Process(config, port, folder / f"{config.stem}-{time.monotonic_ns()}.err", *(role or ("serve",)))
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def settle(client: httpx.Client) -> dict[str, object]:
    """Wait until everything in the log has been learned and all windows have ended; then the status with its digest.

    A window that is still open makes the service append a tick later, after which the state is another one.
    """
    until = time.monotonic() + DEADLINE
    before = None
    while time.monotonic() < until:
        status = client.get("/v1/status?digest=1").json()
        now = status["next"], status["digest"]
        at_rest = status["lag"] == 0 and status["pending"] is False and status["open_impressions"] == 0
        if at_rest and now == before:
            return status
        before = now
        time.sleep(0.1)
    raise AssertionError(f"the service never came to rest: {before}")
