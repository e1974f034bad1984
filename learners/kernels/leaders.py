"""The highest of many scores that change a few at a time, found without looking at all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from learners.kernels.flags import set_all
from learners.kernels.top_k import top_k
from memory.jit import njit
from streams.batch import Bools, Ids

__all__ = ["Leaders"]

_Scores = npt.NDArray[np.floating[Any]]

ROOM = 2048
"""Slots, at least, that are kept when all scores were looked at. Twice as many are collected until the best are kept again."""

_SIZE, _SLOT = 0, 1


class Leaders:
    """Finds what `top_k` finds among all scores, from a short list of candidates.

    The list has every slot whose score reaches a floor. All scores are looked at only when too few candidates reach the floor:
    at first, after `reset`, and after the scores of most candidates have fallen. It is derived from the scores and is no state.

    Parameters
    ----------
    score : (n,) float
        The live scores. Those of 0 or less are never found.
    """

    def __init__(self, score: _Scores) -> None:
        self._score = score
        self._all: Ids = np.arange(score.size)
        self._listed: Bools = np.zeros(score.size, np.bool_)
        self._hidden: Bools = np.zeros(score.size, np.bool_)
        self._slots: Ids = np.empty(2 * ROOM, np.int64)
        self._ends: Ids = np.array([0, -1])  # candidates in the list, and the last slot that counts among those at the floor
        self._floor = np.zeros(1, score.dtype)
        self._complete = False

    def reset(self) -> None:
        """Forget the candidates, because any score may have changed."""
        self._complete = False

    def changed(self, slots: Ids) -> None:
        """Note that the scores of slots (n,) have changed; -1 for none, repeats allowed."""
        if self._complete:
            _note(slots, self._score, self._listed, self._slots, self._ends, self._floor)

    def top(self, k: int) -> Ids:
        """Return the slots of the `k` highest scores, highest first. Equal scores are in the order of the slots."""
        if k <= 0:
            return np.empty(0, np.int64)
        if self._complete:
            found = _best(k, self._score, self._slots, self._ends)
            if self._ends[_SLOT] < 0 or (found.size == k and self._reaches(int(found[-1]))):
                return found
        self._look_at_all(2 * k)
        return _best(k, self._score, self._slots, self._ends)

    def without(self, excluded: Ids, start: Ids, k: int) -> tuple[Ids, Ids]:
        """Return the slots of the `k` highest scores of each request, highest first, without those that it excludes.

        Parameters
        ----------
        excluded : (M,) int64
            Slots that request b excludes: ``excluded[start[b]:start[b + 1]]``; -1 for none.
        start : (B + 1,) int64
        k : int

        Returns
        -------
        slot, request : (n,) int64
        """
        longest = int(np.diff(start).max(initial=0))
        top = self.top(min(self._score.size, k + longest) if k > 0 else 0)
        return _without(top, excluded, start, k, self._hidden)

    def _reaches(self, slot: int) -> bool:
        score, floor = self._score[slot], self._floor[0]
        return bool(score > floor or (score == floor and slot <= self._ends[_SLOT]))

    def _look_at_all(self, wanted: int) -> None:
        room = max(wanted, ROOM)
        if self._slots.size < 2 * room:
            self._slots = np.empty(2 * room, np.int64)
        best = top_k(self._score, self._all, room)
        self._listed[:] = False
        self._listed[best] = True
        self._slots[: best.size] = best
        full = best.size == room
        self._floor[0] = self._score[best[-1]] if full else 0
        self._ends[:] = best.size, best[-1] if full else -1
        self._complete = True


@njit(cache=True, nogil=True)
def _note(slots: Ids, score: _Scores, listed: Bools, kept: Ids, ends: Ids, floor: _Scores) -> None:
    for slot in slots:
        if slot < 0 or listed[slot]:
            continue
        if score[slot] > floor[0] or (score[slot] == floor[0] and slot <= ends[_SLOT]):
            if ends[_SIZE] == kept.size:
                _drop_half(score, listed, kept, ends, floor)
                if score[slot] < floor[0] or (score[slot] == floor[0] and slot > ends[_SLOT]):
                    continue
            kept[ends[_SIZE]] = slot
            listed[slot] = True
            ends[_SIZE] += 1


@njit(cache=True, nogil=True)
def _drop_half(score: _Scores, listed: Bools, kept: Ids, ends: Ids, floor: _Scores) -> None:
    """Keep the better half of a full list. The floor rises to the last of them, unless that one is below the floor already."""
    best = _best(kept.size // 2, score, kept, ends)
    listed[kept] = False
    size = 0
    for slot in best:
        if score[slot] > floor[0] or (score[slot] == floor[0] and slot <= ends[_SLOT]):
            kept[size] = slot
            listed[slot] = True
            size += 1
    if size == kept.size // 2:
        floor[0], ends[_SLOT] = score[kept[size - 1]], kept[size - 1]
    ends[_SIZE] = size


@njit(cache=True, nogil=True)
def _best(k: int, score: _Scores, kept: Ids, ends: Ids) -> Ids:
    slots = kept[: ends[_SIZE]]
    return slots[top_k(score[slots], slots, k)]


@njit(cache=True, nogil=True)
def _without(top: Ids, excluded: Ids, start: Ids, k: int, hidden: Bools) -> tuple[Ids, Ids]:
    """See `Leaders.without`. `hidden` is False for every slot, before and after."""
    requests = start.size - 1
    room = requests * max(min(k, top.size), 0)
    slot, request = np.empty(room, np.int64), np.empty(room, np.int64)
    rows = 0
    for b in range(requests):
        own = excluded[start[b] : start[b + 1]]
        set_all(own, True, hidden)
        end = rows + k
        for s in top:
            if rows >= end:
                break
            if not hidden[s]:
                slot[rows], request[rows] = s, b
                rows += 1
        set_all(own, False, hidden)
    return slot[:rows], request[:rows]
