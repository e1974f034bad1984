"""Work for the engine's thread that is too long for one turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

__all__ = ["TURN_SECONDS", "Steps"]

_Result = TypeVar("_Result")

TURN_SECONDS = 0.004
"""How long a turn goes on to take steps; the last one may end a little later."""


class Steps(Generic[_Result]):
    """Takes the steps of a generator, a few of them a turn.

    Parameters
    ----------
    steps : generator
        Each step is short.
    clock : callable returning float
        Seconds.

    Attributes
    ----------
    result : object
        What the generator returned; there once `turn` has said so.
    """

    result: _Result

    def __init__(self, steps: Generator[None, None, _Result], clock: Callable[[], float] = time.perf_counter) -> None:
        self._steps, self._clock = steps, clock

    def turn(self) -> bool:
        """Go on for some milliseconds; whether it has come to its end.

        Raises
        ------
        Exception
            What a step raised.
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
