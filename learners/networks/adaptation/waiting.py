"""Requests that wait until there are enough of them for a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from learners.schema import Schema
from memory.arrays import Arrays
from memory.stateful import Stateful
from streams.batch import Batch, Ids

__all__ = ["WaitingSlates"]

_OF_REQUESTS = ("user", "timestamp", "history", "history_time", "history_kind", "context", "context_values")
_OF_ROWS = ("item", "position", "features", "values")


class WaitingSlates(Stateful):
    """Collects slates, up to a number of requests. It is private: saved, and not sent to replicas.

    Parameters
    ----------
    schema : Schema
    requests : int
        Requests of a full collection.
    rows : int
        Most rows of a request.
    """

    def __init__(self, schema: Schema, requests: int, rows: int) -> None:
        self.capacity = requests
        history, context, columns = schema.history, len(schema.context), len(schema.features)
        of_requests: dict[str, npt.NDArray[Any]] = {
            "user": np.zeros(requests, np.int64),
            "timestamp": np.zeros(requests),
            "history": np.zeros((requests, history), np.int64),
            "history_time": np.zeros((requests, history)),
            "history_kind": np.zeros((requests, history), np.int32),
            "context": np.zeros((requests, context), np.int64),
            "context_values": np.zeros((requests, context), np.float32),
            "size": np.zeros(requests, np.int64),
        }
        of_rows: dict[str, npt.NDArray[Any]] = {
            "item": np.zeros(requests * rows, np.int64),
            "position": np.zeros(requests * rows, np.int64),
            "features": np.zeros((requests * rows, columns), np.int64),
            "values": np.zeros((requests * rows, columns), np.float32),
        }
        self.requests = Arrays(private=list(of_requests), **of_requests)
        self.rows = Arrays(private=list(of_rows), **of_rows)
        self.counts = Arrays(requests=np.zeros(1, np.int64), filled=np.zeros(1, np.int64), private=["requests", "filled"])

    def __len__(self) -> int:
        return int(self.counts["requests"][0])

    def add(self, batch: Batch, requests: Ids, rows: Ids) -> None:
        """Add some requests of a batch, at most as many as there is room for, with some of their rows.

        Parameters
        ----------
        batch : Batch
        requests : (b,) int64
            Ascending.
        rows : (n,) int64
            Ascending rows of these requests.
        """
        first, at = len(self), int(self.counts["filled"][0])
        into, of = slice(first, first + requests.size), slice(at, at + rows.size)
        for name in _OF_REQUESTS:
            self.requests[name][into] = getattr(batch, name)[requests]
        self.requests["size"][into] = np.bincount(np.searchsorted(requests, batch.request[rows]), minlength=requests.size)
        for name in _OF_ROWS:
            self.rows[name][of] = getattr(batch, name)[rows]
        self._count(into.stop, of.stop)

    def batch(self) -> Batch:
        """Return the collected requests with their rows."""
        requests, rows = slice(len(self)), slice(int(self.counts["filled"][0]))
        columns: dict[str, Any] = {name: self.requests[name][requests].copy() for name in _OF_REQUESTS}
        columns |= {name: self.rows[name][rows].copy() for name in _OF_ROWS}
        return Batch(**columns, request=np.repeat(np.arange(len(self)), self.requests["size"][requests]))

    def take(self) -> Batch:
        """Return the collected requests with their rows, and begin anew."""
        taken = self.batch()
        self._count(0, 0)
        return taken

    def forget(self, users: Ids) -> None:
        """Drop the requests of these users."""
        if not np.isin(self.requests["user"][: len(self)], users).any():
            return
        waiting = self.take()
        requests = np.flatnonzero(~np.isin(waiting.user, users))
        self.add(waiting, requests, np.flatnonzero(np.isin(waiting.request, requests)))
        self._erase()

    def _count(self, requests: int, rows: int) -> None:
        self.counts["requests"][0], self.counts["filled"][0] = requests, rows
        for store in (self.requests, self.rows, self.counts):
            store.mark()

    def _erase(self) -> None:
        """Overwrite what is beyond the count."""
        for name in self.requests:
            self.requests[name][len(self) :] = 0
        for name in self.rows:
            self.rows[name][int(self.counts["filled"][0]) :] = 0
