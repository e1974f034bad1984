"""Rankings asked of a replica all the time: no version goes back, and who does not answer says when to come again."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import httpx

from tests.chaos.supervised import Supervised

__all__ = ["Versions", "watch"]

PAUSE = 0.1
"""Seconds between requests."""

PATIENCE = 60.0
"""Seconds that a process may take for an answer which nobody kills: longer than it is ever stopped."""

ASKED = {"user": "u1", "items": ["i1", "i8"], "log": False}
TO_BE_LOGGED = {"user": "u2", "items": ["i2", "i3", "i9"]}


class Versions:
    """Answers of one replica, in the order in which they came.

    Attributes
    ----------
    answered, refused, unreachable : int
    versions : int
        How many there were.
    last : int
        The newest; -1 before the first.
    problems : list of str
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.answered = self.refused = self.unreachable = self.versions = 0
        self.last = -1
        self.problems: list[str] = []

    def see(self, status: int, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        """Take down an answer."""
        if status == 200:
            self.answered += 1
            version = body["version"]
            if version < self.last:
                self.problems.append(f"{self.name}: version {version} came after {self.last}")
            self.versions += version > self.last
            self.last = max(self.last, version)
        elif status == 503 and "Retry-After" in headers:
            self.refused += 1
        else:
            self.problems.append(f"{self.name}: a ranking was answered with {status}: {body}")

    def fail(self, error: Exception, *, killed: bool) -> None:
        """Take down that there was no answer."""
        self.unreachable += 1
        if not killed:
            self.problems.append(f"{self.name}: no answer though nobody killed it: {error!r}")


def watch(replica: Supervised, versions: Versions, done: threading.Event) -> None:
    """Ask until `done`; every tenth ranking goes to the log."""
    number = 0
    with httpx.Client(timeout=PATIENCE) as client:
        while not done.wait(PAUSE):
            kills = replica.kills
            address = replica.url
            if address is None:
                continue
            number += 1
            try:
                answer = client.post(f"{address}/v1/rank", json=ASKED if number % 10 else TO_BE_LOGGED)
            except httpx.TransportError as error:
                versions.fail(error, killed=replica.kills != kills)
            else:
                versions.see(answer.status_code, answer.headers, answer.json())
