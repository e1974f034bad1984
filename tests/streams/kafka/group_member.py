"""A process that is a member of a group, for tests that stop or kill it. It says on a line each what happens to it."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import TextIO

from streams.joined import Position
from streams.kafka.group import Fenced, Membership


def run(servers: str, topic: str, partitions: int, group: str, member: str, session: int, commands: TextIO) -> None:
    def say(what: str) -> Callable[[frozenset[int]], None]:
        return lambda partitions: print(what, sorted(partitions), flush=True)

    one = Membership(
        servers,
        topic,
        range(partitions),
        group,
        member,
        revoked=say("revoked"),
        lost=say("lost"),
        options={"session_timeout_ms": session},
    )
    mine: frozenset[int] = frozenset()
    while True:
        if select.select([commands], [], [], 0.005)[0]:
            version = int(commands.readline())
            try:
                one.commit(version, {partition: Position(next=version) for partition in mine})
                print("committed", version, flush=True)
            except Fenced:
                print("fenced", version, flush=True)
        if one.poll() is not None:
            mine = one.owned
            print("owns", sorted(mine), flush=True)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5], int(sys.argv[6]), sys.stdin)
