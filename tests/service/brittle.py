"""Learners that cannot take some items, each in its own way; a config asks for them by the name of this module."""

from __future__ import annotations

import numpy as np

from learners.base import Candidates, Exclusion, Ranker, Retriever, WeightDelta
from learners.features import hash_id
from learners.registry import register
from memory.keyed.table import Column, Table
from streams.batch import Batch, Feedback, Floats, Ids, Requests

NAME = __name__

UNLEARNABLE, UNSEEABLE, UNLISTABLE, UNSCORABLE = "unlearnable", "unseeable", "unlistable", "unscorable"


class Counts(Table):
    """How often each item came."""

    def __init__(self) -> None:
        super().__init__(100, count=Column(None, np.float64))

    def take(self, items: Ids, unwanted: str = "") -> None:
        """Count the items; at the unwanted one, only those before it."""
        wanted = items != hash_id(unwanted) if unwanted else np.ones(items.size, np.bool_)
        kept = items if wanted.all() else items[: int(np.argmin(wanted))]
        np.add.at(self["count"], self.insert(kept), 1.0)
        if kept.size < items.size:
            raise KeyError(unwanted)


@register("brittle")
class Brittle(Retriever):
    """Counts rows up to the one that it cannot take: then part of a batch has been learned already.

    References
    ----------
    None.
    """

    def __init__(self) -> None:
        self.learned, self.shown = Counts(), Counts()

    def learn(self, feedback: Feedback) -> None:
        self.learned.take(feedback.item, UNLEARNABLE)

    def observe(self, batch: Batch) -> None:
        self.shown.take(batch.item, UNSEEABLE)

    def add(self, items: Ids) -> None:
        Counts().take(items, UNLISTABLE)

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        none = np.zeros(0, np.int64)
        return Candidates(none, none, none.astype(np.float32))

    def score(self, batch: Batch) -> Floats:
        return np.zeros(batch.rows, np.float32)


@register("brittle")
class BrittleRanker(Ranker):
    """Has no score for one item, and counts what it learns.

    References
    ----------
    None.
    """

    def __init__(self) -> None:
        self.learned = Counts()

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        batch.score[:] = np.where(batch.item == hash_id(UNSCORABLE), np.nan, 0.25)

    def learn(self, feedback: Feedback) -> None:
        self.learned.take(feedback.item)
