"""Assembles feature rows: the featurizer's columns, and the dense ones behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from learners.base import Retriever
from learners.features import Featurizer, hash_id
from learners.schema import FeatureColumn
from memory.keyed.catalog import Catalog
from memory.keyed.click_statistics import ClickStatistics
from memory.moments import Moments
from memory.stateful import Stateful
from service.tables.rows import Statistics
from streams.batch import Batch, Bools, Feedback, Floats, Ids, Requests, Times, pack_rows, unpack_rows

__all__ = ["DenseColumns", "FeatureRows"]


class DenseColumns(Stateful):
    """What the columns are, and the state that they come from. Without any, there is no state.

    Numbers are standardised by the running mean and deviation of all rows that were shown or learned.

    Parameters
    ----------
    statistics : Statistics or None
        The section of the config; None: no statistics.
    retrievers : sequence of str
        Names of the retrievers whose score is a column; none: no such columns.

    Attributes
    ----------
    columns : tuple of FeatureColumn, length D
    retrieval : bool
        Whether retrieval scores are among them.
    fingerprint : str
        Tells the columns of different configs apart; empty without columns.
    """

    def __init__(self, statistics: Statistics | None, retrievers: Sequence[str]) -> None:
        columns = []
        self._statistics = statistics is not None
        if statistics is not None:
            self.users = ClickStatistics(statistics.users, statistics.half_lives)
            self.items = ClickStatistics(statistics.items, statistics.half_lives)
            names = ClickStatistics.names(statistics.half_lives)
            columns += [FeatureColumn(f"{side}.{name}", side, "number") for side in ("user", "item") for name in names]
            columns.append(FeatureColumn("context.candidates", "context", "number"))
        columns += [FeatureColumn(f"retrieval.{name}", "retrieval", "number") for name in retrievers]
        self.columns: tuple[FeatureColumn, ...] = tuple(columns)
        self.retrieval = bool(retrievers)
        self._keys: Ids = np.array([hash_id(f"{column.name}=") for column in columns], np.int64)
        self.fingerprint = repr(self.columns) if columns else ""
        self.moments = Moments(range(len(columns)))

    def numbers(
        self, request: Ids, user: Ids, item: Ids, timestamp: Times, retrieval: Floats | None, clicked: Bools | None = None
    ) -> tuple[Ids, Floats]:
        """What is known of rows, before it is standardised.

        Parameters
        ----------
        request, user, item : (N,) int64
        timestamp : (N,) float64
        retrieval : (N, R) float32 or None
            Scores of the retrievers; NaN: it failed. None where they are no columns.
        clicked : (N,) bool or None
            Given for rows that will be learned together: each row knows then of the clicks in those before it.

        Returns
        -------
        keys : (N, D) int64
            Key of each column; 0 where nothing is known.
        numbers : (N, D) float32
        """
        parts = []
        if self._statistics:
            for store, key in ((self.users, user), (self.items, item)):
                if clicked is None:
                    parts.append(store.describe(key, timestamp))
                else:
                    parts.append(store.describe_in_order(key, timestamp, clicked))
            parts.append(_log_candidates(request))
        if self.retrieval:
            assert retrieval is not None, "asked for where scores are columns"
            parts.append(_log_scaled(retrieval))
        numbers = np.concatenate(parts, axis=1)
        known = np.isfinite(numbers)
        return np.where(known, self._keys, 0), np.where(known, numbers, np.float32(0.0))

    def standardized(self, keys: Ids, numbers: Floats) -> Floats:
        """Standardised numbers, (N, D) float32."""
        standardized = numbers.copy()
        self.moments.standardize(keys, standardized)
        return standardized

    def add(self, feedback: Feedback) -> None:
        """Count rows that were learned."""
        if self._statistics and feedback.rows:
            clicked, shown = feedback.reward > 0, ~feedback.correction
            self.users.add(feedback.user[feedback.request], feedback.outcome_time, clicked, shown)
            self.items.add(feedback.item, feedback.outcome_time, clicked, shown)

    def forget(self, users: Ids) -> None:
        """Erase the statistics of users."""
        if self._statistics:
            self.users.forget(users)

    def remove(self, items: Ids) -> None:
        """Erase the statistics of items."""
        if self._statistics:
            self.items.forget(items)


class FeatureRows:
    """Makes the rows of request-item pairs, packs them for the log, and unpacks them.

    Parameters
    ----------
    featurizer : Featurizer
    users, items : Catalog
    dense : DenseColumns
    retrievers : mapping of name to Retriever
    skip : callable
        Called with the name of a retriever that failed, and the list of skipped stages that its name is to be added to.

    Attributes
    ----------
    names : tuple of str, length F
    fingerprint : int
        Of the columns, 64 bits.
    """

    def __init__(
        self,
        featurizer: Featurizer,
        users: Catalog,
        items: Catalog,
        dense: DenseColumns,
        retrievers: Mapping[str, Retriever],
        skip: Callable[[str, list[str]], None],
    ) -> None:
        self._featurizer, self._users, self._items, self._dense = featurizer, users, items, dense
        self._retrievers, self._skip = retrievers, skip
        self.names: tuple[str, ...] = (*featurizer.names, *(column.name for column in dense.columns))
        self.fingerprint = featurizer.schema
        if dense.columns:
            self.fingerprint = hash_id(f"{featurizer.schema} {dense.fingerprint}")

    @property
    def columns(self) -> int:
        """Width F of a feature row."""
        return len(self.names)

    def batch(self, requests: Requests, request: Ids, item: Ids, clicked: Bools | None = None) -> Batch:
        """Rows of request-item pairs, with ``dense`` where there are dense columns.

        Parameters
        ----------
        requests : Requests
        request, item : (N,) int64
        clicked : (N,) bool or None
            Given for rows that will be learned together; see `DenseColumns.numbers`.
        """
        dense = self._dense
        features, values = self._featurizer.rows(requests, request, item, self._users, self._items, room=len(dense.columns))
        batch = Batch(**requests.columns(), item=item, request=request, features=features, values=values)
        if dense.columns:
            retrieval = self.retrieval(batch, []) if dense.retrieval else None
            user, time = requests.user[request], requests.timestamp[request]
            keys, batch.dense = dense.numbers(request, user, item, time, retrieval, clicked)
            features[:, self._featurizer.columns :] = keys
            values[:, self._featurizer.columns :] = dense.standardized(keys, batch.dense)
        return batch

    def learned(self, requests: Requests, request: Ids, item: Ids, clicked: Bools) -> tuple[Ids, Floats, Floats | None]:
        """Features, values and dense numbers of rows that will be learned together; see `batch`. They still go to `learn`."""
        if not self._dense.columns:
            # One row at a time, a batch costs as much as its features.
            return *self._featurizer.rows(requests, request, item, self._users, self._items), None
        batch = self.batch(requests, request, item, clicked)
        return batch.features, batch.values, batch.dense

    def retrieval(self, batch: Batch, skipped: list[str]) -> Floats:
        """Return the score of each retriever for each row, (N, R) float32. The first call fills ``batch.retrieval``.

        A retriever that fails gets NaN in its column, is counted, and its name is added to `skipped`. These scores can cost as
        much as the rest of a request, so they are computed on demand.
        """
        if batch.retrieval is None:
            batch.retrieval = np.full((batch.rows, len(self._retrievers)), np.nan, np.float32)
            for column, (name, retriever) in enumerate(self._retrievers.items()):
                try:
                    score = retriever.score(batch)
                    if not np.isfinite(score).all():
                        raise FloatingPointError(f"{name}: a score is not finite")
                    batch.retrieval[:, column] = score
                except Exception:
                    self._skip(name, skipped)
        return batch.retrieval

    def learn(self, features: Ids, dense: Floats | None) -> None:
        """Let the means and deviations of the dense columns follow these rows, (N, F) and (N, D). Give each row once."""
        if dense is not None:
            self._dense.moments.add(np.ascontiguousarray(features[:, self._featurizer.columns :]), dense)

    def pack(self, batch: Batch) -> bytes:
        """Rows as they are logged: as they were scored, then the dense numbers before they were standardised."""
        dense = b"" if batch.dense is None else np.ascontiguousarray(batch.dense, "<f4").tobytes()
        return pack_rows(self.fingerprint, batch.features, batch.values) + dense

    def unpack(self, packed: bytes, rows: int) -> tuple[Ids, Floats, Floats | None] | None:
        """Features, values and dense numbers, read-only; None for other columns or another number of rows."""
        width = len(self._dense.columns)
        size = len(packed) - 4 * rows * width
        unpacked = unpack_rows(packed[: max(size, 0)], self.fingerprint, rows, self.columns)
        if unpacked is None:
            return None
        dense = np.frombuffer(packed, "<f4", rows * width, size).reshape(rows, width) if width else None
        return *unpacked, dense


def _log_candidates(request: Ids) -> Floats:
    """Logarithm of the number of rows in each row's request, (N, 1), with NaN for a request of one row: nothing was ranked."""
    number = np.bincount(request)[request]
    return np.where(number > 1, np.log(number), np.nan).astype(np.float32)[:, None]


def _log_scaled(score: Floats) -> Floats:
    """``sign(s) log(1 + 1000 |s|)``, with NaN for a score of 0: the retriever does not know the item."""
    scaled = np.sign(score) * np.log1p(1000.0 * np.abs(score))
    return np.where(score == 0.0, np.nan, scaled).astype(np.float32)
