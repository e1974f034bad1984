"""Context states of a bounded number of users, kept up with what the model stores of them."""

from __future__ import annotations

import numpy as np

from learners.networks.sequence.absorbing import ContextMap, ContextStates
from learners.networks.sequence.model import SequenceModel
from learners.networks.sequence.windows import Windows
from memory.arrays import Bools, Ids
from memory.keyed.table import Column, Table
from memory.stateful import Stateful

__all__ = ["ContextSlab", "chunks_before"]


def chunks_before(number: Ids, chunk: int) -> Ids:
    """Return how many chunks lie before the window of users with so many events: all but the last two, (n,)."""
    return np.maximum((number - 1) // chunk - 1, 0)


class ContextSlab(Stateful):
    """The state of each user, with the number of chunks in it.

    A state is a function of the user's stored events and of the parameters. One that was begun `age` steps of the map ago or
    more is computed anew, when its user's next chunk is absorbed, from the events that are still stored.

    Parameters
    ----------
    model : SequenceModel
        It stores the events.
    context : ContextMap
    users : int
        Maximum number of users. The one whose state changed the longest time ago is evicted.
    age : int
    """

    def __init__(self, model: SequenceModel, context: ContextMap, users: int, age: int) -> None:
        self._model, self._context, self._age = [model], [context], age  # in lists: their states are not part of this one
        shape = context.shape
        self.states = Table(
            users,
            vectors=Column(shape.layers * shape.rank * shape.width),
            fresh=Column(None, fill=1.0),
            chunks=Column(None, np.int64),
            begun=Column(None, np.int64, private=True),
        )

    def of(self, user: Ids, number: Ids) -> tuple[ContextStates, Bools]:
        """Return the states of users (n,) with so many events each, and whether they are what lies before the window.

        A state can be ahead of an older request, or one chunk behind a new one.
        """
        slots = self.states.find(user)
        before = chunks_before(number, self._model[0].settings.shape.chunk)
        fits = (slots >= 0) & (before > 0) & (self.states["chunks"][slots] == before)
        vectors = np.where(fits[:, None], self.states["vectors"][slots], np.float32(0))
        return ContextStates(vectors, np.where(fits, self.states["fresh"][slots], np.float32(1))), fits

    def absorb(self, user: Ids, step: int) -> tuple[Ids, int]:
        """Bring the states of users (n,), all different, up to their stored events.

        Returns the users whose states changed, and how many states began anew.

        Parameters
        ----------
        user : (n,) int64
        step : int
            Steps that the map has made.
        """
        model, chunk = self._model[0], self._model[0].settings.shape.chunk
        sequences = model.sequences
        at = sequences.index.find(user)
        count = np.where(at >= 0, sequences.rings["count"][at], 0)
        due = chunks_before(count, chunk)
        behind = due > np.where(self.states.find(user) >= 0, self.states["chunks"][self.states.find(user)], 0)
        # At most `capacity` users, so that none of these is evicted before it is done.
        user, at, count, due = (part[behind][: self.states.capacity] for part in (user, at, count, due))
        if not user.size:
            return user, 0
        known = self.states.find(user) >= 0
        slots = self.states.insert(user)
        states, first = self.states, -(-np.maximum(count - sequences.length, 0) // chunk)
        anew = ~known | (step - states["begun"][slots] >= self._age) | (states["chunks"][slots] < first)
        states["vectors"][slots[anew]], states["fresh"][slots[anew]] = 0, 1
        states["chunks"][slots[anew]], states["begun"][slots[anew]] = first[anew], step
        while (rows := np.flatnonzero(states["chunks"][slots] < due)).size:
            self._absorb(slots[rows], at[rows], count[rows])
        states.rows.mark(slots)
        return user, int(anew.sum())

    def now(self, user: Ids) -> ContextStates:
        """Return the states of users (n,) who all have one."""
        slots = self.states.find(user)
        return ContextStates(self.states["vectors"][slots], self.states["fresh"][slots])

    def forget(self, users: Ids) -> None:
        """Delete the states of users."""
        self.states.delete(users)

    def _absorb(self, slots: Ids, at: Ids, count: Ids) -> None:
        """Absorb the next chunk of each of these states."""
        states, model = self.states, self._model[0]
        chunks = _windows(model, at, count, states["chunks"][slots])
        before = ContextStates(states["vectors"][slots], states["fresh"][slots])
        after = self._context[0].absorb(chunks, before)
        states["vectors"][slots], states["fresh"][slots] = after
        states["chunks"][slots] += 1


def _windows(model: SequenceModel, at: Ids, count: Ids, number: Ids) -> Windows:
    """Return chunks of these numbers, each with the chunk before it, from stored sequences."""
    chunk, rings, length = model.settings.shape.chunk, model.sequences.rings, model.sequences.length
    events = ((number - 1) * chunk)[:, None] + np.arange(2 * chunk + 1)
    stored = (events >= 0) & (events < count[:, None]) & (events >= count[:, None] - length)
    index = at[:, None], events % length
    item = np.where(stored[:, :-1], rings["item"][index][:, :-1], 0)
    return Windows(item, np.where(stored, rings["timestamp"][index], 0.0), (number + 1) * chunk)
