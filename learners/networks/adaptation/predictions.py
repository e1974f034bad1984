"""What rows were predicted with and without a change, from the time they were shown until their outcome is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memory.keyed.table import Column, Table
from memory.stateful import Stateful
from streams.batch import Batch, Feedback, Floats, Ids

__all__ = ["Predictions", "Resolved"]


class Resolved(NamedTuple):
    """Predictions of rows whose outcome is known.

    Attributes
    ----------
    rows : (n,) int64
        Rows of the feedback that were predicted when they were shown.
    source, adapted : (n,) float32
        Logits without and with the change.
    share : (n,) float32
        Entropy of the row's slate without the change, as a share of ln C.
    generation : (n,) int64
        As given to `Predictions.add`.
    """

    rows: Ids
    source: Floats
    adapted: Floats
    share: Floats
    generation: Ids


class Predictions(Stateful):
    """Keeps the predictions of shown rows. The oldest are dropped when there are too many.

    Parameters
    ----------
    capacity : int
        Rows kept.
    """

    def __init__(self, capacity: int) -> None:
        numbers = {name: Column(None) for name in ("source", "adapted", "share")}
        self.table = Table(capacity, **numbers, generation=Column(None, np.int64))

    @property
    def dropped(self) -> int:
        """Rows that were dropped before their outcome was known, since this process started."""
        return self.table.evictions

    def add(self, batch: Batch, source: Floats, adapted: Floats, share: Floats, generation: int) -> None:
        """Keep the logits (N,) of a batch's rows, and the entropy share (N,) of their slates."""
        for start in range(0, batch.rows, self.table.capacity):
            part = slice(start, start + self.table.capacity)
            slots = self.table.insert(_keys(batch)[part])
            for name, column in (("source", source), ("adapted", adapted), ("share", share)):
                self.table[name][slots] = column[part]
            self.table["generation"][slots] = generation

    def take(self, feedback: Feedback) -> Resolved:
        """Return the predictions of these rows, and drop them. Corrections, and rows that were not shown, have none."""
        keys = _keys(feedback)
        slots = self.table.find(keys)
        rows = np.flatnonzero((slots >= 0) & ~feedback.correction)
        at = slots[rows]
        columns = (self.table[name][at] for name in ("source", "adapted", "share", "generation"))
        found = Resolved(rows, *columns)
        self.table.delete(keys[rows])
        return found


def _keys(batch: Batch) -> Ids:
    """Key of each row, (N,): its user, the time of its request, and its item."""
    user, time = batch.user[batch.request], batch.timestamp[batch.request].view(np.int64)
    keys = (user * np.int64(-7046029254386353131) + time) * np.int64(-4417276706812531889) + batch.item
    return np.where(keys == 0, 1, keys ^ (keys >> np.int64(29)))
