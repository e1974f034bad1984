"""What the world model knows of a user: interest, satiation, and the time since the last request."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learners.rerankers.losse_ftl.groups import Groups
from memory.arrays import Arrays, Floats, Ids
from memory.jit import njit
from memory.keyed.table import Column, Table
from memory.stateful import Stateful

__all__ = ["Step", "UserStates", "input_width", "inputs", "state_width"]

Values = npt.NDArray[np.float64]

_SCANNED = 8
"""Users looked at after each request for sessions that have ended."""


def state_width(dim: int, groups: int) -> int:
    """Length of a state: interest (d,), satiation (G,), and the gap."""
    return dim + groups + 1


def input_width(dim: int) -> int:
    """Length of an input: interest, satiation in the space of vectors, and action (d,) each, and four numbers."""
    return 3 * dim + 4


class Step(NamedTuple):
    """A request whose consequences are known.

    Attributes
    ----------
    x : (S,) float32
        Input of state and action.
    reward, goes_on : float
        Label of the row, and whether the user made another request in the same session.
    change : (state_width,) float64 or None
        State at the next request minus that at this one; None if there was none, or if the groups have changed since.
    weight : float
        Weight of the row.
    """

    x: Floats
    reward: float
    goes_on: float
    change: Values | None
    weight: float


class UserStates(Stateful):
    """States of users, and of each user the last request, whose consequences are not known before the next one.

    Interest is a mean of the vectors of items, each times how much more than the average it was liked; ``share`` is the weight
    of a new request. Satiation of a group is the share of the latest requests that showed it; it fades with each request and
    with time. The gap is the logarithm of the time since the last request, -1 at no time and 1 after a whole `session`.

    Parameters
    ----------
    capacity : int
        Users. The least recently active one is evicted.
    dim, groups : int
        Length d of vectors, number G of groups.
    share : float
        Weight of a request in the interest.
    keep : float
        Satiation that is left after a request.
    recovery : float
        Seconds after which half of the satiation is left.
    session : float
        Seconds without a request after which a session has ended.
    """

    def __init__(
        self, capacity: int, dim: int, groups: int, share: float, keep: float, recovery: float, session: float
    ) -> None:
        self.users = Table(
            capacity,
            interest=Column(dim),
            satiation=Column(groups),
            time=Column(None, np.float64, -np.inf),
            epoch=Column(None, np.int32),
            waits=Column(None, np.bool_, private=True),
            x=Column(input_width(dim), private=True),
            state=Column(state_width(dim, groups), private=True),
            reward=Column(None, private=True),
            weight=Column(None, private=True),
        )
        self.clock = Arrays(hand=np.zeros(1, np.int64), private=["hand"])
        self._share, self._keep, self._recovery, self._session = share, keep, recovery, session
        self._width = state_width(dim, groups)

    def current(self, users: Ids, now: Values, groups: Groups) -> Floats:
        """States of users (B,) at times (B,), (B, state_width) float32. A stranger has neither interest nor satiation."""
        made = np.zeros((users.size, self._width), np.float32)
        table, settings = self.users, (self._recovery, self._session)
        tables = (table["interest"], table["satiation"], table["time"], table["epoch"])
        _states(table.find(users), now, *tables, groups.centroids.born, *settings, made)
        return made

    def advance(
        self,
        user: int,
        now: float,
        groups: Groups,
        shown: Ids,
        vectors: Floats,
        liked: Floats,
        row: int,
        label: float,
        weight: float,
    ) -> Step | None:
        """Learn a request of a user; return the consequences of the user's request before, if they are known now.

        Parameters
        ----------
        shown : (n,) int64
            Groups of the rows, -1 for none.
        vectors : (n, d) float32
            Vectors of the rows' items.
        liked : (n,) float32
            How much more than the average each was liked.
        row : int
            The row that stands for the request's action.
        label, weight : float
            Label and weight of that row.
        """
        key, table = np.array([user]), self.users
        state = self.current(key, np.array([now]), groups)
        slot = int(table.insert(key)[0])
        step = None
        if table["waits"][slot]:
            goes_on = now - table["time"][slot] <= self._session
            change = None
            if goes_on and table["epoch"][slot] == groups.epoch:
                change = state[0].astype(np.float64) - table["state"][slot]
            step = self._step(slot, goes_on, change)
        table["interest"][slot] *= np.float32(1.0 - self._share)
        table["interest"][slot] += np.float32(self._share) * (liked @ vectors)
        satiation, dim = table["satiation"][slot], vectors.shape[1]
        satiation[:] = state[0, dim:-1] * np.float32(self._keep)
        known = shown[shown >= 0]
        np.add.at(satiation, known, np.float32((1.0 - self._keep) / shown.size))
        table["time"][slot], table["epoch"][slot] = max(now, table["time"][slot]), groups.epoch
        table["waits"][slot] = shown[row] >= 0
        if shown[row] >= 0:
            table["x"][slot] = inputs(state, shown[row : row + 1], groups.centroids.vectors)[0]
            table["state"][slot], table["reward"][slot], table["weight"][slot] = state[0], label, weight
        return step

    def ended(self, now: float) -> Step | None:
        """Consequences of the last request of a session that has ended, if one is found among a few users that take turns."""
        hand, used = self.clock["hand"], len(self.users)
        self.clock.mark()
        for _ in range(min(_SCANNED, used)):
            slot = int(hand[0]) % self.users.capacity
            hand[0] = (slot + 1) % used
            if self.users["waits"][slot] and now - self.users["time"][slot] > self._session:
                self.users["waits"][slot] = False
                self.users.dirty[slot] = True
                return self._step(slot, False, None)
        return None

    def forget(self, users: Ids) -> None:
        """Delete the states of these users."""
        self.users.delete(users)

    def _step(self, slot: int, goes_on: bool, change: Values | None) -> Step:
        table = self.users
        return Step(table["x"][slot].copy(), float(table["reward"][slot]), float(goes_on), change, float(table["weight"][slot]))


def inputs(states: Floats, group: Ids, centroids: Values) -> Floats:
    """Inputs (n, S) float32 of states (n, state_width) and the groups (n,) that are shown in them.

    All inputs have about unit variance: vectors of unit length times the root of their length, satiation of the group (0 to 1)
    times 4. Products of state and action that matter in any world are inputs, too.
    """
    made = np.empty((len(states), input_width(centroids.shape[1])), np.float32)
    _inputs(states, group, centroids, made)
    return made


# Compiled part.


@njit(cache=True, nogil=True)
def _states(slots, now, interest, satiation, time, epoch, born, recovery, session, made):  # type: ignore[no-untyped-def]
    dim, groups = interest.shape[1], satiation.shape[1]
    for n in range(slots.size):
        slot = slots[n]
        made[n, dim + groups] = 1.0
        if slot < 0 or time[slot] == -np.inf:
            continue
        since = max(now[n] - time[slot], 0.0)
        length = 0.0
        for d in range(dim):
            length += interest[slot, d] * interest[slot, d]
        for d in range(dim):
            # A little interest is not a certain one.
            made[n, d] = interest[slot, d] / (np.sqrt(length) + 0.05)
        fade = 0.5 ** (since / recovery)
        for g in range(groups):
            made[n, dim + g] = satiation[slot, g] * fade if epoch[slot] >= born[g] else 0.0
        made[n, dim + groups] = 2.0 * np.log1p(min(since, session)) / np.log1p(session) - 1.0


@njit(cache=True, nogil=True)
def _inputs(states, group, centroids, made):  # type: ignore[no-untyped-def]
    groups, dim = centroids.shape
    root = np.sqrt(dim)
    for n in range(group.size):
        own = group[n]
        affinity = total = 0.0
        for d in range(dim):
            made[n, d] = states[n, d] * root
            made[n, dim + d] = 0.0
            made[n, 2 * dim + d] = centroids[own, d] * root
            affinity += states[n, d] * centroids[own, d]
        for g in range(groups):
            tired = states[n, dim + g]
            total += tired
            for d in range(dim):
                made[n, dim + d] += tired * centroids[g, d] * root
        made[n, 3 * dim] = affinity * root
        made[n, 3 * dim + 1] = 4.0 * states[n, dim + own]
        made[n, 3 * dim + 2] = 2.0 * total - 1.0
        made[n, 3 * dim + 3] = states[n, dim + groups]
