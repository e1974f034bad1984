"""A process that is a member of a group, for tests that suspend or kill it. It prints one line per event."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import TextIO

from streams.joined import Position
from streams.kafka.group import Fenced, GroupMember
from tests import kafka_options  # noqa: F401  its import sets what the given broker needs


def run(servers: str, topic: str, partitions: int, group: str, member: str, session: int, commands: TextIO) -> None:
    def report(event: str) -> Callable[[frozenset[int]], None]:
        return lambda partitions: print(event, sorted(partitions), flush=True)

    membership = GroupMember(
        servers,
        topic,
        range(partitions),
        group,
        member,
        revoked=report("revoked"),
        lost=report("lost"),
        options={"session_timeout_ms": session},
    )
    owned: frozenset[int] = frozenset()
    while True:
        if select.select([commands], [], [], 0.005)[0]:
            version = int(commands.readline())
            try:
                membership.commit(version, {partition: Position(next=version) for partition in owned})
                print("committed", version, flush=True)
            except Fenced:
                print("fenced", version, flush=True)
        if membership.poll() is not None:
            owned = membership.owned
            print("owns", sorted(owned), flush=True)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5], int(sys.argv[6]), sys.stdin)
