"""What is done to whom, from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from itertools import cycle, islice
from typing import NamedTuple

__all__ = ["BROKER", "TRAINER", "Act", "Deed", "schedule"]

TRAINER, BROKER = "trainer", "broker"

LONG_RUN = 20
"""Kills from which on there is time: a process is let run for longer, and a broker is now and then away for longer than anybody
waits for it."""


class Deed(Enum):
    """What can be done to a process or a broker."""

    KILL = "kill"
    STOP = "stop"
    CUT = "cut all connections"
    LOSE = "lose the next acknowledgement"
    REFUSE = "refuse connections"
    RESTART = "kill and start again"


class Act(NamedTuple):
    """One deed.

    Attributes
    ----------
    deed : Deed
    ready : bool
        Whether to wait first until the process (for a deed to the broker: the trainer) is ready; otherwise it is caught in
        whatever it does.
    pause : float
        Seconds until the deed, from then on.
    lasts : float
        Seconds that a stop, or a refusal, lasts.
    """

    deed: Deed
    ready: bool
    pause: float
    lasts: float


def schedule(seed: int, kills: int, replicas: Sequence[str], broker: Sequence[Deed]) -> dict[str, list[Act]]:
    """Deeds in their order, by whom they are done to; the same for the same arguments.

    Parameters
    ----------
    seed : int
    kills : int
        Of trainer and replicas together, half of them the trainer's. There are half as many stops.
    replicas : sequence of str
        Their names.
    broker : sequence of Deed
        What may be done to the broker: half as many deeds as kills, each in its turn.
    """
    rng = random.Random(seed)
    deeds: dict[str, list[Deed]] = {name: [] for name in (TRAINER, *replicas, BROKER)}
    for whom in _in_turn(rng, [TRAINER] * len(replicas) + list(replicas), kills):
        deeds[whom].append(Deed.KILL)
    for whom in _in_turn(rng, [TRAINER, *replicas], -(-kills // 2)):
        deeds[whom].append(Deed.STOP)
    if broker:
        deeds[BROKER] = list(islice(cycle(broker), max(kills // 2, len(broker))))
    for some in deeds.values():
        rng.shuffle(some)
    return {whom: [_act(rng, deed, whom, kills >= LONG_RUN) for deed in some] for whom, some in deeds.items()}


def _act(rng: random.Random, deed: Deed, whom: str, long: bool) -> Act:
    ready = rng.random() < 0.75
    lasts = 0.0
    if deed in (Deed.STOP, Deed.REFUSE):
        very_long = long and whom == BROKER and rng.random() < 0.1
        lasts = rng.uniform(10.5, 13.0) if very_long else rng.uniform(0.1, 2.0 if long else 1.0)
    return Act(deed, ready, rng.uniform(0.2, 3.0 if long else 1.0), lasts)


def _in_turn(rng: random.Random, some: Sequence[str], count: int) -> list[str]:
    """So many of them that each has its turn before one has two, in an order of chance."""
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(some, len(some))
    return found[:count]
