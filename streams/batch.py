"""The one layout of rows for serving and learning: a struct of arrays, jagged (rows point at their request).

Ids are 64-bit hashes here; 0 is "none". B counts requests, N rows (request-item pairs), F feature columns, L the length of
the history, H the width of a ranker's hidden vector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Batch", "Bools", "Clusters", "Feedback", "Floats", "Ids", "Requests", "Times", "pack_rows", "unpack_rows"]

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class Clusters:
    """Soft membership of requests in a retriever's clusters, as of serving time.

    Attributes
    ----------
    index : (B, K) int64
        Numbers of the clusters; -1 for none.
    weight : (B, K) float64
        Weight of each, 0 for none.
    epoch : (B,) int64
        In which the numbers mean what they mean; 0: nothing is known.
    schema : (B,) int64
        Fingerprint of the clusters, so that those of another config or another history are recognised.
    graph : (B,) int64
        Version of the graph from clusters to items.
    """

    index: Ids
    weight: Times
    epoch: Ids
    schema: Ids
    graph: Ids

    def of(self, chosen: Ids | slice) -> Clusters:
        """Those of the chosen requests."""
        return Clusters(
            index=self.index[chosen],
            weight=self.weight[chosen],
            epoch=self.epoch[chosen],
            schema=self.schema[chosen],
            graph=self.graph[chosen],
        )


@dataclass(slots=True, kw_only=True)
class Requests:
    """Who asks, and when.

    Attributes
    ----------
    user : (B,) int64
        Hashed user ids.
    timestamp : (B,) float64
        Unix seconds.
    history : (B, L) int64
        The user's last items with a positive reward, newest first, padded with 0.
    context : (B, C) int64
        Hashed keys of the context columns; 0 where absent.
    context_values : (B, C) float32
        Value of each context column; 0 where absent.
    clusters : Clusters or None
        What the retriever that learns by cluster took the requests for when they were served.
    """

    user: Ids
    timestamp: Times
    history: Ids
    context: Ids
    context_values: Floats
    clusters: Clusters | None = None

    def columns(self, chosen: Ids | slice = slice(None)) -> dict[str, Any]:
        """Request columns of the chosen requests by name, to make other `Requests`, or a `Batch`, of them."""
        return {
            "user": self.user[chosen],
            "timestamp": self.timestamp[chosen],
            "history": self.history[chosen],
            "context": self.context[chosen],
            "context_values": self.context_values[chosen],
            "clusters": None if self.clusters is None else self.clusters.of(chosen),
        }


@dataclass(slots=True, kw_only=True)
class Batch(Requests):
    """Rows to score: request-item pairs with their features, and what the pipeline fills in.

    Attributes
    ----------
    item : (N,) int64
        Hashed item ids.
    request : (N,) int64
        Index of each row's request, 0 <= request < B, non-decreasing.
    features : (N, F) int64
        Hashed feature key of each column; 0 where absent.
    values : (N, F) float32
        Value of each feature: 1 for a category, the number for a numeric field, 0 where absent.
    score : (N,) float32
        Filled by the ranker: probability of a positive reward, or expected reward. Rerankers replace it.
    uncertainty : (N,) float32 or None
        Standard error of the score, from whoever knows it.
    hidden : (N, H) float32 or None
        The ranker's representation of the row.
    base : (N,) float32 or None
        The ranker's own score, whatever rerankers have made of it.
    """

    item: Ids
    request: Ids
    features: Ids
    values: Floats
    score: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    uncertainty: Floats | None = None
    hidden: Floats | None = None
    base: Floats | None = None

    def __post_init__(self) -> None:
        if self.score.size != self.item.size:
            self.score = np.zeros(self.item.size, np.float32)

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return self.item.size

    def part(self, rows: Ids) -> Batch:
        """Make a batch of the same requests with some of the rows, in the order given."""
        return Batch(
            **self.columns(),
            item=self.item[rows],
            request=self.request[rows],
            features=self.features[rows],
            values=self.values[rows],
            score=self.score[rows],
            base=None if self.base is None else self.base[rows],
            hidden=None if self.hidden is None else self.hidden[rows],
            uncertainty=None if self.uncertainty is None else self.uncertainty[rows],
        )


@dataclass(slots=True, kw_only=True)
class Feedback(Batch):
    """Rows whose outcome is known.

    Attributes
    ----------
    reward : (N,) float32
        What the outcome was worth; 0 for an item that was shown and left alone.
    propensity : (N,) float32
        Probability with which the item was put at its place; NaN when it was not logged.
    weight : (N,) float32
        Importance of the row in learning.
    touched : (N,) bool
        Whether the user acted on the item (False: shown and left alone).
    correction : (N,) bool
        Whether this row revises an outcome that was already learned (a late or a second interaction).
    """

    reward: Floats
    propensity: Floats
    weight: Floats
    touched: Bools
    correction: Bools


def pack_rows(schema: int, features: Ids, values: Floats) -> bytes:
    """Pack feature rows for `Impression.features`.

    Parameters
    ----------
    schema : int
        Fingerprint of the feature columns (64 bits), so that rows of another config are recognised.
    features : (n, F) int64
        Hashed keys.
    values : (n, F) float32
        Values.

    Returns
    -------
    bytes
        8 bytes of schema, then keys, then values, all little-endian.
    """
    header = schema.to_bytes(8, "little", signed=True)
    return header + np.ascontiguousarray(features, "<i8").tobytes() + np.ascontiguousarray(values, "<f4").tobytes()


def unpack_rows(packed: bytes, schema: int, rows: int, columns: int) -> tuple[Ids, Floats] | None:
    """Undo `pack_rows`.

    Returns
    -------
    (features (rows, columns) int64, values (rows, columns) float32), or None
        None when the rows were packed under another schema or have another shape: they must be computed anew.
    """
    cells = rows * columns
    if len(packed) != 8 + 12 * cells or int.from_bytes(packed[:8], "little", signed=True) != schema:
        return None
    features = np.frombuffer(packed, "<i8", cells, 8).reshape(rows, columns)
    values = np.frombuffer(packed, "<f4", cells, 8 + 8 * cells).reshape(rows, columns)
    return features, values
