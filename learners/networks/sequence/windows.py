"""Windows of users' events: of the events before a request, and of stored sequences for learning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memory.arrays import Ids
from memory.jit import njit
from memory.keyed.history import History, Times
from streams.batch import Requests

__all__ = ["Windows", "before", "gap_rows", "stretches"]


class Windows(NamedTuple):
    """Events of n windows, oldest first and ending with the newest.

    Attributes
    ----------
    item : (n, T) int64
        Hashed ids; 0 where there is no event.
    time : (n, T + 1) float64
        Unix seconds of each event and of what comes after the last one; 0 where there is no event.
    number : (n,) int64
        Events of the user up to the last one, including those before the window.
    """

    item: Ids
    time: Times
    number: Ids


def before(sequences: History, requests: Requests, chunk: int) -> Windows:
    """Return the events before requests: the chunk of the last one, up to it, and the chunk before, T = 2 `chunk`.

    A user's events are counted from 0, and each `chunk` of them is a chunk. The last event is the first one of the request's
    history. The events before it are those stored; those of a user who is not stored are the history's.

    Parameters
    ----------
    sequences : History
        Stored events of users.
    requests : Requests
    chunk : int
        Events of a chunk.
    """
    users = requests.user.size
    windows = Windows(np.zeros((users, 2 * chunk), np.int64), np.zeros((users, 2 * chunk + 1)), np.zeros(users, np.int64))
    windows.time[:, -1] = requests.timestamp
    rings = sequences.rings
    _before(
        sequences.index.find(requests.user),
        (rings["item"], rings["timestamp"], rings["count"]),
        np.ascontiguousarray(requests.history),
        np.ascontiguousarray(requests.history_time),
        chunk,
        windows,
    )
    return windows


def stretches(sequences: History, slot: Ids, end: Ids, chunks: int, chunk: int) -> Windows:
    """Return the last events of stored sequences up to number `end`, with the next one: T = (chunks + 1) * chunk + 1.

    The stretch begins at the start of a chunk, `chunks` before the one that contains event ``end - 2``, the last one that has
    a next one; that chunk may be incomplete. Events that are not stored any more are 0.

    Parameters
    ----------
    sequences : History
    slot : (n,) int64
        Slots of users.
    end : (n,) int64
        Number of events to use, 2 at least.
    chunks, chunk : int
        Chunks before the last one, and events of a chunk.
    """
    length = (chunks + 1) * chunk + 1
    at = (((end - 2) // chunk - chunks) * chunk)[:, None] + np.arange(length)
    rings = sequences.rings
    stored = (at >= 0) & (at < end[:, None]) & (at >= rings["count"][slot][:, None] - sequences.length)
    index = slot[:, None], at % sequences.length
    item = np.where(stored, rings["item"][index], 0)
    time = np.zeros((slot.size, length + 1))
    time[:, :-1] = np.where(stored, rings["timestamp"][index], 0.0)
    return Windows(item, time, end)


def gap_rows(time: Times, rows: int) -> Ids:
    """Return a row of the table of times for each event: floor(log2(seconds to the next event + 1)), and 0 for unknown.

    Parameters
    ----------
    time : (n, T + 1) float64
        As in `Windows`.
    rows : int
        Rows of the table. Row 0 is that of an unknown time, longer times have the last row.
    """
    known = (time[:, :-1] != 0) & (time[:, 1:] != 0)
    gap = np.maximum(time[:, 1:] - time[:, :-1], 0.0)
    return np.where(known, np.minimum(1 + np.log2(gap + 1).astype(np.int64), rows - 1), 0)


# Compiled part.

_Rings = tuple[Ids, Times, Ids]  # items (capacity, L), times (capacity, L), counts (capacity,)


@njit(cache=True, nogil=True)
def _before(slots: Ids, rings: _Rings, history: Ids, history_time: Times, chunk: int, windows: Windows) -> None:
    items, times, counts = rings
    for b in range(slots.size):
        slot, given = slots[b], 0
        while given < history.shape[1] and history[b, given] != 0:
            given += 1
        count, ahead = 0, given
        if slot >= 0 and history.shape[1] == 0:
            count, ahead = counts[slot], 0
        elif slot >= 0 and given:
            count, ahead = _place(items[slot], times[slot], counts[slot], history[b, :given], history_time[b, :given])
        number = count + ahead
        windows.number[b] = number
        if number == 0:
            continue
        size = number if number <= chunk else chunk + (number - 1) % chunk + 1
        for back in range(size):
            at = windows.item.shape[1] - 1 - back
            if back < ahead:
                windows.item[b, at], windows.time[b, at] = history[b, back], history_time[b, back]
                continue
            stored = count - 1 - (back - ahead)
            if stored >= 0 and stored >= counts[slot] - items.shape[1]:
                ring = stored % items.shape[1]
                windows.item[b, at], windows.time[b, at] = items[slot, ring], times[slot, ring]


@njit(cache=True, nogil=True)
def _place(items: Ids, times: Times, count: int, history: Ids, history_time: Times) -> tuple[int, int]:
    """Find where a history stands in a ring: stored events up to it, and how many of its events are newer than those."""
    length = items.size
    for ahead in range(history.size):
        for back in range(min(count, length)):
            at = (count - 1 - back) % length
            if items[at] == history[ahead] and times[at] == history_time[ahead]:
                return count - back, ahead
    return 0, history.size
