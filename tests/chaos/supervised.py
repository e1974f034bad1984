"""A process of the service that is started again whenever it has ended, as an init system does."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.cli import ExitCode
from tests.service.processes import DEADLINE, command, environment

__all__ = ["Supervised"]

PAUSE = 0.1
"""Seconds until it is started again."""

PATIENCE = 300.0
"""Seconds until a process that is not ready is taken for stuck, on a busy machine, and with a broker that comes and goes."""


class Supervised:
    """Keeps a process running.

    Parameters
    ----------
    name : str
    role : sequence of str
        Arguments before the config: ``train``, or ``serve --replica``.
    config : Path
    folder : Path
        Where its output goes, a file a life.
    trouble : callable returning int
        How often something began or ended that was done to the broker, so that it is odd meanwhile. A process may fail to
        start because of it.
    port : int
        Where it listens in all its lives; 0: somewhere else in each.
    program : sequence of str
        What is started, before the arguments; the service itself unless given.

    Attributes
    ----------
    url : str or None
        Where it is; None while it is nowhere.
    lives, kills, stops, gave_up : int
        How often it was started, was killed, was stopped, and did not find its broker.
    reasons : list of str
        Why it gave up.
    problems : list of str
        What it has died of by itself.
    """

    def __init__(
        self,
        name: str,
        role: list[str],
        config: Path,
        folder: Path,
        trouble: Callable[[], int],
        port: int = 0,
        program: Sequence[str] = (),
    ) -> None:
        self._program = list(program) or command()
        self.name, self._role, self._config, self._folder, self._trouble = name, role, config, folder, trouble
        self._port = port
        self._changing = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = False
        self._doomed: tuple[int, ...] = ()  # the statuses that it is made to end with
        self.url: str | None = None
        self.lives = self.kills = self.stops = self.gave_up = 0
        self.reasons: list[str] = []
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """Kill it with SIGKILL, as soon as it lives."""
        with self._alive() as process:
            # In this order: who has seen the address and gets no answer finds that it was killed meanwhile.
            self.url, self._doomed = None, (-signal.SIGKILL,)
            self.kills += 1
            process.kill()

    def terminate(self) -> None:
        """End it in good order, as soon as it lives; it is started again. Return when it has ended."""
        with self._alive() as process:
            self.url, self._doomed = None, (0, -signal.SIGTERM)
            process.terminate()
            process.wait(DEADLINE)

    @property
    def pid(self) -> int:
        """Its process id, as soon as it lives."""
        with self._alive() as process:
            return process.pid

    def stop(self, seconds: float) -> None:
        """Take its processor away for so long."""
        with self._alive() as process:
            self.stops += 1
            process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    def wait(self) -> str:
        """Wait until it is ready; its address."""
        limit = time.monotonic() + PATIENCE
        while True:
            url = self.url
            if url is not None and self._is_ready(url):
                return url
            assert time.monotonic() < limit, f"{self.name} does not get ready: {self.problems or self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        """What its last life said, the end of it."""
        return self._errors.read_text()[-3000:] if self.lives else ""

    def close(self) -> None:
        """End it in good order, and for good; killed where that takes too long."""
        with self._changing:
            self._closing = True
            process = self._process
            if process is not None:
                process.terminate()
        if process is not None:
            try:
                if process.wait(DEADLINE) not in (0, -signal.SIGTERM, -signal.SIGABRT):
                    self.problems.append(f"{self.name} ended with {process.returncode} at SIGTERM: {self.said()}")
            except subprocess.TimeoutExpired:
                self.problems.append(f"{self.name} does not end: {self.said()}")
                process.kill()
        self._thread.join()

    def abort(self) -> None:
        """End it so that it writes down first where each of its threads is."""
        with self._changing:
            self._closing = True
            if self._process is not None:
                self._process.send_signal(signal.SIGABRT)

    @property
    def _errors(self) -> Path:
        return self._folder / f"{self.name}-{self.lives}.err"

    @contextmanager
    def _alive(self) -> Iterator[subprocess.Popen[bytes]]:
        """Have the process, once it lives, to oneself."""
        while True:
            with self._changing:
                if self._process is not None and self._process.poll() is None:
                    yield self._process
                    return
            time.sleep(0.01)

    def _is_ready(self, url: str) -> bool:
        try:
            return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _keep(self) -> None:
        while True:
            with self._changing:
                if self._closing:
                    return
                self.lives += 1
                self._doomed, trouble = (), self._trouble()
                with self._errors.open("wb") as file:
                    self._process = process = subprocess.Popen(
                        [*self._program, *self._role, "--config", str(self._config), "--port", str(self._port)],
                        env=environment() | {"PYTHONFAULTHANDLER": "1"},
                        stderr=file,
                    )
            while process.poll() is None:
                if self.url is None:
                    self._look()
                time.sleep(0.02)
            with self._changing:
                self.url = None
                if self._closing:
                    return
                now = self._trouble()
                if process.returncode == ExitCode.SYSTEM and (now % 2 or now != trouble):
                    self.gave_up += 1
                    self.reasons.append(f"{self.name}: {self.said()[-300:]}")
                elif process.returncode not in self._doomed:
                    self.problems.append(f"{self.name} ended with {process.returncode}: {self.said()}")
            time.sleep(PAUSE)

    def _look(self) -> None:
        for line in self._errors.read_text().splitlines():
            if line.startswith(("serving on ", "training on ")) and "," in line:
                with self._changing:
                    if not self._doomed:
                        self.url = line.split(" on ", 1)[1].split(",")[0]
