"""Long work, split into short steps so that it does not block the engine's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

__all__ = ["TURN_SECONDS", "Steps"]

_Result = TypeVar("_Result")

TURN_SECONDS = 0.004
"""Time limit of a turn. Its last step may end a little later."""


class Steps(Generic[_Result]):
    """Runs a generator, a few of its steps per turn.

    Parameters
    ----------
    steps : generator
        Each step must be short.
    clock : callable returning float
        Seconds.

    Attributes
    ----------
    result : object
        Return value of the generator, set when `turn` has returned True.
    """

    result: _Result

    def __init__(self, steps: Generator[None, None, _Result], clock: Callable[[], float] = time.perf_counter) -> None:
        self._steps, self._clock = steps, clock

    def turn(self) -> bool:
        """Run steps for some milliseconds. Return True when the generator has ended.

        Raises
        ------
        Exception
            Any error of a step.
        """
        until = self._clock() + TURN_SECONDS
        try:
            while True:
                next(self._steps)
                if self._clock() >= until:
                    return False
        except StopIteration as end:
            self.result = end.value
            return True
