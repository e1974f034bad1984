"""Lets one learner fail without harm to the others: what it cannot take is left out for it, counted and reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ParamSpec

__all__ = ["Isolation"]

_Arguments = ParamSpec("_Arguments")


class Isolation:
    """Runs what learners do with the log, and survives their failures.

    An ordinary exception is taken for an answer to what the learner was given: learners are deterministic, so the same learner
    fails on the same batch in a replay, after a restart, and in a replica's trainer, and the state is the same everywhere. What
    the machine fails at (no memory, no disk, no network) is not the batch's fault, and is not caught.

    Attributes
    ----------
    counts : Counter of str
        Failures by learner.
    reports : list of callables taking a str
        Told each failure: which learner, at what, and why. Who knows the place in the log adds itself.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reports: list[Callable[[str], None]] = []

    def run(
        self, name: str, doing: str, work: Callable[_Arguments, object], *args: _Arguments.args, **more: _Arguments.kwargs
    ) -> bool:
        """Let a learner work; False when it failed.

        Parameters
        ----------
        name : str
            The learner.
        doing : str
            What it is asked to do, as in ``"learn from"``.
        work : callable
            What is called with the remaining arguments.

        Raises
        ------
        MemoryError, OSError
            As the learner raises them.
        """
        try:
            work(*args, **more)
        except (MemoryError, OSError):
            raise
        except Exception as error:
            self.counts[name] += 1
            why = f"{type(error).__name__}: {error}"
            for report in self.reports:
                report(f"{name} could not {doing} this record, or the batch that it completed, and goes on without ({why})")
            return False
        return True
