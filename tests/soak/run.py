"""One soak: good visitors and hostile clients together, restarts, steps of clocks; then the states are compared."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service import config as configs
from tests.chaos.fold import replayed
from tests.chaos.supervised import Supervised
from tests.service.processes import environment, settle
from tests.soak.config import write
from tests.soak.memory import Memory, resident
from tests.soak.stepped import set_clock
from tests.soak.verdict import Turn, judge, latency
from tests.soak.visitors import Visitors

__all__ = ["Plan", "Report", "run"]

TURNS = 20
"""Turns of the hostile clients."""

CALM = frozenset({0, 1, 5, 9, 14, 18})
"""Turns without them, from the beginning to the end: what latency is compared with."""

KILL, STEP, DAY_AHEAD, TERMINATE = 0.4, 0.6, 0.67, 0.77
"""Shares of the time after which the service is killed, the clock of the visitors is stepped, the clock of the service is
stepped, and the service is terminated."""

AHEAD, LASTS = 250.0, 0.04
"""Seconds by which the clock of the visitors is ahead, less than `max_skew`, and for what share of the time."""

DAY, DAY_LASTS = 86_400.0, 2.0
"""Seconds by which the clock of the service is ahead, and for how many seconds."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, and how many visitors and hostile requests a second."""

    minutes: float
    seed: int
    visitors: float = 12.0
    hostile: float = 25.0


@dataclass(kw_only=True)
class Report:
    """What happened, and what must not have."""

    plan: Plan
    seconds: float = 0.0
    done: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    hostile: dict[str, dict[str, int]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))


class _Soak:
    """The service, who uses it, and what is done to it."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self._plan, self._say, self._seconds = plan, say, 60 * plan.minutes
        self._port, self._ahead, self.config, self._clock = _free_port(), 0.0, write(folder), folder / "clock"
        self.outages: list[tuple[float, float]] = []
        self.turns: list[Turn] = []
        self.memory = Memory()
        set_clock(self._clock, 0.0)
        program = [sys.executable, "-m", "tests.soak.stepped", str(self._clock)]
        self.service = Supervised("service", ["serve"], self.config, folder, lambda: 0, self._port, program)
        url = f"http://127.0.0.1:{self._port}"
        self.visitors = Visitors(url, plan.visitors, plan.seed, lambda: self._ahead)
        self.found: dict[str, Any] = {}

    async def run(self) -> None:
        """Run until everything that was sent has been answered."""
        await asyncio.to_thread(self.service.wait)
        self.memory.empty = resident(self.service.pid)
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.memory.watch(self.service, done))
            group.create_task(self.visitors.run(done))
            began = time.monotonic()
            attack = await self._attack()
            group.create_task(self._take_turns(began, attack))
            await self._until(began, KILL)
            await self._restart(self.service.kill)
            await self._until(began, STEP)
            self._ahead = AHEAD
            await self._until(began, STEP + LASTS)
            self._ahead = 0.0
            await self._until(began, DAY_AHEAD)
            set_clock(self._clock, DAY)
            await asyncio.sleep(DAY_LASTS)
            set_clock(self._clock, 0.0)
            await self._until(began, TERMINATE)
            await self._restart(self.service.terminate)
            await self._until(began, 1.0)
            said, _ = await attack.communicate(b"")
            self.found = json.loads(said)
            done.set()

    async def _until(self, began: float, share: float) -> None:
        self._say(
            f"until {share:.0%}: {sum(self.visitors.counts.values())} good requests, {self.memory.worst:.3f} of the memory"
        )
        await asyncio.sleep(max(began + share * self._seconds - time.monotonic(), 0.0))

    async def _take_turns(self, began: float, attack: asyncio.subprocess.Process) -> None:
        """Let the hostile clients send, and stop, `TURNS` times."""
        assert attack.stdin is not None
        for number in range(TURNS):
            hostile, start, used = number not in CALM, time.time(), await asyncio.to_thread(self._cpu)
            attack.stdin.write(b"go\n" if hostile else b"pause\n")
            await asyncio.sleep(max(began + (number + 1) / TURNS * self._seconds - time.monotonic(), 0.0))
            self.turns.append(Turn(hostile, start, time.time(), await asyncio.to_thread(self._cpu) - used))

    def _cpu(self) -> float:
        """Processor time that the service has used in this life, seconds; NaN if it is down."""
        try:
            fields = Path(f"/proc/{self.service.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def _attack(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.soak.hostile", str(self._port), str(self._plan.hostile), str(self._plan.seed)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
            limit=1 << 26,
        )

    async def _restart(self, end: Callable[[], None]) -> None:
        began = time.time()
        await asyncio.to_thread(end)
        await asyncio.to_thread(self.service.wait)
        self.outages.append((began, time.time()))

    def rest(self) -> str:
        """Digest of the state when everything has been learned, and no window is open any more."""
        with httpx.Client(base_url=self.visitors.url, timeout=60) as client:
            return str(settle(client)["digest"])


def run(plan: Plan, folder: Path, say: Callable[[str], None] = lambda _: None) -> Report:
    """Run a plan; everything that is left of it stays in `folder`.

    Parameters
    ----------
    plan : Plan
    folder : Path
    say : callable
        Told now and then how far it has come.
    """
    report, began = Report(plan=plan), time.monotonic()
    soak = _Soak(plan, folder, say)
    with closing(soak.service) as service:
        asyncio.run(soak.run())
        try:
            say("coming to rest")
            report.digests["live"] = soak.rest()
            service.terminate()
            service.wait()
            report.digests["restarted"] = soak.rest()
        except AssertionError as error:
            report.problems.append(str(error))
    report.problems += service.problems
    say("replaying the log")
    settings = configs.load(soak.config)
    report.digests["replayed"] = replayed(settings)
    report.done = {"lives": service.lives, "kills": service.kills, "outages": len(soak.outages)}
    report.counted, report.hostile = dict(soak.visitors.counts), soak.found["counts"]
    report.memory = dataclasses.asdict(soak.memory)
    report.latency = latency(soak.visitors.samples, soak.turns, soak.outages)
    report.problems += judge(settings, soak.visitors, soak.found, soak.outages, soak.memory, report.digests)
    report.seconds = time.monotonic() - began
    return report


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
