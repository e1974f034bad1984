"""What events say about users, items and contexts, apart from their outcomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from learners.base import Learner
from learners.features import hash_id
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, UserUpdate

if TYPE_CHECKING:
    from service.ranking.pipeline import Pipeline

__all__ = ["apply_event"]


def apply_event(pipeline: Pipeline, event: Event) -> None:
    """Update the catalogues and the moments of context numbers, and tell the learners; other events have no effect."""
    if isinstance(event, ItemUpdate):
        key = hash_id(event.item)
        if event.deleted:
            pipeline.items.ensure(np.array([key]), [event.item])
            pipeline.items.delete(key)
            pipeline.dense.remove(np.array([key]))
            _notify(pipeline, "remove", lambda learner: learner.remove(np.array([key])))
        else:
            pipeline.items.put(key, event.item, event.attributes, *pipeline.featurizer.encode_item(event.attributes))
            _notify(pipeline, "add", lambda learner: learner.add(np.array([key])))
    elif isinstance(event, UserUpdate):
        key = hash_id(event.user)
        if event.deleted:
            pipeline.users.forget(key)
        else:
            pipeline.users.put(key, event.user, event.attributes, *pipeline.featurizer.encode_user(event.attributes))
    elif isinstance(event, Forget):
        key = hash_id(event.user)
        pipeline.users.forget(key)
        for store in (pipeline.history, pipeline.seen, pipeline.dense):
            store.forget(np.array([key]))
        _notify(pipeline, "forget", lambda learner: learner.forget(np.array([key])))
    elif pipeline.contexts.columns.size and _has_context(event):
        pipeline.contexts.add(*pipeline.featurizer.encode_context([event.context]))


def _notify(pipeline: Pipeline, doing: str, call: Callable[[Learner], None]) -> None:
    for name, learner in pipeline.learners():
        pipeline.isolation.run(name, doing, call, learner)


def _has_context(event: Event) -> TypeGuard[Impression | Interaction]:
    """Whether an event has its own request context; an interaction with a ranking uses the context of the ranking."""
    return isinstance(event, Impression) or (isinstance(event, Interaction) and event.request_id is None)
