"""From item to item: what people liked after what they did.

References
----------
S. Rendle, C. Freudenthaler, L. Schmidt-Thieme, "Factorizing Personalized Markov Chains for Next-Basket Recommendation", WWW
2010: transitions between items, learned from what each user did in order.
M. Ludewig, D. Jannach, "Evaluation of Session-based Recommendation Algorithms", User Modeling and User-Adapted Interaction 28
(2018): sequential rules, pairs of items within a few steps that count less the further apart they are (section 3.1).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from learners.base import Candidates, Exclusion, Retriever
from learners.bounds import bounded
from learners.kernels.flags import set_all
from learners.kernels.pairs import (
    LAST_TAG,
    MANY,
    NOTHING,
    WAYS,
    Pairs,
    Tags,
    add,
    clear,
    collect,
    drop,
    first_tags,
    live_pairs,
    new_pairs,
    purge,
    slot_of,
    slots_of,
)
from learners.kernels.top_k import top_k
from learners.registry import register
from learners.schema import EvidenceColumn
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from memory.jit import njit
from memory.keyed.key_index import KeyIndex
from streams.batch import Batch, Bools, Feedback, Floats, Ids, Requests

__all__ = ["Transitions"]

_Values = npt.NDArray[np.float64]

_SHRINK = 5.0  # added to counts of items, so that a transition seen once from a rare item is no certainty
_LEAST, _LEAST_NEXT = np.float32(0.05), np.float32(0.003)  # added to scores before their logarithm is taken


class _State(NamedTuple):
    """The live arrays, as the compiled functions take them."""

    passed: _Values  # (items,): sum of all transitions from the item, kept or not
    left: _Values  # (items,): times that a liked item came next
    tag: Tags  # (items,)
    dirty: Bools  # (items,)
    mask: int  # the bits of a tag that are the slot
    pairs: Pairs
    following: Pairs
    touched: Tags  # (users, window)
    touched_dirty: Bools  # (users,)


@register("transitions")
class Transitions(Retriever):
    """Items liked soon after the items that the user touched last.

    When a user likes item i, ``pair[j, i]`` and ``count[j]`` grow by 1 / (1 + a) for each other item j among the last `window`
    that the user touched, at age a = 0, 1, ...: a touch is an interaction of any kind, rewarded or not. The score of item c for
    a user is the sum over those items j of ``pair[j, c] / ((1 + a) * sqrt(count[j] + 5))``. Corrections of outcomes that were
    learned before are touches only. Results do not depend on how the stream was cut into batches.

    Beside it, as evidence only, how often c was liked right after the item that was touched last, as a share of all likes right
    after that one, of which it takes there to be 5 more.

    Parameters
    ----------
    capacity : int
        Items remembered; the one longest untouched gives way.
    neighbours : int
        Pairs kept per item, a multiple of 8. A pair belongs to one of neighbours / 8 groups of 8 places, and a new pair takes
        the place of the weakest of its group. Memory is 8 bytes * capacity * (neighbours + next_neighbours).
    next_neighbours : int
        The same, of the items that came right after.
    window : int
        Items remembered per user.
    users : int
        Users remembered; the one whose last touch is oldest gives way.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {
        "capacity": 24,
        "neighbours": 16,
        "next_neighbours": 8,
        "users": 16,
    }
    tunable: ClassVar[Tunable] = {
        "window": Scale(2, 100, log=True),
    }

    def __init__(
        self,
        capacity: Annotated[int, Field(gt=0, le=2**24)] = 20_000,
        neighbours: Annotated[int, Field(gt=0, multiple_of=WAYS)] = 256,
        next_neighbours: Annotated[int, Field(gt=0, multiple_of=WAYS)] = 64,
        window: Annotated[int, Field(gt=0)] = 20,
        users: Annotated[int, Field(gt=0)] = 100_000,
    ) -> None:
        self.items = KeyIndex(capacity)
        tags, mask = first_tags(capacity)
        self.counts = Arrays(passed=np.zeros(capacity), left=np.zeros(capacity), tag=tags)
        self.pairs = new_pairs(capacity, neighbours)
        self.following = new_pairs(capacity, next_neighbours)
        self.users = KeyIndex(users)
        self.touched = Arrays(tag=np.full((users, window), NOTHING, np.int32))  # newest first
        self._state = _State(
            passed=self.counts["passed"],
            left=self.counts["left"],
            tag=self.counts["tag"],
            dirty=self.counts.dirty,
            mask=mask,
            pairs=live_pairs(self.pairs),
            following=live_pairs(self.following),
            touched=self.touched["tag"],
            touched_dirty=self.touched.dirty,
        )

    def learn(self, feedback: Feedback) -> None:
        """Learn transitions to the rows with a positive reward, each with its weight, and take note of touches, in order."""
        user = feedback.user[feedback.request]
        liked = (feedback.reward > 0) & (feedback.weight > 0) & ~feedback.correction
        rows = np.flatnonzero((liked | feedback.touched) & (feedback.item != 0) & (user != 0))
        items, users = self.items.insert(feedback.item[rows]), self.users.insert(user[rows])
        weight = np.where(liked[rows], bounded(feedback.weight[rows]), np.float32(0))
        _learn(*items, *users, weight, feedback.touched[rows], self._state)

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """At most `k` items per request by their score, if above 0; of equal scores, the item in the lower slot first."""
        users, excluded = self.users.find(requests.user), self.items.find(exclude.item)
        slot, request, score = _retrieve(users, excluded, exclude.start, k, self._state)
        return Candidates(self.items.keys[slot], request, score)

    def score(self, batch: Batch) -> Floats:
        """Return scores, (N,) float32; 0 for unknown users and items."""
        return self._scores(batch)[0]

    @property
    def evidence_columns(self) -> tuple[EvidenceColumn, ...]:
        """The score's logarithm, whether there is one, and the logarithm of the share right after the last item touched."""
        return EvidenceColumn("log_score", 0.3, by_activity=True), EvidenceColumn("found"), EvidenceColumn("log_next")

    def evidence(self, batch: Batch) -> Floats:
        """Return log(score + 0.05), whether the score is above 0, and log(share + 0.003), (N, 3) float32."""
        (score, share), evidence = self._scores(batch), np.empty((batch.rows, 3), np.float32)
        np.log(score + _LEAST, out=evidence[:, 0])
        np.greater(score, 0, out=evidence[:, 1])
        np.log(share + _LEAST_NEXT, out=evidence[:, 2])
        return evidence

    def forget(self, users: Ids) -> None:
        """Drop what these users touched last; what they added to the counts is nobody's in particular and stays."""
        slots = self.users.delete(users)
        freed = slots[slots >= 0]
        self.touched["tag"][freed] = NOTHING
        self.touched.mark(freed)

    def remove(self, items: Ids) -> None:
        """Drop these items with all their pairs."""
        slots = self.items.delete(items)
        _retire_all(slots[slots >= 0], self._state)

    def _scores(self, batch: Batch) -> tuple[Floats, Floats]:
        """Scores, and shares right after the item touched last, (N,) float32 each."""
        users, items = self.users.find(batch.user), self.items.find(batch.item)
        score, share = np.zeros(batch.rows, np.float32), np.zeros(batch.rows, np.float32)
        _score(users, items, batch.request, self._state, score, share)
        return score, share


@njit(cache=True, nogil=True)
def _retire_all(slots: Ids, state: _State) -> None:
    for slot in slots:
        _retire(slot, state)


@njit(cache=True, nogil=True)
def _retire(slot: int, state: _State) -> None:
    """Empty a slot, and let nothing refer to it any more."""
    clear(slot, state.pairs, state.tag.size)
    clear(slot, state.following, state.tag.size)
    tag = int(state.tag[slot]) + state.mask + 1
    if tag > LAST_TAG:
        # The slot's tags begin anew, so what has lain there since they were used first must go now.
        tag = slot
        purge(slot, state.pairs, state.mask)
        purge(slot, state.following, state.mask)
        drop(slot, state.touched, state.touched_dirty, state.mask)
    state.passed[slot], state.left[slot], state.tag[slot], state.dirty[slot] = 0, 0, tag, True


@njit(cache=True, nogil=True)
def _learn(item: Ids, item_fresh: Bools, user: Ids, user_fresh: Bools, weight: Floats, touched: Bools, state: _State) -> None:
    """Learn rows in order; those of weight 0 are touches only."""
    for n in range(item.size):
        i, ring = item[n], state.touched[user[n]]
        if item_fresh[n]:
            _retire(i, state)
        if user_fresh[n]:
            ring[:] = NOTHING
            state.touched_dirty[user[n]] = True
        if weight[n] > 0:
            _follow(i, ring, weight[n], state)
        if touched[n]:
            _put_first(state.tag[i], ring, state)
            state.touched_dirty[user[n]] = True


@njit(cache=True, nogil=True)
def _follow(i: int, ring: Tags, weight: float, state: _State) -> None:
    """Count that item i was liked after the items of a ring."""
    age = 0
    for t in ring:
        j = slot_of(t, state.tag, state.mask)
        if j < 0:
            continue
        if j != i:
            gain = weight / (1.0 + age)
            add(j, i, gain, state.pairs, state.tag, state.mask)
            state.passed[j] += gain
            if age == 0:
                add(j, i, weight, state.following, state.tag, state.mask)
                state.left[j] += weight
            state.dirty[j] = True
        age += 1


@njit(cache=True, nogil=True)
def _put_first(tag: int, ring: Tags, state: _State) -> None:
    """Put an item first and close up the others; what is gone falls out."""
    moved, age = tag, 0
    for at in range(ring.size):
        t = ring[at]
        ring[at] = NOTHING
        if t == tag or slot_of(t, state.tag, state.mask) < 0:
            continue
        ring[age], moved = moved, t
        age += 1
    if age < ring.size:
        ring[age] = moved


@njit(cache=True, nogil=True)
def _divisor(j: int, age: int, state: _State) -> float:
    """What the weight of a pair that item j keeps is divided by, at this age."""
    return float((1.0 + age) * np.sqrt(state.passed[j] + _SHRINK))


@njit(cache=True, nogil=True)
def _retrieve(users: Ids, excluded: Ids, start: Ids, k: int, state: _State) -> tuple[Ids, Ids, Floats]:
    capacity = state.tag.size
    groups = state.pairs.tag.shape[0] // capacity
    total, hidden = np.zeros(capacity, np.float32), np.zeros(capacity, np.bool_)
    reached, scores = np.empty(capacity + 1, np.int64), np.empty(capacity, np.float32)
    room = users.size * max(min(k, capacity), 0)
    slot, request, score = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
    touched = np.empty(state.touched.shape[1], np.int64)  # slots of the user's last items, newest first
    rows = 0
    for b in range(users.size):
        if users[b] < 0:
            continue
        found = 0
        for age in range(slots_of(state.touched[users[b]], state.tag, state.mask, touched)):
            j = touched[age]
            divisor = _divisor(j, age, state)
            for row in range(j * groups, (j + 1) * groups):
                for way in range(WAYS):
                    c = slot_of(state.pairs.tag[row, way], state.tag, state.mask)
                    if c < 0:
                        continue
                    gain = np.float32(state.pairs.weight[row, way] / divisor)
                    # Counted without a branch, which could not be predicted.
                    reached[found] = c
                    found += (total[c] == 0) & (gain > 0)
                    total[c] += gain
        # Items are left out here, not above: an item is reached by many pairs.
        own = excluded[start[b] : start[b + 1]]
        set_all(own, True, hidden)
        for at in range(found):
            c = reached[at]
            scores[at] = np.float32(0.0) if hidden[c] else total[c]
            total[c] = 0
        set_all(own, False, hidden)
        for at in top_k(scores[:found], reached[:found], k):
            slot[rows], request[rows], score[rows] = reached[at], b, scores[at]
            rows += 1
    return slot[:rows], request[:rows], score[:rows]


@njit(cache=True, nogil=True)
def _score(users: Ids, items: Ids, request: Ids, state: _State, score: Floats, share: Floats) -> None:
    groups, next_groups = state.pairs.tag.shape[0] // state.tag.size, state.following.tag.shape[0] // state.tag.size
    touched = np.empty(state.touched.shape[1], np.int64)  # slots of the user's last items, newest first
    many = items.size >= MANY
    total, wanted = np.zeros(state.tag.size if many else 0, np.float32), np.zeros(state.tag.size if many else 0, np.bool_)
    first = 0
    while first < items.size:
        user, stop = users[request[first]], first + 1
        while stop < items.size and request[stop] == request[first]:
            stop += 1
        count = slots_of(state.touched[user], state.tag, state.mask, touched) if user >= 0 else 0
        for n in range(first, stop if count else first):
            c = items[n]
            row = touched[0] * next_groups + c % next_groups
            for way in range(WAYS if c >= 0 else 0):
                if state.following.tag[row, way] == state.tag[c]:
                    share[n] = state.following.weight[row, way] / (state.left[touched[0]] + _SHRINK)
        if stop - first < MANY:
            for n in range(first, stop):
                c = items[n]
                for age in range(count if c >= 0 else 0):
                    row, divisor = touched[age] * groups + c % groups, _divisor(touched[age], age, state)
                    for way in range(WAYS):
                        if state.pairs.tag[row, way] == state.tag[c]:
                            score[n] += np.float32(state.pairs.weight[row, way] / divisor)
        else:
            set_all(items[first:stop], True, wanted)
            for age in range(count):
                divisor = _divisor(touched[age], age, state)
                for row in range(touched[age] * groups, (touched[age] + 1) * groups):
                    for way in range(WAYS):
                        c = slot_of(state.pairs.tag[row, way], state.tag, state.mask)
                        if c >= 0 and wanted[c]:
                            total[c] += np.float32(state.pairs.weight[row, way] / divisor)
            collect(items[first:stop], wanted, total, score[first:stop])
        first = stop
