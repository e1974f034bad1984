"""Members of a consumer group for tests: in this process, and in a process that can be suspended and killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streams.joined import Position
from streams.kafka.group import Commit, GroupMember
from tests.broker import GIVEN

# Milliseconds. Apache Kafka allows at least 6 seconds by default.
SESSION = 6000 if GIVEN in os.environ else 1000


class Member:
    """A membership that records its events, and commits one more version when its partitions are revoked."""

    def __init__(self, servers: str, topic: str, partitions: int, name: str, **keywords: Any) -> None:
        options = {"session_timeout_ms": SESSION} | keywords.pop("options", {})
        self.events: list[tuple[str, frozenset[int]]] = []
        self.commits: dict[int, Commit | None] = {}
        self.version = 0
        self.refuse: Exception | None = None
        self.group = GroupMember(
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
    """A member in its own process."""

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
            env=os.environ | {"PYTHONPATH": str(root)},
        )

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, version: int) -> None:
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
    """Poll until the members own all partitions, in even shares."""
    min_owned = partitions // len(members)
    drive(members, lambda: sum(len(m.owned) for m in members) == partitions and all(len(m.owned) >= min_owned for m in members))
    owned = frozenset[int]().union(*(member.owned for member in members))
    assert owned == frozenset(range(partitions)), "no partition has two owners"


def expelled(member: Member, other: Member, partitions: int) -> None:
    """Stop a member's heartbeats until the other one owns everything. The member does not know."""
    member.group._coordinator._disable_heartbeat()
    drive([other], lambda: len(other.owned) == partitions)
