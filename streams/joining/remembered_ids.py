"""Ids of records, for dropping a second record with the same id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from streams.joined import Seen

__all__ = ["RememberedIds"]


class RememberedIds:
    """Remembers ids, by the time at which they were last seen.

    Parameters
    ----------
    capacity : int
        Largest number of ids; the caller drops the oldest beyond it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # A plain dict would search for its first key among all deleted ones.
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, key: str) -> bool:
        return key in self._seen

    @property
    def nbytes(self) -> int:
        """Approximate bytes."""
        return _ID_BYTES * len(self._seen)

    @property
    def oldest(self) -> Seen | None:
        """What is noted of the oldest id; None without one."""
        return next(iter(self._seen.values()), None)

    def add(self, key: str, seen: Seen) -> bool:
        """Remember an id from now on. Return whether it was not remembered."""
        new = self._seen.pop(key, None) is None
        self._seen[key] = seen
        return new

    def drop_surplus(self, *, more: bool = False) -> str | None:
        """Drop the oldest id, if there are more than `capacity`, and return it. With `more`, also below, but not the newest."""
        return self._seen.popitem(last=False)[0] if len(self._seen) > (1 if more else self.capacity) else None

    def expire(self, before: float, step: int) -> Iterator[None]:
        """Drop the ids last seen at `before` or earlier, in elapsed time. Yield after each `step` of them."""
        seen = self._seen
        while seen and next(iter(seen.values()))[1] <= before:
            for key in [key for key, at in islice(seen.items(), step) if at[1] <= before]:
                del seen[key]
            yield


_ID_BYTES = 350
"""Approximate bytes of a remembered id: its text, a tuple and the entry of the dict."""
