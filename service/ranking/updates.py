"""What events say about users, items and contexts, apart from their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeGuard

import numpy as np

from learners.base import Learner
from learners.features import Featurizer, hash_id
from memory.keyed.catalog import Catalog
from memory.moments import Moments
from streams.batch import Ids
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, UserUpdate

__all__ = ["Updates", "has_context"]

Notify = Callable[[str, Callable[[Learner], None]], None]
"""Calls all learners; the text says what they do, for the report of a failure."""


class _Forgetful(Protocol):
    def forget(self, users: Ids) -> None:
        """Erase what is known of users (N,)."""


class Updates:
    """Applies events to the catalogues, and tells the learners.

    Parameters
    ----------
    featurizer : Featurizer
    users, items : Catalog
    contexts : Moments
        Mean and variance of the numbers of contexts.
    forgetful : sequence of stores
        Other stores that forget a user.
    remove : callable
        Erases what other stores know of items (N,).
    notify : callable
        See `Notify`.
    """

    def __init__(
        self,
        featurizer: Featurizer,
        users: Catalog,
        items: Catalog,
        contexts: Moments,
        forgetful: Sequence[_Forgetful],
        remove: Callable[[Ids], None],
        notify: Notify,
    ) -> None:
        self._featurizer, self._users, self._items, self._contexts = featurizer, users, items, contexts
        self._forgetful, self._remove, self._notify = forgetful, remove, notify

    def apply(self, event: Event) -> None:
        """Update the catalogues and the moments of context numbers; other events have no effect."""
        if isinstance(event, ItemUpdate):
            self._update_item(event)
        elif isinstance(event, UserUpdate):
            key = hash_id(event.user)
            if event.deleted:
                self._users.forget(key)
            else:
                self._users.put(key, event.user, event.attributes, *self._featurizer.encode_user(event.attributes))
        elif isinstance(event, Forget):
            key = hash_id(event.user)
            self._users.forget(key)
            for store in self._forgetful:
                store.forget(np.array([key]))
            self._notify("forget", lambda learner: learner.forget(np.array([key])))
        elif self._contexts.columns.size and has_context(event):
            self._contexts.add(*self._featurizer.encode_context([event.context]))

    def _update_item(self, event: ItemUpdate) -> None:
        key = hash_id(event.item)
        if event.deleted:
            self._items.ensure(np.array([key]), [event.item])
            self._items.delete(key)
            self._remove(np.array([key]))
            self._notify("remove", lambda learner: learner.remove(np.array([key])))
        else:
            self._items.put(key, event.item, event.attributes, *self._featurizer.encode_item(event.attributes))
            self._notify("add", lambda learner: learner.add(np.array([key])))


def has_context(event: Event) -> TypeGuard[Impression | Interaction]:
    """Whether an event has its own request context; an interaction with a ranking uses the context of the ranking."""
    return isinstance(event, Impression) or (isinstance(event, Interaction) and event.request_id is None)
