"""What was noted of waiting impressions and no log says: saved with the state, or a restart would learn other rows."""

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

__all__ = ["Notes", "noting", "put_back", "take_notes", "with_notes"]

Notes = dict[int, dict[str, Snapshot]]
"""Snapshots by partition and request id."""

TOGETHER = 5_000
"""Waiting impressions that are looked at in one step."""

_KEY = "waiting"
"""Name among the arrays of a checkpoint; no learner or store has it."""


def noting(joiners: Mapping[int, Joiner]) -> Generator[None, None, Notes]:
    """Collect the snapshots that must be saved, in short steps between which the joiners must not change.

    The snapshots themselves never change, so they can be written on another thread.
    """
    notes: Notes = {}
    for partition, joiner in joiners.items():
        noted = notes.setdefault(partition, {})
        for n, shown in enumerate(joiner.shown()):
            if shown.snapshot is not None and not shown.snapshot.logged:
                noted[shown.impression.request_id] = shown.snapshot
            if n % TOGETHER == 0:
                yield
    return notes


def with_notes(checkpoint: Checkpoint, notes: Notes) -> Checkpoint:
    """The same checkpoint with these notes."""
    packed = np.frombuffer(msgspec.msgpack.encode(notes), np.uint8)
    return replace(checkpoint, state=checkpoint.state | {_KEY: packed})


def take_notes(state: Mapping[str, npt.NDArray[Any]]) -> tuple[Notes, State]:
    """Notes of a saved state, and the state without them."""
    rest = dict(state)
    packed = rest.pop(_KEY, None)
    return {} if packed is None else msgspec.msgpack.decode(packed.tobytes(), type=Notes), rest


def put_back(notes: Notes, joiners: Mapping[int, Joiner]) -> None:
    """Give restored joiners' impressions their snapshots."""
    for partition, by_request in notes.items():
        if by_request and partition in joiners:
            for shown in joiners[partition].shown():
                shown.snapshot = by_request.get(shown.impression.request_id, shown.snapshot)
