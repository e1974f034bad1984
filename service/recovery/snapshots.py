"""Saves the snapshots of waiting impressions with the state: a restart needs them to learn the same rows."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from memory.checkpoint import Checkpoint
from memory.stateful import State
from streams.join import Joiner
from streams.joined import Snapshot

__all__ = ["WaitingSnapshots", "collect_snapshots", "restore_snapshots", "split_snapshots", "with_snapshots"]

WaitingSnapshots = dict[int, dict[str, Snapshot]]
"""Snapshots by partition and request id."""

IMPRESSIONS_PER_STEP = 5_000
"""Waiting impressions per step."""

_KEY = "waiting"
"""Name of the array in a checkpoint; no learner or store uses it."""


def collect_snapshots(joiners: Mapping[int, Joiner]) -> Generator[None, None, WaitingSnapshots]:
    """Collect the snapshots that must be saved, in short steps. The joiners must not change meanwhile.

    Snapshots are immutable, so another thread can write them.
    """
    snapshots: WaitingSnapshots = {}
    for partition, joiner in joiners.items():
        of_partition = snapshots.setdefault(partition, {})
        for n, shown in enumerate(joiner.shown()):
            if shown.snapshot is not None and not shown.snapshot.logged:
                of_partition[shown.impression.request_id] = shown.snapshot
            if n % IMPRESSIONS_PER_STEP == 0:
                yield
    return snapshots


def with_snapshots(checkpoint: Checkpoint, snapshots: WaitingSnapshots) -> Checkpoint:
    """Return the checkpoint with these snapshots added."""
    packed = np.frombuffer(msgspec.msgpack.encode(snapshots), np.uint8)
    return replace(checkpoint, state=checkpoint.state | {_KEY: packed})


def split_snapshots(state: Mapping[str, npt.NDArray[Any]]) -> tuple[WaitingSnapshots, State]:
    """Split a saved state into the snapshots and the rest."""
    rest = dict(state)
    packed = rest.pop(_KEY, None)
    return {} if packed is None else msgspec.msgpack.decode(packed.tobytes(), type=WaitingSnapshots), rest


def restore_snapshots(snapshots: WaitingSnapshots, joiners: Mapping[int, Joiner]) -> None:
    """Give the impressions of restored joiners their snapshots."""
    for partition, by_request in snapshots.items():
        if by_request and partition in joiners:
            for shown in joiners[partition].shown():
                shown.snapshot = by_request.get(shown.impression.request_id, shown.snapshot)
