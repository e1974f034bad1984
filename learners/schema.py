"""Schema of the feature columns: names, sides, types and counts. Learners receive it in `bind`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from learners.features import Featurizer, Side
from streams.batch import Ids

__all__ = ["EvidenceColumn", "FeatureColumn", "Schema", "schema_of"]

_SIDES = ("user", "item", "context")


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """One feature column. Each row has a hashed key and a value in it.

    Attributes
    ----------
    name : str
        ``side.field``, or ``side.field * side.field`` for a cross. All columns of a ``tags`` field have the same name.
    side : {"user", "item", "context", "cross", "retrieval"}
        Source of the feature. The name of a cross contains its two sources. ``retrieval`` is the score of a retriever.
    type : {"category", "number", "bucket", "tags", "cross"}
        As in `learners.features.Field`. The information is in the value for ``number``, whose key is constant, and in the key
        for all other types.
    """

    name: str
    side: Side | Literal["cross", "retrieval"]
    type: Literal["category", "number", "bucket", "tags", "cross"]


@dataclass(frozen=True, slots=True)
class EvidenceColumn:
    """A column of ``Batch.evidence``: something that a retriever knows of each row.

    Attributes
    ----------
    name : str
        Such as ``log_score``; in `Schema.evidence` with the retriever's name before it, ``item_knn.log_score``.
    prior : float
        Weight that a mixture of the columns begins with.
    by_activity : bool
        Whether a mixture should let its weight depend on how much the user has done so far.
    """

    name: str
    prior: float = 0.0
    by_activity: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns of all arrays that learners receive.

    Attributes
    ----------
    features : tuple of FeatureColumn, length F
        Columns of ``Batch.features`` and ``Batch.values``.
    users, items : tuple of FeatureColumn
        Columns of the encoded attributes in the catalogues (``Catalog.encoded``).
    context : tuple of FeatureColumn, length C
        Columns of ``Requests.context`` and ``Requests.context_values``.
    history : int
        Width L of ``Requests.history``.
    evidence : tuple of EvidenceColumn, length E
        Of ``Batch.evidence``: of all retrievers, in config order. Known to rerankers only.
    """

    features: tuple[FeatureColumn, ...]
    users: tuple[FeatureColumn, ...]
    items: tuple[FeatureColumn, ...]
    context: tuple[FeatureColumn, ...]
    history: int
    evidence: tuple[EvidenceColumn, ...] = ()

    def pairs(self, crosses: Sequence[str]) -> Ids:
        """Return the pairs of feature columns that crosses stand for.

        Parameters
        ----------
        crosses : sequence of str
            Such as ``"user.id * item.genres"``. ``user``, ``item`` and ``context`` stand for all columns of the side but its
            numbers, and may have none.

        Returns
        -------
        (P, 2) int64
            Each pair once, the lower column first; no column with itself.

        Raises
        ------
        ValueError
            When a cross has other than two parts, or there is no column of a name.
        """
        found = {pair for cross in crosses for pair in self._cross(cross)}
        return np.array(sorted(found), np.int64).reshape(-1, 2)

    def _cross(self, cross: str) -> list[tuple[int, int]]:
        parts = [part.strip() for part in cross.split("*")]
        names = sorted({column.name for column in self.features if column.type != "cross"})
        unknown = [part for part in parts if part not in (*_SIDES, *names)]
        if len(parts) != 2 or unknown:
            remedy = f'write "one * other", each of them one of {", ".join((*_SIDES, *names))}'
            raise ValueError(f"crosses: {cross!r} is no cross{f' (unknown: {unknown[0]!r})' if unknown else ''}; {remedy}")
        left, right = map(self._columns, parts)
        return [(min(pair), max(pair)) for pair in product(left, right) if pair[0] != pair[1]]

    def _columns(self, part: str) -> list[int]:
        """Columns of a name, or of a side, whose numbers are left out."""
        if part in _SIDES:
            return [at for at, column in enumerate(self.features) if column.side == part and column.type != "number"]
        return [at for at, column in enumerate(self.features) if column.name == part]


def schema_of(featurizer: Featurizer, history: int) -> Schema:
    """Return the schema of a featurizer's columns.

    Parameters
    ----------
    featurizer : Featurizer
    history : int
        Width L of ``Requests.history``.
    """
    fields = {field.label: field for field in featurizer.fields}
    columns = tuple(
        FeatureColumn(name, fields[name].side, fields[name].type) if name in fields else FeatureColumn(name, "cross", "cross")
        for name in featurizer.names
    )
    # Ids are columns of the rows only. In the catalogues they are keys, not attributes.
    known = [column for column in columns if column.name in fields and not fields[column.name].is_id]
    users, items, context = (tuple(column for column in known if column.side == side) for side in ("user", "item", "context"))
    return Schema(features=columns, users=users, items=items, context=context, history=history)
