"""The predictions of every row of a replay, with the row's user, item and outcome, as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from service.monitoring.measure import Scored
from streams.batch import Floats, Ids, Times
from streams.block import Block, Column
from streams.joined import TrackedImpression

__all__ = ["Predictions", "RowIds"]

Texts = Column | list[str]


@dataclass(slots=True)
class RowIds:
    """What n rows are. Texts are those of the log or the file, not copies.

    Attributes
    ----------
    user, item : Column or list of str, length n
    timestamp : (n,) float64
        Time of the ranking, or of the interaction if it has none; Unix seconds.
    position : (n,) int64 or None
        Positions in the impressions; None without impressions.
    request_id : list of str or None, length n
        Impression of each row; None without impressions.
    """

    user: Texts
    item: Texts
    timestamp: Times
    position: Ids | None = None
    request_id: list[str] | None = None

    @classmethod
    def of(cls, scored: Scored) -> RowIds:
        """Read what the scored rows are from their source."""
        source, rows = scored.source, scored.rows
        if isinstance(source, Block):
            every = slice(None) if rows is None else rows
            user, item = (Column(column.codes[every], column.names) for column in (source.user, source.item))
            return cls(user, item, source.timestamp[every])
        if scored.impression is not None:
            shown = [(one, one.impression) for one in source if isinstance(one, TrackedImpression)]
            return cls(
                [impression.user for _, impression in shown for _ in impression.items],
                [item for _, impression in shown for item in impression.items],
                np.array([one.timestamp for one, impression in shown for _ in impression.items], np.float64),
                np.array([position for _, impression in shown for position in range(len(impression.items))], np.int64),
                [impression.request_id for _, impression in shown for _ in impression.items],
            )
        outcomes = [one for one in source if not isinstance(one, TrackedImpression)]
        chosen = outcomes if rows is None else [outcomes[row] for row in rows.tolist()]
        times = np.array([one.timestamp for one in chosen], np.float64)
        return cls([one.user for one in chosen], [one.item for one in chosen], times)


class Predictions:
    """All measured rows of a replay, in the order in which they were measured.

    A row of an impression is measured when the impression has closed, any other row when it is learned.

    Parameters
    ----------
    ids : sequence of RowIds
        What the rows of each chunk are.
    chunks : sequence of Scored
        Their predictions and outcomes.
    """

    def __init__(self, ids: Sequence[RowIds], chunks: Sequence[Scored]) -> None:
        self._ids, self._chunks = ids, chunks

    def table(self) -> pa.Table:
        """Return the rows as a table.

        Returns
        -------
        pyarrow.Table
            Columns ``user``, ``item``, ``timestamp``, ``request_id`` and ``position`` (null without an impression),
            ``reward``, then one for each learner with its prediction, null where it has none.
        """
        names = dict.fromkeys(name for chunk in self._chunks for name in chunk.predictions)
        sizes = [chunk.user.size for chunk in self._chunks]
        columns = {
            "user": _text([one.user for one in self._ids]),
            "item": _text([one.item for one in self._ids]),
            "timestamp": _joined(lambda n: self._ids[n].timestamp, sizes, np.float64),
            "request_id": _nullable([one.request_id for one in self._ids], sizes, pa.string()),
            "position": _nullable([one.position for one in self._ids], sizes, pa.int64()),
            "reward": _joined(lambda n: self._chunks[n].reward, sizes, np.float32),
        }
        for name in names:
            columns[name] = _joined(lambda n, name=name: self._prediction(n, name), sizes, np.float32)  # type: ignore[misc]
        return pa.table(columns)

    def _prediction(self, chunk: int, name: str) -> Floats:
        found = self._chunks[chunk].predictions.get(name)
        return np.full(self._chunks[chunk].user.size, np.nan, np.float32) if found is None else found


def _joined(part: Callable[[int], Floats | Times], sizes: Sequence[int], kind: type[np.floating]) -> pa.Array[Any]:
    """One column of the parts of all chunks; NaN becomes null."""
    numbers = np.concatenate([np.empty(0, kind), *(part(n) for n in range(len(sizes)))])
    column: pa.Array[Any] = pa.array(numbers, from_pandas=True)
    return column


def _nullable(parts: Sequence[list[str] | Ids | None], sizes: Sequence[int], kind: pa.DataType) -> pa.ChunkedArray[Any]:
    """One column of all parts; a part that is None is null."""
    arrays = [
        pa.array([None] * size, kind) if part is None else pa.array(part, kind) for part, size in zip(parts, sizes, strict=True)
    ]
    return pa.chunked_array([pa.array([], kind), *arrays])


def _text(parts: Sequence[Texts]) -> pa.ChunkedArray[Any]:
    return pa.chunked_array([pa.array([], pa.string()), *_texts(parts)])


def _texts(parts: Sequence[Texts]) -> Iterator[pa.Array[Any]]:
    """Texts of consecutive parts together: a micro-batch may have a single row, and the names of a file may be many."""
    for _, group in groupby(parts, lambda part: id(part.names) if isinstance(part, Column) else 0):
        found = list(group)
        columns = [part for part in found if isinstance(part, Column)]
        if columns:
            codes = np.concatenate([column.codes for column in columns])
            yield pa.DictionaryArray.from_arrays(codes, pa.array(columns[0].names, pa.string())).cast(pa.string())
        else:
            yield pa.array([text for part in found if isinstance(part, list) for text in part], pa.string())
