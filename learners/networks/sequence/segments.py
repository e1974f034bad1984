"""Mean context states of segments of users, for users who have no state of their own yet."""

from __future__ import annotations

import numpy as np

from learners.lookups import Catalogues
from learners.networks.sequence.absorbing import ContextStates
from learners.schema import Schema
from memory.arrays import Bools, Ids
from memory.keyed.table import Column, Table
from memory.stateful import Stateful

__all__ = ["Segments"]

ALL, NONE = "all", "none"

_EVERYBODY = 1
"""Key of the segment of users of whom nothing is known, and of all users without an attribute to tell them apart."""

_SLOWEST = 0.01
"""Weight of a new state in the mean, at least. The states of long ago were made by other parameters."""


class Segments(Stateful):
    """Running means of the states of users who share an attribute.

    Parameters
    ----------
    by : str
        ``user.<attribute>``: users with the same value are a segment; ``all``: all users are one; ``none``: there are none.
    capacity : int
        Maximum number of segments. The one whose mean changed the longest time ago is evicted.
    size : int
        Numbers of a state.
    """

    def __init__(self, by: str, capacity: int, size: int) -> None:
        self._by, self._column = by, -1
        self._users: list[Catalogues] = []
        used = 1 if by in (ALL, NONE) else capacity
        self.means = Table(used, vectors=Column(size), fresh=Column(None, fill=1.0), members=Column(None, private=True))

    def bind(self, schema: Schema, catalogues: Catalogues) -> None:
        """Find the attribute; raises ValueError if users have no such one, or if it is a number."""
        if self._by in (ALL, NONE):
            return
        names = [column.name for column in schema.users]
        shared = [column.name for column in schema.users if column.type != "number"]
        if self._by not in shared:
            raise ValueError(
                f'segment: "{self._by}", and the attributes of users to share are {shared}; give one, "all" or "none"'
            )
        self._column, self._users = names.index(self._by), [catalogues]

    def of(self, user: Ids) -> tuple[ContextStates, Bools]:
        """Return the states of the segments of users (n,), and which segments have one."""
        slots = self.means.find(self._keys(user))
        found = slots >= 0
        vectors = np.where(found[:, None], self.means["vectors"][slots], np.float32(0))
        return ContextStates(vectors, np.where(found, self.means["fresh"][slots], np.float32(1))), found

    def learn(self, user: Ids, states: ContextStates) -> None:
        """Add states of users (n,) to the means of their segments."""
        if self._by == NONE or not user.size:
            return
        # At most `capacity` of them, so that no segment of these is evicted before it is done.
        keys, segment = np.unique(self._keys(user), return_inverse=True)
        keys = keys[: self.means.capacity]
        known = segment < keys.size
        slots, segment = self.means.insert(keys), segment[known]
        count = np.bincount(segment, minlength=keys.size).astype(np.float32)
        self.means["members"][slots] += count
        share = count * np.maximum(1 / self.means["members"][slots], _SLOWEST).astype(np.float32)
        share = np.minimum(share, 1)
        for name, values in (("vectors", states.vectors[known]), ("fresh", states.fresh[known])):
            total = np.zeros((keys.size, *values.shape[1:]), np.float32)
            np.add.at(total, segment, values)
            by_row = (-1, *(1,) * (values.ndim - 1))
            mean = self.means[name][slots]
            self.means[name][slots] = mean + share.reshape(by_row) * (total / count.reshape(by_row) - mean)
        self.means.rows.mark(slots)

    def _keys(self, user: Ids) -> Ids:
        if self._column < 0:
            return np.full(user.size, _EVERYBODY)
        catalogue = self._users[0].users
        slots = catalogue.find(user)
        keys = catalogue.encoded[0][slots, self._column]
        return np.where((slots >= 0) & (keys != 0), keys, _EVERYBODY)
