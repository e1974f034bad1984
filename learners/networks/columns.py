"""Input columns of the two towers: hashed, and mostly content, so that new users and items get useful vectors."""

from __future__ import annotations

import numpy as np

from learners.bounds import bounded
from learners.lookups import Catalogues
from memory.keyed.catalog import Catalog
from streams.batch import Floats, Ids, Requests

__all__ = ["TowerColumns"]

_USER, _ITEM, _HISTORY, _CONTEXT = 1, 2, 3, 4

_ID_VALUE = 0.2
"""Value of the id column. It is smaller than that of content, so that the content decides the vector of a new item."""


class TowerColumns:
    """Columns of users (id, history, context, attributes) and of items (id, attributes).

    Attributes
    ----------
    catalogues : Catalogues or None
        Source of the attributes. None means no attributes.
    """

    def __init__(self) -> None:
        self.catalogues: Catalogues | None = None

    def users(self, requests: Requests) -> tuple[Ids, Floats]:
        """Keys (B, W) and values (B, W) of the users of requests. Value 0 means absent."""
        history = requests.history
        weights = (history != 0) / np.sqrt(np.maximum(np.count_nonzero(history, axis=1), 1))[:, None]
        return _concatenate(
            (_with_salt(requests.user[:, None], _USER), np.where(requests.user[:, None] != 0, _ID_VALUE, 0.0)),
            (_with_salt(history, _HISTORY), weights),
            (_with_salt(requests.context, _CONTEXT), requests.context_values),
            None if self.catalogues is None else _attributes(self.catalogues.users, requests.user),
        )

    def items(self, items: Ids) -> tuple[Ids, Floats]:
        """Keys (n, W) and values (n, W) of items."""
        return _concatenate(
            (_with_salt(items[:, None], _ITEM), np.full((items.size, 1), _ID_VALUE)),
            None if self.catalogues is None else _attributes(self.catalogues.items, items),
        )

    def alive(self, items: Ids) -> Ids:
        """Filter out deleted items."""
        return items if self.catalogues is None else items[self.catalogues.items.alive(items)]

    def own(self, users: Ids) -> Ids:
        """Keys (n,) of the id columns of users."""
        return _with_salt(users, _USER)


def _with_salt(keys: Ids, salt: int) -> Ids:
    return keys ^ np.int64(salt * 0x1E3779B97F4A7C15)


def _attributes(catalog: Catalog, keys: Ids) -> tuple[Ids, Floats]:
    return catalog.encoded_at(catalog.find(keys))


def _concatenate(*parts: tuple[Ids, Floats] | None) -> tuple[Ids, Floats]:
    given = [part for part in parts if part is not None]
    keys = np.concatenate([part[0] for part in given], axis=1)
    return keys, bounded(np.concatenate([part[1] for part in given], axis=1).astype(np.float32))
