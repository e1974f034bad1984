"""What an engine runs beside requests."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from streams.log import Offsets

__all__ = ["Updater"]


class Updater(Protocol):
    """What keeps the state of a pipeline up to date: the one who learns, or who follows it. Lives on the engine's thread.

    Attributes
    ----------
    role : str
        What it is called: ``trainer`` or ``replica``.
    serves_behind : bool
        Whether to answer requests before that.
    whole : bool
        Whether it keeps the private part of the state up to date, too; see `memory.stateful.Stateful.private`.
    """

    role: str
    serves_behind: bool
    whole: bool

    @property
    def caught_up(self) -> bool:
        """Whether the state has come to where the log was at the start."""

    @property
    def notices(self) -> deque[str]:
        """The last things that an operator should know."""

    @property
    def next(self) -> Offsets:
        """Offsets of the events log that the state has come to."""

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory beside the pipeline's, by name."""

    def restore(self) -> None:
        """Begin with what was saved."""

    def turn(self) -> bool:
        """Bring the state on by a bounded step; False when there is none to take."""

    def idle(self) -> float:
        """Do what is due when there is no step to take; return seconds until it makes sense to look again."""

    def save(self) -> Any:
        """Make the state safe."""

    def close(self) -> None:
        """Wait for what is being written, and release what is open."""

    def status(self) -> dict[str, Any]:
        """Where it stands."""

    def gauges(self) -> dict[str, Any]:
        """Numbers for the monitor; called from any thread."""
