"""What torchrun says to a process about the others, and how they talk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Buffer", "Peers", "rank", "world_size"]

Buffer = bytes | memoryview
"""A message as it was received."""


class Peers(Protocol):
    """All processes of one training. Every process makes the same calls in the same order.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.

    Raises
    ------
    ConnectionError
        By every call, if another process has ended.
    """

    rank: int
    size: int

    def gather(self, message: bytes, kind: str) -> Sequence[Buffer]:
        """Return the messages of all processes, in the order of their numbers. Those of a kind have about the same size."""

    def broadcast(self, message: bytes) -> Buffer:
        """Return the message of process 0; those of the others are ignored."""

    def close(self) -> None:
        """Leave the others."""


def world_size() -> int:
    """Return the number of processes that torchrun started; 0 without torchrun."""
    return _number("WORLD_SIZE")


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return _number("RANK")


def _number(name: str) -> int:
    given = os.environ.get(name, "0")
    if not given.isdecimal():
        raise OSError(f"{name} = {given!r}: not a number; start the processes with torchrun, or unset {name}")
    return int(given)
