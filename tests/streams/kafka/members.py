"""Members of a consumer group for tests: in this process, and in one of their own that can be stopped and killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streams.joined import Position
from streams.kafka.group import Commit, Membership
from tests.broker import GIVEN

# Milliseconds; Apache Kafka allows no less than 6 seconds unless it was told otherwise.
SESSION = 6000 if GIVEN in os.environ else 1000


class Member:
    """A membership that writes down what happens to it, and commits one more version when it has to give partitions up."""

    def __init__(self, servers: str, topic: str, partitions: int, name: str, **keywords: Any) -> None:
        options = {"session_timeout_ms": SESSION} | keywords.pop("options", {})
        self.events: list[tuple[str, frozenset[int]]] = []
        self.commits: dict[int, Commit | None] = {}
        self.version = 0
        self.refuse: Exception | None = None
        self.group = Membership(
            servers,
            topic,
            range(partitions),
            f"group-of-{topic}",
            name,
            revoked=self._revoked,
            lost=lambda partitions: self.events.append(("lost", partitions)),
            options=options,
            **keywords,
        )

    def _revoked(self, partitions: frozenset[int]) -> None:
        if self.refuse is not None:
            refuse, self.refuse = self.refuse, None
            raise refuse
        assert partitions == self.group.owned
        self.events.append(("revoked", partitions))
        self.commit()

    @property
    def owned(self) -> frozenset[int]:
        return self.group.owned

    def commit(self) -> None:
        self.version += 1
        self.group.commit(self.version, {partition: self.position(partition) for partition in self.owned})

    def position(self, partition: int) -> Position:
        return Position(100 * self.version + partition, self.version, 0.1 + partition, partition, 2)

    def poll(self) -> None:
        if (commits := self.group.poll()) is not None:
            assert commits.keys() == self.owned
            self.commits = commits
            self.events.append(("owns", self.owned))


Join = Callable[..., Member]


class Process:
    """A member in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        script = Path(__file__).with_name("group_member.py")
        root = script.parents[3]
        command = [sys.executable, script, *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=root,
            env={"PYTHONPATH": str(root)},
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def told(self, version: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{version}\n")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def drive(members: Sequence[Member], until: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, [member.events for member in members]
        for member in members:
            member.poll()
        time.sleep(0.002)


def settle(*members: Member, partitions: int) -> None:
    """Until they own everything, in even shares."""
    least = partitions // len(members)
    drive(members, lambda: sum(len(m.owned) for m in members) == partitions and all(len(m.owned) >= least for m in members))
    assert frozenset[int]().union(*(member.owned for member in members)) == frozenset(range(partitions)), "and nothing twice"


def expelled(member: Member, other: Member, partitions: int) -> None:
    """Keep a member's signs of life back until the other one has everything; it does not know."""
    member.group._coordinator._disable_heartbeat()
    drive([other], lambda: len(other.owned) == partitions)
