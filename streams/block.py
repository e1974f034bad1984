"""Interactions in columns: how recorded files arrive, without an object a row."""

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
    """Text, dictionary encoded: row r says ``names[codes[r]]``.

    Attributes
    ----------
    codes : (N,) int32 or int64
        Index into `names`; -1 where the row says nothing (context columns only).
    names : list of str
        Distinct texts. Blocks cut from one table share the very same list, so what is computed from it (hashes) can be kept
        as long as the list is the same object.
    """

    codes: Codes
    names: list[str]

    def slice(self, start: int, stop: int) -> Column:
        """Rows `start` to `stop`, with the same names; a view."""
        return Column(self.codes[start:stop], self.names)

    def texts(self) -> list[str | None]:
        """Every row's text, None where it says nothing; for tests and messages, not for hot paths."""
        names = self.names
        return [names[code] if code >= 0 else None for code in self.codes.tolist()]


@dataclass(slots=True)
class Block:
    """N interactions outside any impression, in time order unless the file's own order was asked for.

    Attributes
    ----------
    user, item : Column
        Who, with what.
    kind : str or Column
        How: one kind for all rows, or one a row.
    value : (N,) float64
        Strength.
    timestamp : (N,) float64
        Unix seconds.
    context : mapping of name to Column or (N,) float64
        Request context by column; NaN and code -1 mean that the row does not have it.
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
        """Rows `start` to `stop`; views, nothing is copied."""
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
        """The same rows as events, one by one: what the columnar path must agree with."""
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
