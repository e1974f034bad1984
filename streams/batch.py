"""The layout of rows that serving and learning share: a struct of arrays, jagged (each row points at its request).

Ids are 64-bit hashes here; 0 means "none". B is the number of requests, N of rows (request-item pairs), F of feature columns,
C of context columns, L the length of the history, H the width of a ranker's hidden vector, and R the number of retrievers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Batch",
    "Bools",
    "Feedback",
    "Floats",
    "Ids",
    "Kinds",
    "Requests",
    "Times",
    "pack_history",
    "pack_rows",
    "unpack_history",
    "unpack_rows",
]

Ids = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class Requests:
    """The requests of a batch: user, time, history and context.

    Attributes
    ----------
    user : (B,) int64
        Hashed user ids.
    timestamp : (B,) float64
        Unix seconds.
    history : (B, L) int64
        The user's last items with a positive reward, newest first, padded with 0.
    history_time : (B, L) float64
        Time of each interaction in `history`, Unix seconds; 0 where there is none. Default: zeros.
    history_kind : (B, L) int32
        Hashed kind of each interaction in `history`; 0 where there is none. Default: zeros.
    context : (B, C) int64
        Hashed keys of the context columns; 0 where absent.
    context_values : (B, C) float32
        Value of each context column; 0 where absent.
    carried : dict of str to list of bytes, each of length B
        What each learner stored when the requests were served, by the learner's name; empty bytes where it stored nothing.
    """

    user: Ids
    timestamp: Times
    history: Ids
    context: Ids
    context_values: Floats
    history_time: Times = field(default_factory=lambda: np.empty(0))
    history_kind: Kinds = field(default_factory=lambda: np.empty(0, np.int32))
    carried: dict[str, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.history_time.shape != self.history.shape:
            self.history_time = np.zeros(self.history.shape)
        if self.history_kind.shape != self.history.shape:
            self.history_kind = np.zeros(self.history.shape, np.int32)

    def columns(self, requests: Ids | slice = slice(None)) -> dict[str, Any]:
        """Return the request columns of some requests by name: the keywords of a new `Requests` or `Batch`."""
        return {
            "user": self.user[requests],
            "timestamp": self.timestamp[requests],
            "history": self.history[requests],
            "context": self.context[requests],
            "context_values": self.context_values[requests],
            "history_time": self.history_time[requests],
            "history_kind": self.history_kind[requests],
            "carried": {name: _select(carried, requests) for name, carried in self.carried.items()},
        }


@dataclass(slots=True, kw_only=True)
class Batch(Requests):
    """Rows to score: request-item pairs with their features, and the fields that the pipeline fills in.

    Attributes
    ----------
    item : (N,) int64
        Hashed item ids.
    request : (N,) int64
        Index of each row's request, 0 <= request < B, non-decreasing.
    position : (N,) int64
        Position at which the item was shown, from 0; -1 where it was not shown, or not yet. Default: -1.
    features : (N, F) int64
        Hashed feature key of each column; 0 where absent.
    values : (N, F) float32
        Value of each feature: 1 for a category, the number for a numeric field, 0 where absent.
    score : (N,) float32
        Filled by the ranker: probability of a positive reward, or expected reward. Rerankers replace it.
    uncertainty : (N,) float32 or None
        Standard error of the score, from the learner that knows it; NaN where none does.
    hidden : (N, H) float32 or None
        The ranker's representation of the row.
    base : (N,) float32 or None
        The ranker's own score, before any reranker.
    retrieval : (N, R) float32 or None
        Score that each retriever gives the row, in config order; NaN: the retriever failed. None: they were not asked.
    dense : (N, D) float32 or None
        Statistics and retrieval scores of the row, which are the last D columns of `values`, before they were standardised.
    evidence : (N, E) float32 or None
        What the retrievers know of the row, in the columns of ``Schema.evidence``; those of a retriever that failed are NaN.
        None: they were not asked.
    """

    item: Ids
    request: Ids
    features: Ids
    values: Floats
    position: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    score: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    uncertainty: Floats | None = None
    hidden: Floats | None = None
    base: Floats | None = None
    retrieval: Floats | None = None
    dense: Floats | None = None
    evidence: Floats | None = None

    def __post_init__(self) -> None:
        Requests.__post_init__(self)
        if self.position.size != self.item.size:
            self.position = np.full(self.item.size, -1)
        if self.score.size != self.item.size:
            self.score = np.zeros(self.item.size, np.float32)

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return self.item.size

    def take(self, rows: Ids) -> Batch:
        """Return a batch with the same requests and only these rows, in the order given."""
        return Batch(
            **self.columns(),
            item=self.item[rows],
            request=self.request[rows],
            features=self.features[rows],
            values=self.values[rows],
            position=self.position[rows],
            score=self.score[rows],
            base=None if self.base is None else self.base[rows],
            hidden=None if self.hidden is None else self.hidden[rows],
            uncertainty=None if self.uncertainty is None else self.uncertainty[rows],
            retrieval=None if self.retrieval is None else self.retrieval[rows],
            dense=None if self.dense is None else self.dense[rows],
            evidence=None if self.evidence is None else self.evidence[rows],
        )


@dataclass(slots=True, kw_only=True)
class Feedback(Batch):
    """Rows whose outcome is known.

    Request columns, features and positions are as of the ranking, even when the outcome came much later.

    Attributes
    ----------
    reward : (N,) float32
        Reward of the outcome; 0 for an item that was shown without an interaction.
    propensity : (N,) float32
        Probability that the item was put at its position; NaN where it was not logged.
    weight : (N,) float32
        Weight of the row in learning.
    kind : (N,) int32
        Hashed kind of the interaction; 0 for an item that was shown without one.
    outcome_time : (N,) float64
        Time of the outcome, Unix seconds: the interaction's time, or the end of the window.
    correction : (N,) bool
        Whether this row corrects an outcome that was already learned (a late or a second interaction).
    gradients : dict of str to dict of str to array
        By learner name: what another process computed of these rows; see `learners.networks.gradients`. Default: nothing.
    """

    reward: Floats
    propensity: Floats
    weight: Floats
    kind: Kinds
    outcome_time: Times
    correction: Bools
    gradients: dict[str, dict[str, npt.NDArray[Any]]] = field(default_factory=dict)

    @property
    def touched(self) -> Bools:
        """Whether the user interacted with the item, (N,) bool."""
        touched: Bools = self.kind != 0
        return touched


def pack_rows(schema: int, features: Ids, values: Floats) -> bytes:
    """Pack feature rows for `Impression.features`.

    Parameters
    ----------
    schema : int
        Fingerprint of the feature columns (64 bits). It tells rows of another config apart.
    features : (n, F) int64
        Hashed keys.
    values : (n, F) float32
        Values.

    Returns
    -------
    bytes
        The schema (8 bytes), the keys, then the values, all little-endian.
    """
    header = schema.to_bytes(8, "little", signed=True)
    return header + np.ascontiguousarray(features, "<i8").tobytes() + np.ascontiguousarray(values, "<f4").tobytes()


def unpack_rows(packed: bytes, schema: int, rows: int, columns: int) -> tuple[Ids, Floats] | None:
    """Unpack what `pack_rows` packed.

    Returns
    -------
    (features (rows, columns) int64, values (rows, columns) float32), or None
        None when the rows have another schema or another shape: compute them again.
    """
    cells = rows * columns
    if len(packed) != 8 + 12 * cells or int.from_bytes(packed[:8], "little", signed=True) != schema:
        return None
    features = np.frombuffer(packed, "<i8", cells, 8).reshape(rows, columns)
    values = np.frombuffer(packed, "<f4", cells, 8 + 8 * cells).reshape(rows, columns)
    return features, values


_ENTRY = np.dtype([("item", "<i8"), ("time", "<f8"), ("kind", "<i4")])


def pack_history(item: Ids, time: Times, kind: Kinds) -> bytes:
    """Pack the history of one request for `Impression.history`, without the padding.

    Parameters
    ----------
    item : (L,) int64
        Newest first, padded with 0.
    time : (L,) float64
        Unix seconds.
    kind : (L,) int32
        Hashed kinds.

    Returns
    -------
    bytes
        20 bytes per interaction, little-endian.
    """
    entries = np.empty(np.count_nonzero(item), _ENTRY)
    present = item != 0
    entries["item"], entries["time"], entries["kind"] = item[present], time[present], kind[present]
    return entries.tobytes()


def unpack_history(packed: Sequence[bytes], length: int) -> tuple[Ids, Times, Kinds]:
    """Unpack the histories of several requests that `pack_history` packed.

    Parameters
    ----------
    packed : sequence of bytes, length B
    length : int
        Length of each history: older interactions are dropped, shorter histories are padded.

    Returns
    -------
    (item (B, length) int64, time (B, length) float64, kind (B, length) int32)
    """
    item, time = np.zeros((len(packed), length), np.int64), np.zeros((len(packed), length))
    kind = np.zeros((len(packed), length), np.int32)
    for row, data in enumerate(packed):
        count = min(len(data) // _ENTRY.itemsize, length)
        if count:
            entries = np.frombuffer(data, _ENTRY, count)
            item[row, :count], time[row, :count], kind[row, :count] = entries["item"], entries["time"], entries["kind"]
    return item, time, kind


def _select(carried: list[bytes], requests: Ids | slice) -> list[bytes]:
    return carried[requests] if isinstance(requests, slice) else [carried[n] for n in requests.tolist()]
