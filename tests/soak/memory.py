"""Resident memory of the service, and what it says that it uses."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.chaos.supervised import Supervised

__all__ = ["BASE", "SLACK", "Memory", "resident"]

BASE = 320 << 20
"""Bytes that a process takes besides what it reports, as docs/limits.md states it."""

SLACK = 1.1
"""Resident memory may be this many times the base and what is reported."""

EVERY = 1.0
"""Seconds between samples."""


def resident(pid: int) -> int:
    """Bytes of a process that are in memory and its own; mapped files are not counted, the system takes them back."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", text)[0]) * 1024


@dataclass
class Memory:
    """Compares resident memory with what is reported, again and again.

    Attributes
    ----------
    empty : int
        Resident bytes of the service when it is ready and has seen nothing.
    most, reported : int
        Resident bytes at the worst moment, and what was reported then.
    worst : float
        Resident memory at that moment, as a share of the base and the reported memory.
    samples : int
    """

    empty: int = 0
    most: int = 0
    reported: int = 0
    worst: float = 0.0
    samples: int = 0

    async def watch(self, service: Supervised, done: asyncio.Event) -> None:
        """Take samples until `done`."""
        async with httpx.AsyncClient(timeout=30) as client:
            while not done.is_set():
                await asyncio.sleep(EVERY)
                try:
                    url = service.url
                    answer = None if url is None else await client.get(f"{url}/v1/status")
                    if answer is not None and answer.status_code == 200:
                        self.see(
                            resident(await asyncio.to_thread(lambda: service.pid)), sum(answer.json()["memory_bytes"].values())
                        )
                except (httpx.TransportError, FileNotFoundError, IndexError):
                    continue  # it was killed meanwhile

    def see(self, seen: int, reported: int) -> None:
        """Take a sample."""
        self.samples += 1
        share = seen / (BASE + reported)
        if share > self.worst:
            self.worst, self.most, self.reported = share, seen, reported
