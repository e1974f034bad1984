"""What the columns of requests and rows are: names, sides, types and counts. A learner is told before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from learners.features import Featurizer, Side

__all__ = ["EvidenceColumn", "FeatureColumn", "Schema", "schema_of"]


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
    evidence : tuple of EvidenceColumn, length E
        Of ``Batch.evidence``: of all retrievers, in config order. Known to rerankers only.
    """

    features: tuple[FeatureColumn, ...]
    users: tuple[FeatureColumn, ...]
    items: tuple[FeatureColumn, ...]
    context: tuple[FeatureColumn, ...]
    history: int
    evidence: tuple[EvidenceColumn, ...] = ()


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
