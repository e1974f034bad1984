"""The interface of what keeps a pipeline up to date: the trainer or the replica."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from streams.log import Offsets

__all__ = ["Updater"]


class Updater(Protocol):
    """Keeps the state of a pipeline up to date: a trainer or a replica. All calls are made on the engine's thread.

    Attributes
    ----------
    role : str
        ``trainer`` or ``replica``.
    serves_while_behind : bool
        Whether requests are answered before `caught_up`.
    whole : bool
        Whether it keeps the private part of the state up to date, too; see `memory.stateful.Stateful.private`.
    follows : bool
        Whether the state can still be brought up to date: not that of a replica whose trainer has another config.
    """

    role: str
    serves_while_behind: bool
    follows: bool
    whole: bool

    @property
    def caught_up(self) -> bool:
        """Whether the state has reached the end that the log had at the start."""

    @property
    def notices(self) -> deque[str]:
        """The latest messages for the operator."""

    @property
    def next(self) -> Offsets:
        """Next offsets of the event log: all records before them are in the state."""

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of memory in addition to the pipeline's, by name."""

    def restore(self) -> None:
        """Load the saved state."""

    def turn(self) -> bool:
        """Advance the state by one bounded step; False if there is nothing to do."""

    def idle(self, *, hurry: bool = False) -> float:
        """Do background work when there is no step to take; return the seconds until the next look.

        With `hurry`, a batch with room is learned now, because a request waits for it.
        """

    def keep_time(self) -> None:
        """Write the passing of time into the log, where that cannot wait for `idle`. It is called after each step."""

    def has_request(self, request_id: str) -> bool:
        """Whether it remembers an impression with this id; a replica does not. Called from any thread."""

    def save(self) -> Any:
        """Save the state."""

    def close(self) -> None:
        """Finish pending writes, and close what is open."""

    def status(self) -> dict[str, Any]:
        """Its part of ``GET /v1/status``."""

    def gauges(self) -> dict[str, Any]:
        """Numbers for the monitor; called from any thread."""
