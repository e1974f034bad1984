"""A process of the service that is started again whenever it has ended, as an init system does."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from service.cli import ExitCode
from tests.service.processes import DEADLINE, command, environment

__all__ = ["Supervised"]

PAUSE = 0.1
"""Seconds until it is started again."""


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
    broker_away : callable returning bool
        Whether it may fail to start because somebody disturbs the broker.

    Attributes
    ----------
    url : str or None
        Where it is; None while it is nowhere.
    lives : int
    disturbances : int
        How often something was done to it.
    disturbed : bool
        Whether it still bears the consequences: it was killed and is not back, or stopped.
    problems : list of str
        What it has died of by itself.
    """

    def __init__(self, name: str, role: list[str], config: Path, folder: Path, broker_away: Callable[[], bool]) -> None:
        self.name, self._role, self._config, self._folder = name, role, config, folder
        self._broker_away = broker_away
        self._changing = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = False
        self.url: str | None = None
        self.lives = self.disturbances = 0
        self.disturbed = True
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)
        self._thread.start()

    def send(self, what: signal.Signals) -> None:
        """Disturb it with SIGKILL or SIGSTOP, or let it go on with SIGCONT."""
        with self._changing:
            self.disturbances += 1
            if what is signal.SIGKILL:
                self.url = None
            self.disturbed = what is not signal.SIGCONT or self.url is None
            if self._process is not None:
                self._process.send_signal(what)

    def wait(self) -> str:
        """Wait until it is somewhere; its address."""
        limit = time.monotonic() + DEADLINE
        while (url := self.url) is None:
            assert time.monotonic() < limit, f"{self.name} does not start: {self.problems or self.said()}"
            time.sleep(0.05)
        return url

    def said(self) -> str:
        """What its last life said, the end of it."""
        return self._errors.read_text()[-3000:] if self.lives else ""

    def close(self) -> None:
        """End it in good order, and for good; killed where that takes too long."""
        with self._changing:
            self._closing = True
            process = self._process
            if process is not None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        if process is not None:
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.problems.append(f"{self.name} does not end: {self.said()}")
                process.kill()
        self._thread.join()

    @property
    def _errors(self) -> Path:
        return self._folder / f"{self.name}-{self.lives}.err"

    def _keep(self) -> None:
        while True:
            with self._changing:
                if self._closing:
                    return
                self.lives += 1
                with self._errors.open("wb") as file:
                    self._process = process = subprocess.Popen(
                        command(*self._role, "--config", str(self._config), "--port", "0"), env=environment(), stderr=file
                    )
            while process.poll() is None:
                if self.url is None:
                    self._look()
                time.sleep(0.02)
            with self._changing:
                self.url, self.disturbed = None, True
                if self._closing:
                    return
                if process.returncode != -signal.SIGKILL and not (
                    process.returncode == ExitCode.SYSTEM and self._broker_away()
                ):
                    self.problems.append(f"{self.name} ended with {process.returncode}: {self.said()}")
            time.sleep(PAUSE)

    def _look(self) -> None:
        for line in self._errors.read_text().splitlines():
            if line.startswith(("serving on ", "training on ")) and "," in line:
                with self._changing:
                    # One that was stopped meanwhile goes on to be disturbed until somebody lets it go on.
                    if self._process is not None and self._process.poll() is None:
                        self.url, self.disturbed = line.split(" on ", 1)[1].split(",")[0], False
