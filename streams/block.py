"""Interactions as columns: how recorded files are read, without one object per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streams.batch import Times
from streams.events import Interaction, Scalar

__all__ = ["Block", "Codes", "Column"]

Codes = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(slots=True)
class Column:
    """Dictionary-encoded text: row r holds ``names[codes[r]]``.

    Attributes
    ----------
    codes : (N,) int32 or int64
        Index into `names`; -1 where the row has no value (context columns only).
    names : list of str
        Distinct texts. Blocks cut from one table share one list object. So its hashes can be cached for as long as the list is
        the same object.
    """

    codes: Codes
    names: list[str]

    def slice(self, start: int, stop: int) -> Column:
        """Return a view of rows `start` to `stop`, with the same names."""
        return Column(self.codes[start:stop], self.names)

    def texts(self) -> list[str | None]:
        """Return the text of every row, None where it has no value. For tests and messages, not for hot paths."""
        names = self.names
        return [names[code] if code >= 0 else None for code in self.codes.tolist()]


@dataclass(slots=True)
class Block:
    """N interactions without an impression, in time order or in the order of the file.

    Attributes
    ----------
    user, item : Column
        Ids.
    kind : str or Column
        One kind for all rows, or one per row.
    value : (N,) float64
        Strength of each interaction.
    timestamp : (N,) float64
        Unix seconds.
    context : mapping of name to Column or (N,) float64
        Request context by column; NaN and code -1 mark a missing value.
    """

    user: Column
    item: Column
    kind: str | Column
    value: Times
    timestamp: Times
    context: Mapping[str, Column | Times] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return self.value.size

    def slice(self, start: int, stop: int) -> Block:
        """Return a view of rows `start` to `stop`; nothing is copied."""
        cut = slice(start, stop)
        return Block(
            self.user.slice(start, stop),
            self.item.slice(start, stop),
            self.kind if isinstance(self.kind, str) else self.kind.slice(start, stop),
            self.value[cut],
            self.timestamp[cut],
            {name: c.slice(start, stop) if isinstance(c, Column) else c[cut] for name, c in self.context.items()},
        )

    def interactions(self) -> Iterator[Interaction]:
        """Return the same rows as events, one by one. The columnar path must agree with them."""
        kinds = [self.kind] * self.rows if isinstance(self.kind, str) else self.kind.texts()
        columns = [_cells(column) for column in self.context.values()]
        contexts: Iterator[dict[str, Scalar]] = (
            {name: cell for name, cell in zip(self.context, cells, strict=True) if cell is not None}
            for cells in (zip(*columns, strict=True) if columns else ((),) * self.rows)
        )
        rows = zip(
            self.user.texts(), self.item.texts(), kinds, self.value.tolist(), self.timestamp.tolist(), contexts, strict=True
        )
        for user, item, kind, value, timestamp, context in rows:
            if user is None or item is None or kind is None:
                raise ValueError(f"block: a row has user {user!r}, item {item!r}, kind {kind!r}; drop such rows when reading")
            yield Interaction(user=user, item=item, kind=kind, value=value, timestamp=timestamp, context=context)


def _cells(column: Column | Times) -> list[str | None] | list[float | None]:
    if isinstance(column, Column):
        return column.texts()
    return [None if cell != cell else cell for cell in column.tolist()]
