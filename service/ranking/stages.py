"""The learners of one role, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from memory.stateful import Stateful

__all__ = ["Stages"]

_Stage = TypeVar("_Stage", bound=Stateful)


class Stages(Stateful, Generic[_Stage]):
    """Learners of one role by name, in config order."""

    def __init__(self, named: Mapping[str, _Stage]) -> None:
        self.named = dict(named)

    def children(self) -> Iterator[tuple[str, Stateful]]:
        """The learners. A dot in a name (of a module) would separate two levels, so it becomes a slash."""
        for name, stage in self.named.items():
            yield name.replace(".", "/"), stage

    def __iter__(self) -> Iterator[tuple[str, _Stage]]:
        return iter(self.named.items())
