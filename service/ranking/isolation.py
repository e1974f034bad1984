"""Keeps a failing learner from harming the others: it skips the input, and the failure is counted and reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ParamSpec

__all__ = ["Isolation"]

_Arguments = ParamSpec("_Arguments")


class Isolation:
    """Calls learners with data from the log, and survives their failures.

    An ordinary exception counts as the learner's reaction to its input. Learners are deterministic: the same learner fails on
    the same batch in a replay and after a restart, and the state is the same everywhere. Failures of the machine (memory,
    disk, network) are not caused by the batch, and are not caught.

    Attributes
    ----------
    counts : Counter of str
        Failures by learner.
    reports : list of callables taking a str
        Called with a description of each failure. Code that knows the position in the log adds its own callable.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reports: list[Callable[[str], None]] = []

    def run(
        self, name: str, doing: str, work: Callable[_Arguments, object], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> bool:
        """Call a learner; return False when it failed.

        Parameters
        ----------
        name : str
            Name of the learner.
        doing : str
            Verb for the report, as in ``"learn from"``.
        work : callable
            Called with the remaining arguments.

        Raises
        ------
        MemoryError, OSError
            When the learner raises them.
        """
        try:
            work(*args, **kwargs)
        except (MemoryError, OSError):
            raise
        except Exception as error:
            self.counts[name] += 1
            why = f"{type(error).__name__}: {error}"
            for report in self.reports:
                report(f"{name} could not {doing} this record, or the batch that it completed; {name} skips it ({why})")
            return False
        return True
