"""What everybody likes at the moment, at several speeds at once: decayed counts with half-lives in likes and in seconds.

References
----------
G. Cormode, V. Shkapenyuk, D. Srivastava, B. Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009:
instead of shrinking every count as time passes, each event is counted with a weight that grows (section III).
E. Cohen, M. Strauss, "Maintaining Time-Decaying Stream Aggregates", Journal of Algorithms 59 (2006): what a half-life forgets,
and why no single one is right for all streams.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from learners.base import Candidates, Exclusion, Retriever
from learners.bounds import bounded
from learners.kernels.heads import (
    BLOCK,
    Heads,
    Keys,
    find,
    lift,
    live_heads,
    new_blocks,
    new_ends,
    places,
    take_out,
    walk,
)
from learners.registry import register
from learners.schema import EvidenceColumn
from memory.arrays import Arrays
from memory.jit import njit
from memory.keyed.key_index import KeyIndex
from streams.batch import Batch, Bools, Feedback, Floats, Ids, Requests, Times

__all__ = ["Trending"]

_Values = npt.NDArray[np.float64]

_LEAST = 0.02  # added to counts before their logarithm is taken
_GONE = -40.0  # a count of 2 ** this is nothing beside _LEAST
_STRAYS = 20  # rows in succession that must be so far from the latest before the clock follows them, ahead or back
_YEAR = 31_536_000.0
_LIKES, _LATEST, _ASTRAY, _BEGIN = 0, 1, 2, 3  # of the clock: likes so far, time of the last, rows astray, time of the first
_LONGEST_SOURCE = 1024.0  # half-life in likes
_HOUR, _DAY = 3600.0, 86_400.0


class _State(NamedTuple):
    """The live arrays, as the compiled functions take them."""

    key: (
        Keys  # (items, speeds): log2(decayed count) + now / half-life, which does not change as time passes; or the whole count
    )
    like: _Values  # (items, 2): likes so far, and time, at the item's last like; -1, 0: never liked
    first: _Values  # (items, 2): the same when the item was first heard of; -1, 0: never
    dirty: Bools  # (items,)
    clock: _Values  # (4,)
    clock_dirty: Bools  # (1,)
    half_life: _Values  # (speeds,): in likes, then in seconds
    in_likes: int  # how many of them are in likes
    head_of: Ids  # (speeds,): number of the speed's head, or -1
    heads: Heads


@register("trending")
class Trending(Retriever):
    """Items by their number of positive rewards (likes), decayed at several speeds.

    A count of an item is halved by each half-life: in likes of any item, or in seconds of event time up to the last like. The
    counts are evidence, for a reranker to weigh; which of them is right is not known beforehand and differs between streams.

    Candidates come from some of the speeds, the sources: half-lives of at most 1,024 likes and of infinitely many; and of those
    in seconds the one closest to an hour and the one closest to a day, by their ratio. For each source the `head` items with
    the highest counts are kept in exact order; where items gave way, a head may be shorter, down to half. They are retrieved
    place by place: the first of each source, then the second of each. The score is 1 / (1 + p) for an item whose best place in
    any source is p = 0, 1, ..., and 0 for an item in none.

    Results do not depend on how the stream was cut into batches. A like that comes late counts as of its own time. A date
    further from the latest one than the longest half-life in seconds (a year by default) is taken for a mistake, until 20 likes
    in succession make it: further ahead, it counts as the latest.

    Parameters
    ----------
    capacity : int
        Items remembered; the one longest not heard of gives way. Memory is 8 bytes * capacity * (5 + number of speeds).
    events : tuple of float
        Half-lives in likes, all different; inf: no decay.
    seconds : tuple of float
        Half-lives in seconds, all different.
    head : int
        Places kept in order for each source, a multiple of 16.

    Raises
    ------
    ValueError
        When a half-life is given twice, or none of them is a source.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {"capacity": 24, "head": 16}

    def __init__(
        self,
        capacity: Annotated[int, Field(gt=0)] = 100_000,
        events: tuple[Annotated[float, Field(gt=0)], ...] = (16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, np.inf),
        seconds: tuple[Annotated[float, Field(gt=0)], ...] = (600.0, _HOUR, 21_600.0, _DAY, 604_800.0, 2_592_000.0, _YEAR),
        head: Annotated[int, Field(gt=0, multiple_of=BLOCK)] = 1024,
    ) -> None:
        for name, given in (("events", events), ("seconds", seconds)):
            if len(set(given)) < len(given):
                raise ValueError(f"{name}: {given} has a half-life twice; give each of them once")
        sources = _sources(events, seconds)
        if not sources.size:
            raise ValueError(
                f"events: {events} gives no candidates without seconds; add a half-life of at most 1024, inf, or one in seconds"
            )
        self.events, self.seconds = events, seconds
        half_life = np.array([*events, *seconds], np.float64)
        finite = [given for given in seconds if given < np.inf]
        self._far = max(finite, default=_YEAR)
        self.items = KeyIndex(capacity)
        self.counts = Arrays(
            key=np.full((capacity, half_life.size), -np.inf),
            like=np.tile([-1.0, 0.0], (capacity, 1)),
            first=np.tile([-1.0, 0.0], (capacity, 1)),
        )
        self.clock = Arrays(clock=np.array([[0.0, -np.inf, 0.0, np.inf]]))
        self.blocks, self.ends = new_blocks(sources.size, head), new_ends(sources.size)
        head_of = np.full(half_life.size, -1)
        head_of[sources] = np.arange(sources.size)
        self._state = _State(
            key=self.counts["key"],
            like=self.counts["like"],
            first=self.counts["first"],
            dirty=self.counts.dirty,
            clock=self.clock["clock"][0],
            clock_dirty=self.clock.dirty,
            half_life=half_life,
            in_likes=len(events),
            head_of=head_of,
            heads=live_heads(sources, self.blocks, self.ends),
        )

    def learn(self, feedback: Feedback) -> None:
        """Count the rows with a positive reward, each with its weight, and note when items are heard of first, in order."""
        rows = np.flatnonzero(feedback.item)
        time = feedback.timestamp[feedback.request[rows]]
        weight = np.where(feedback.reward[rows] > 0, bounded(feedback.weight[rows]).astype(np.float64), 0.0)
        _learn(*self.items.insert(feedback.item[rows]), time, weight, self._far, self._state)

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """At most `k` items per request, place by place of the sources' heads; of one place, in the order of the sources."""
        excluded = self.items.find(exclude.item)
        slot, request, score = walk(self.items.capacity, excluded, exclude.start, k, self._state.heads)
        return Candidates(self.items.keys[slot], request, score)

    def score(self, batch: Batch) -> Floats:
        """Return 1 / (1 + best place), (N,) float32; 0 for items in no head."""
        score = np.zeros(batch.rows, np.float32)
        _score(self.items.find(batch.item), self._state, score)
        return score

    @property
    def evidence_columns(self) -> tuple[EvidenceColumn, ...]:
        """Logarithms of the counts at each speed, then how long ago the last like and the first notice were."""
        counts = [EvidenceColumn(f"log_events_{h:.10g}", 0.05, by_activity=h in (64.0, np.inf)) for h in self.events]
        counts += [EvidenceColumn(f"log_seconds_{h:.10g}", 0.05) for h in self.seconds]
        ages = ("since_positive", "since_first", "minutes_since_positive", "minutes_since_first")
        return (*counts, *map(EvidenceColumn, ages))

    def evidence(self, batch: Batch) -> Floats:
        """Return what `evidence_columns` names, (N, speeds + 4) float32.

        Of counts x, log(x + 0.02). Of the likes n and the minutes n since then, log(1 + n) / 10; for an item never liked, or
        unknown, since the first like of any. Now is the time of the last like, not of the request: a service that is asked
        about a recording, or after a quiet night, would see ages that it has never learned from.
        """
        evidence = np.empty((batch.rows, self._state.half_life.size + 4), np.float32)
        _evidence(self.items.find(batch.item), self._state, evidence)
        return evidence

    def remove(self, items: Ids) -> None:
        """Drop the counts of these items."""
        slots = self.items.delete(items)
        _retire_all(slots[slots >= 0], self._state)


def _sources(events: tuple[float, ...], seconds: tuple[float, ...]) -> Ids:
    """Numbers of the speeds that candidates come from, ascending."""
    numbers = {n for n, h in enumerate(events) if h <= _LONGEST_SOURCE or h == np.inf}
    for wanted in (_HOUR, _DAY) if seconds else ():
        numbers.add(len(events) + int(np.argmin(np.abs(np.log(np.array(seconds) / wanted)))))
    return np.array(sorted(numbers), np.int64)


@njit(cache=True, nogil=True)
def _retire_all(slots: Ids, state: _State) -> None:
    for slot in slots:
        _retire(slot, state)


@njit(cache=True, nogil=True)
def _retire(slot: int, state: _State) -> None:
    """Let nothing be known of the item in a slot."""
    for head in range(state.heads.order.size):
        take_out(head, slot, state.key, state.heads)
    state.key[slot] = -np.inf
    state.like[slot, 0] = state.first[slot, 0] = -1.0
    state.like[slot, 1] = state.first[slot, 1] = 0.0
    state.dirty[slot] = True


@njit(cache=True, nogil=True)
def _learn(item: Ids, fresh: Bools, time: Times, weight: _Values, far: float, state: _State) -> None:
    for n in range(item.size):
        slot = item[n]
        if fresh[n]:
            _retire(slot, state)
            state.first[slot, 0], state.first[slot, 1] = state.clock[_LIKES], time[n]
        if weight[n] > 0:
            _count(slot, weight[n], _tick(time[n], far, state), state)


@njit(cache=True, nogil=True)
def _tick(now: float, far: float, state: _State) -> float:
    """Advance the clock by one like; returns the time that the like counts at."""
    clock = state.clock
    if clock[_LATEST] == -np.inf:
        clock[_LATEST] = clock[_BEGIN] = now
    leap = now - clock[_LATEST]
    clock[_ASTRAY] = clock[_ASTRAY] + 1.0 if abs(leap) > far else 0.0
    if clock[_ASTRAY] >= _STRAYS:
        clock[_ASTRAY] = 0.0
        if leap < 0.0:
            # The clock had been ahead: what has been counted was counted just now.
            _turn_back(now, leap, state)
    elif clock[_ASTRAY] > 0.0 and leap > 0.0:
        now = clock[_LATEST]
    clock[_LATEST] = max(clock[_LATEST], now)
    clock[_LIKES] += 1.0
    state.clock_dirty[0] = True
    return now


@njit(cache=True, nogil=True)
def _turn_back(now: float, leap: float, state: _State) -> None:
    """Move all that has been counted by `leap` seconds (below 0), and nothing to after `now`."""
    for speed in range(state.in_likes, state.half_life.size):
        shift, head = leap / state.half_life[speed], state.head_of[speed]
        state.key[:, speed] += shift
        if head >= 0:
            state.heads.floor[head] += shift
            state.heads.ends_dirty[head] = True
    for slot in range(state.like.shape[0]):
        state.like[slot, 1] = min(state.like[slot, 1], now)
        state.first[slot, 1] = min(state.first[slot, 1], now)
    state.clock[_LATEST], state.clock[_BEGIN] = now, min(state.clock[_BEGIN], now)
    state.dirty[:] = True


@njit(cache=True, nogil=True)
def _count(slot: int, weight: float, now: float, state: _State) -> None:
    likes, power = state.clock[_LIKES], np.log2(weight)
    for speed in range(state.half_life.size):
        head, half_life, key = state.head_of[speed], state.half_life[speed], state.key[slot, speed]
        at = find(head, slot, state.key, state.heads) if head >= 0 else -1
        if half_life == np.inf:
            key = max(key, 0.0) + weight
        else:
            gain = power + (likes if speed < state.in_likes else now) / half_life
            if key < gain:
                key, gain = gain, key
            key += np.log2(1.0 + np.exp2(gain - key))
        state.key[slot, speed] = key
        if head >= 0:
            lift(head, at, slot, state.key, state.heads)
    state.like[slot, 0], state.like[slot, 1] = likes, max(state.like[slot, 1], now)
    state.dirty[slot] = True


@njit(cache=True, nogil=True)
def _score(items: Ids, state: _State, score: Floats) -> None:
    best = places(state.key.shape[0], state.heads)
    for n in range(items.size):
        if items[n] >= 0 and best[items[n]] > 0:
            score[n] = 1.0 / best[items[n]]


@njit(cache=True, nogil=True)
def _log_ages(ago: float, seconds: float) -> tuple[float, float]:
    """Logarithms of an age in likes and in seconds."""
    return float(np.log1p(ago) / 10.0), float(np.log1p(max(seconds, 0.0) / 60.0) / 10.0)


@njit(cache=True, nogil=True)
def _evidence(items: Ids, state: _State, evidence: Floats) -> None:
    likes, latest, begin = state.clock[_LIKES], state.clock[_LATEST], state.clock[_BEGIN]
    speeds, nothing = state.half_life.size, np.log(_LEAST)
    now = np.empty(speeds)
    for speed in range(speeds):
        now[speed] = (likes if speed < state.in_likes else latest) / state.half_life[speed]
    never = _log_ages(likes + 1.0, latest - begin)
    for n in range(items.size):
        slot = items[n]
        for speed in range(speeds):
            key, value = (state.key[slot, speed] if slot >= 0 else -np.inf), nothing
            if state.half_life[speed] == np.inf:
                value = np.log(key + _LEAST) if key > 0.0 else nothing
            elif key > -np.inf and key - now[speed] > _GONE:
                value = np.log(np.exp2(key - now[speed]) + _LEAST)
            evidence[n, speed] = value
        for column, since in ((0, state.like), (1, state.first)):
            known = slot >= 0 and since[slot, 0] >= 0.0
            ages = _log_ages(likes - since[slot, 0], latest - since[slot, 1]) if known else never
            evidence[n, speeds + column], evidence[n, speeds + 2 + column] = ages
