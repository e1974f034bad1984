"""One run: everything started, disturbed, brought to rest, and compared with an uninterrupted fold of the log."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service import config as configs
from service.process.logs import open_log
from streams.log import Log
from tests.broker import which
from tests.chaos.config import WINDOW, on_broker, on_disk
from tests.chaos.faults import Faults, faulty
from tests.chaos.producer import Producer
from tests.chaos.schedule import BROKER, TRAINER, Act, Deed, schedule
from tests.chaos.supervised import Supervised
from tests.chaos.verdict import judge
from tests.chaos.watch import Versions, watch
from tests.service.processes import DEADLINE

__all__ = ["Plan", "Report", "run"]

REPLICAS = ("replica-0", "replica-1")
REST = 2 * WINDOW
"""Seconds without a new record after which no window is open any more."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run: so many kills, over a log of ``kafka`` or ``lmdb``, at so many events a second."""

    kills: int
    seed: int
    log: str = "kafka"
    partitions: int = 4
    rate: float = 40.0


@dataclass(kw_only=True)
class Report:
    """What happened, and what must not have."""

    plan: Plan
    broker: str = ""
    seconds: float = 0.0
    done: dict[str, int] = field(default_factory=dict)
    counted: dict[str, Any] = field(default_factory=dict)
    replicas: dict[str, dict[str, int]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    gave_up: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))


class _Run:
    """The processes, the producer, and who asks and disturbs them."""

    def __init__(self, plan: Plan, folder: Path, config: Path, faults: Faults | None, log: Log) -> None:
        self.faults, self.log, self._folder = faults, log, folder
        self._began = time.monotonic()

        def started(name: str, *role: str) -> Supervised:
            return Supervised(name, list(role), config, folder, lambda: 0 if faults is None else faults.trouble)

        self.trainer = started(TRAINER, "train")
        self.replicas = [started(name, "serve", "--replica") for name in REPLICAS]
        self.processes = [self.trainer, *self.replicas]
        self.versions = [Versions(replica.name) for replica in self.replicas]
        addresses = [lambda replica=replica: replica.url for replica in self.replicas]
        self.producer = Producer(plan.seed, plan.rate, addresses, log)  # type: ignore[arg-type]
        self.acts = schedule(plan.seed, plan.kills, REPLICAS, () if faults is None else faults.deeds)

    def disturb(self, say: Callable[[str], None]) -> None:
        """Produce, ask and disturb, until all acts are done and all that was sent has been accepted."""
        quiet, silent = threading.Event(), threading.Event()
        with ThreadPoolExecutor(8, "chaos") as pool:
            watching = [
                pool.submit(watch, replica, seen, silent) for replica, seen in zip(self.replicas, self.versions, strict=True)
            ]
            producing = pool.submit(self.producer.run, quiet)
            acting: list[Future[None]] = [
                pool.submit(self._act, process, self.acts[process.name]) for process in self.processes
            ]
            if self.faults is not None:
                acting.append(pool.submit(self._fault, self.faults, self.acts[BROKER]))
            try:
                while not all(one.done() for one in acting) and not producing.done():
                    time.sleep(0.2)
                    say(self.line())
                for one in acting:
                    one.result()
                if self.faults is not None:
                    self.faults.heal()
                for process in self.processes:
                    process.wait()
                self.note("all done, and all ready")
                quiet.set()
                producing.result()
            finally:
                quiet.set()
                silent.set()
            for one in watching:
                one.result()

    def rest(self) -> dict[str, dict[str, Any]]:
        """Wait until nothing changes any more and the replicas have it all; the status of each process."""
        limit, since, before = time.monotonic() + DEADLINE, time.monotonic(), None
        with httpx.Client(timeout=DEADLINE) as client:
            while time.monotonic() < limit:
                found = {process.name: client.get(f"{process.wait()}/v1/status?digest=1").json() for process in self.processes}
                trainer, now = found[TRAINER], time.monotonic()
                if trainer["next"] != before:
                    since, before = now, trainer["next"]
                elif (
                    now - since > REST
                    and trainer["lag"] == 0
                    and not trainer["pending"]
                    and all(one["next"] == before for one in found.values())
                ):
                    return found
                time.sleep(0.1)
        shown = ("next", "lag", "pending", "version", "caught_up", "notices")
        raise AssertionError(
            f"it never came to rest: { {name: {key: one.get(key) for key in shown} for name, one in found.items()} }"
        )

    def close(self) -> None:
        """End all processes."""
        self.note("ending")
        with ThreadPoolExecutor() as pool:
            list(pool.map(Supervised.close, self.processes))
        self.note("ended")

    def note(self, what: str) -> None:
        """Write down when something happens."""
        with (self._folder / "journal.txt").open("a") as file:
            file.write(f"{time.time():.3f} {time.monotonic() - self._began:8.2f} s {what}\n")

    def line(self) -> str:
        """What has happened so far."""
        kills = sum(process.kills for process in self.processes)
        planned = sum(act.deed is Deed.KILL for acts in self.acts.values() for act in acts)
        lives = " ".join(f"{process.name} {process.lives}" for process in self.processes)
        newest = max(seen.last for seen in self.versions)
        broker = "" if self.faults is None else f" broker {sum(self.faults.done.values())}"
        return f"kills {kills}/{planned}{broker}, lives: {lives}, accepted {self.producer.accepted}, version {newest}"

    def _act(self, process: Supervised, acts: Sequence[Act]) -> None:
        for act in acts:
            if act.ready:
                process.wait()
            time.sleep(act.pause)
            self.note(f"{process.name}: {act.deed.value} {act.lasts:.1f}")
            if act.deed is Deed.KILL:
                process.kill()
            else:
                process.stop(act.lasts)

    def _fault(self, faults: Faults, acts: Sequence[Act]) -> None:
        for act in acts:
            if act.ready:
                self.trainer.wait()
            time.sleep(act.pause)
            self.note(f"{BROKER}: {act.deed.value} {act.lasts:.1f}")
            faults.do(act)


def run(plan: Plan, folder: Path, say: Callable[[str], None] = lambda _: None) -> Report:
    """Run a plan; everything that is left of it stays in `folder`.

    Parameters
    ----------
    plan : Plan
    folder : Path
    say : callable
        Told now and then how far it has come.
    """
    report, began = Report(plan=plan, broker=which() if plan.log == "kafka" else ""), time.monotonic()
    with ExitStack() as opened:
        faults = opened.enter_context(faulty(folder) if plan.log == "kafka" else nullcontext())
        file = on_disk(folder, plan.partitions) if faults is None else on_broker(folder, faults.broker, plan.partitions)
        settings = configs.load(file)
        with closing(open_log(settings)) as log, closing(_Run(plan, folder, file, faults, log)) as one:
            statuses = _disturbed(one, report, say)
        for of in (one.producer, *one.processes, *one.versions):
            report.problems += of.problems
        if statuses is not None:
            report.problems += judge(report.counted, report.digests, statuses, folder, settings, one.producer)
        _fill(report, one)
    report.seconds = time.monotonic() - began
    return report


def _disturbed(one: _Run, report: Report, say: Callable[[str], None]) -> dict[str, dict[str, Any]] | None:
    """Status of each process at the end; None when there is no such end."""
    try:
        for process in one.processes:
            process.wait()
        one.note("all ready")
        one.disturb(say)
        return one.rest()
    except AssertionError as error:
        report.problems.append(str(error))
        for process in one.processes:
            process.abort()
        return None


def _fill(report: Report, one: _Run) -> None:
    report.done = {
        "kills": sum(process.kills for process in one.processes),
        "stops": sum(process.stops for process in one.processes),
        "lives": sum(process.lives for process in one.processes),
        "gave_up": sum(process.gave_up for process in one.processes),
    }
    report.gave_up = [reason for process in one.processes for reason in process.reasons]
    if one.faults is not None:
        report.done |= {f"broker: {deed.value}": times for deed, times in one.faults.done.items()}
    for seen in one.versions:
        report.replicas[seen.name] = {
            "answers": seen.answered,
            "refused": seen.refused,
            "unreachable": seen.unreachable,
            "versions": seen.versions,
            "last": seen.last,
        }
