"""What the two towers see of users and of items: hashed columns, content first, so that what is new has a place at once."""

from __future__ import annotations

import numpy as np

from learners.base import Catalogues
from learners.bounds import bounded
from memory.keyed.catalog import Catalog
from streams.batch import Floats, Ids, Requests

__all__ = ["TowerColumns"]

_USER, _ITEM, _HISTORY, _CONTEXT = 1, 2, 3, 4

_OWN = 0.2
"""Value of an id's own column: less than content, so that a new item lies where its content says."""


class TowerColumns:
    """Columns of users (id, history, context, attributes) and of items (id, attributes).

    Attributes
    ----------
    catalogues : Catalogues or None
        Where attributes are found; without them there are none.
    """

    def __init__(self) -> None:
        self.catalogues: Catalogues | None = None

    def users(self, requests: Requests) -> tuple[Ids, Floats]:
        """Keys (B, W) and values (B, W) of who asks; value 0: absent."""
        history = requests.history
        shares = (history != 0) / np.sqrt(np.maximum(np.count_nonzero(history, axis=1), 1))[:, None]
        return _joined(
            (_salted(requests.user[:, None], _USER), np.where(requests.user[:, None] != 0, _OWN, 0.0)),
            (_salted(history, _HISTORY), shares),
            (_salted(requests.context, _CONTEXT), requests.context_values),
            None if self.catalogues is None else _attributes(self.catalogues.users, requests.user),
        )

    def items(self, items: Ids) -> tuple[Ids, Floats]:
        """Keys (n, W) and values (n, W) of items."""
        return _joined(
            (_salted(items[:, None], _ITEM), np.full((items.size, 1), _OWN)),
            None if self.catalogues is None else _attributes(self.catalogues.items, items),
        )

    def alive(self, items: Ids) -> Ids:
        """Those of the items that have not been deleted."""
        return items if self.catalogues is None else items[self.catalogues.items.alive(items)]

    def own(self, users: Ids) -> Ids:
        """Keys (n,) of what is kept of each user alone."""
        return _salted(users, _USER)


def _salted(keys: Ids, salt: int) -> Ids:
    return keys ^ np.int64(salt * 0x1E3779B97F4A7C15)


def _attributes(catalog: Catalog, keys: Ids) -> tuple[Ids, Floats]:
    return catalog.encoded_at(catalog.find(keys))


def _joined(*parts: tuple[Ids, Floats] | None) -> tuple[Ids, Floats]:
    given = [part for part in parts if part is not None]
    keys = np.concatenate([part[0] for part in given], axis=1)
    return keys, bounded(np.concatenate([part[1] for part in given], axis=1).astype(np.float32))
