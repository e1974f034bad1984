"""Flags of items, one for each slot, that are set for a moment."""

from __future__ import annotations

from memory.jit import njit
from streams.batch import Bools, Ids

__all__ = ["set_all"]


@njit(cache=True, nogil=True)
def set_all(items: Ids, value: bool, flags: Bools) -> None:
    """Set the flags of items (slots, -1 for none). To reset a few takes less time than new flags for all items."""
    for c in items:
        if c >= 0:
            flags[c] = value
