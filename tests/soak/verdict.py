"""Whether everything adds up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.config import Config
from service.process.logs import open_log
from tests.chaos.tally import records_of
from tests.soak.inputs import INPUTS
from tests.soak.memory import BASE, SLACK, Memory
from tests.soak.visitors import Sample, Visitors

__all__ = ["Turn", "judge", "latency"]

AFTERWARDS = 5.0
"""Seconds after a restart that do not count for latency: those who waited all come at once."""

NEAR = 2.0
"""Seconds around an outage in which a connection may fail because of it."""

WARM_UP = 2.0
"""Seconds until the clients have warmed up."""

LINGER = 10.0
"""Seconds at the beginning of a turn, at most a third of it, that do not count: requests of the turn before are in progress."""

Spans = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Turn:
    """A time with or without hostile requests, Unix seconds, and the processor time of the service, NaN across a restart."""

    hostile: bool
    start: float
    end: float
    cpu: float


def judge(
    settings: Config,
    visitors: Visitors,
    found: Mapping[str, Any],
    outages: Spans,
    memory: Memory,
    digests: Mapping[str, str],
) -> list[str]:
    """What must not have happened.

    Parameters
    ----------
    settings : Config
        Of the service, which has ended.
    visitors : Visitors
    found : mapping
        What the hostile client wrote down.
    outages : sequence of (float, float)
        From when to when the service was down, Unix seconds.
    memory : Memory
    digests : mapping of str to str
        Of the states that have to be equal.
    """
    problems = [*visitors.problems, *found["problems"]]
    if len(set(digests.values())) > 1:
        problems.append(f"states differ: {dict(digests)}")
    for who, failed in (("visitors", visitors.unreachable), ("hostile clients", found["unreachable"])):
        alone = [span for span in failed if not _during(span, outages)]
        if alone:
            problems.append(f"{who}: {len(alone)} requests had no answer though the service was up, the first at {alone[0]}")
    if memory.worst > SLACK:
        problems.append(
            f"memory: {memory.most} bytes were resident, {memory.worst:.2f} of the base, {BASE}, and of what was reported, "
            f"{memory.reported}"
        )
    if missing := {one.name for one in INPUTS} - found["counts"].keys():
        problems.append(f"never answered: {sorted(missing)}")
    if lost := visitors.accepted - _logged(settings):
        problems.append(f"{len(lost)} accepted clicks are not in the log: {sorted(lost)[:10]}")
    return problems


def latency(samples: Sequence[Sample], turns: Sequence[Turn], outages: Spans) -> dict[str, float]:
    """Milliseconds of good requests without hostile ones and with them, those around a restart left out.

    Also the share of a processor that the service used.

    Parameters
    ----------
    samples : sequence of Sample
    turns : sequence of Turn
    outages : sequence of (float, float)
    """
    began = min((sample.due for sample in samples), default=0.0) + WARM_UP
    kept = [
        sample
        for sample in samples
        if sample.due > began
        and not any(sample.due < end + AFTERWARDS and sample.due + sample.seconds > start for start, end in outages)
    ]
    figures = {}
    for name, hostile in (("calm", False), ("hostile", True)):
        of = [turn for turn in turns if turn.hostile is hostile]
        seconds = [
            1000 * sample.seconds
            for sample in kept
            if any(turn.start + min(LINGER, (turn.end - turn.start) / 3) < sample.due < turn.end for turn in of)
        ]
        figures[f"{name}_requests"] = float(len(seconds))
        for level in (50, 90, 99):
            figures[f"{name}_p{level}"] = float(np.percentile(seconds, level)) if seconds else float("nan")
        whole = [turn for turn in of if turn.cpu >= 0]
        figures[f"{name}_cpu"] = sum(turn.cpu for turn in whole) / max(sum(turn.end - turn.start for turn in whole), 1e-9)
    return figures


def _during(span: tuple[float, float], outages: Spans) -> bool:
    return any(span[0] < end + NEAR and span[1] > start - NEAR for start, end in outages)


def _logged(settings: Config) -> set[str]:
    """Ids of all interactions in the log."""
    with closing(open_log(settings, readonly=True)) as log:
        return {json.loads(record.value).get("id", "") for record in records_of(log)}
