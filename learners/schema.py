"""What the columns of requests and rows are: names, sides, types and counts. A learner is told before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from learners.features import Featurizer, Side

__all__ = ["FeatureColumn", "Schema", "schema_of"]


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """One column of keys and values.

    Attributes
    ----------
    name : str
        ``side.field``; of a cross ``side.field * side.field``. The columns of a ``tags`` field have the same name.
    side : {"user", "item", "context", "cross"}
        Whose it is. A cross belongs to the two sides in its name.
    type : {"category", "number", "bucket", "tags", "cross"}
        As for `learners.features.Field`: of a ``number`` the key is constant and the value tells; of the others the key tells.
    """

    name: str
    side: Side | Literal["cross"]
    type: Literal["category", "number", "bucket", "tags", "cross"]


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns of the arrays that learners are given.

    Attributes
    ----------
    features : tuple of FeatureColumn, length F
        Of ``Batch.features`` and ``Batch.values``.
    users, items : tuple of FeatureColumn
        Of what the catalogues keep of users and items (``Catalog.encoded``).
    context : tuple of FeatureColumn, length C
        Of ``Requests.context`` and ``Requests.context_values``.
    history : int
        Width L of ``Requests.history``.
    """

    features: tuple[FeatureColumn, ...]
    users: tuple[FeatureColumn, ...]
    items: tuple[FeatureColumn, ...]
    context: tuple[FeatureColumn, ...]
    history: int


def schema_of(featurizer: Featurizer, history: int) -> Schema:
    """Schema of what a featurizer makes.

    Parameters
    ----------
    featurizer : Featurizer
    history : int
        Width L of the histories that learners are given.
    """
    fields = {field.label: field for field in featurizer.fields}
    columns = tuple(
        FeatureColumn(name, fields[name].side, fields[name].type) if name in fields else FeatureColumn(name, "cross", "cross")
        for name in featurizer.names
    )
    # Ids are columns of the rows only: catalogues know users and items by them.
    known = [column for column in columns if column.name in fields and not fields[column.name].is_id]
    users, items, context = (tuple(column for column in known if column.side == side) for side in ("user", "item", "context"))
    return Schema(features=columns, users=users, items=items, context=context, history=history)
