"""Ids of rankings that were made lately: an id names one impression, so a second one with it is refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from learners.features import hash_id

__all__ = ["RequestIds"]


class RequestIds:
    """Remembers the ids of the last impressions that this process ranked or accepted. For one thread.

    Parameters
    ----------
    capacity : int
        Ids at most; the oldest leaves first.
    in_log : callable
        Whether the part of the log that this process remembers has an impression with an id, also from before the start.
    """

    def __init__(self, capacity: int, in_log: Callable[[str], bool]) -> None:
        self._capacity, self.in_log = capacity, in_log
        self._ids: OrderedDict[int, None] = OrderedDict()

    def claim(self, request_id: str) -> bool:
        """Note an id. Return whether it was not noted already."""
        key = hash_id(request_id)
        if key in self._ids:
            return False
        self._ids[key] = None
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)
        return True

    def release(self, request_id: str) -> None:
        """Remove an id that was claimed for an impression that was not made."""
        self._ids.pop(hash_id(request_id), None)

    def memory(self) -> dict[str, int]:
        """Approximate bytes, for `service.process.runtime.Runtime.watch_memory`."""
        return {"request_ids": _ID_BYTES * len(self._ids)}


_ID_BYTES = 150
"""Approximate bytes of an id: a number and its entry."""
