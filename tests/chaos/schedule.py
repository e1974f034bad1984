"""What is done to whom and when, from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

__all__ = ["BROKER", "TRAINER", "Act", "Deed", "schedule"]

TRAINER, BROKER = "trainer", "broker"

GAP = 1.5
"""Mean seconds between two disturbances: a process that starts anew gets ready most times, and is caught while it does so at
others."""


class Deed(Enum):
    """What can be done to a process or a broker."""

    KILL = "kill"
    STOP = "stop"
    GO_ON = "go on"
    CUT = "cut all connections"
    REFUSE = "refuse connections"
    ACCEPT = "accept connections"


class Act(NamedTuple):
    """One deed: seconds after the start, what, and to whom."""

    at: float
    deed: Deed
    whom: str


ENDED_BY = {Deed.STOP: Deed.GO_ON, Deed.REFUSE: Deed.ACCEPT}


def schedule(seed: int, kills: int, replicas: Sequence[str], *, broker: bool, gap: float = GAP) -> list[Act]:
    """Disturbances in order of time; the same for the same arguments.

    Parameters
    ----------
    seed : int
    kills : int
        Of trainer and replicas, the trainer half of them.
    replicas : sequence of str
        Their names.
    broker : bool
        Whether there is one that may be disturbed too.
    gap : float
        Mean seconds between disturbances.
    """
    rng = random.Random(seed)
    deeds = [(Deed.KILL, whom) for whom in _in_turn(rng, [TRAINER] * len(replicas) + list(replicas), kills)]
    deeds += [(Deed.STOP, whom) for whom in _in_turn(rng, [TRAINER, *replicas], -(-kills // 2))]
    if broker:
        ways = [(Deed.STOP, BROKER), (Deed.CUT, BROKER), (Deed.REFUSE, BROKER)]
        deeds += [ways[n % len(ways)] for n in range(max(kills, len(ways)))]
    rng.shuffle(deeds)
    acts, now = [], 0.0
    for deed, whom in deeds:
        now += rng.uniform(0.3, 1.7) * gap
        acts.append(Act(now, deed, whom))
        if deed in ENDED_BY:
            # Now and then longer than anybody waits for a broker.
            lasts = rng.uniform(10.5, 13.0) if whom == BROKER and kills >= 20 and rng.random() < 0.1 else rng.uniform(0.1, 2.0)
            acts.append(Act(now + lasts, ENDED_BY[deed], whom))
            now += lasts if lasts > 10 else 0.0
    return sorted(acts)


def _in_turn(rng: random.Random, some: Sequence[str], count: int) -> list[str]:
    """So many of them that each has its turn before one has two, in an order of chance."""
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(some, len(some))
    return found[:count]
