"""Builds small learners for the checks, and binds them to the columns of `learners.contract.worlds.world`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TypeVar

import numpy as np

from learners.base import Adapter, Learner, Policy, Ranker, Reranker, Retriever
from learners.contract.worlds import world
from learners.lookups import Catalogues, UserHistory
from learners.registry import build, find
from learners.schema import EvidenceColumn, FeatureColumn, Schema
from memory.keyed.catalog import Catalog
from memory.keyed.history import History

__all__ = ["bind_to_world", "bound", "small"]

_Learner = TypeVar("_Learner", bound=Learner)
_Any = TypeVar("_Any", bound=Learner | Policy)

_USERS = (FeatureColumn("user.group", "user", "category"),)
_ITEMS = (
    FeatureColumn("item.group", "item", "category"),
    FeatureColumn("item.number", "item", "number"),
    FeatureColumn("item.sometimes", "item", "category"),
)
_IDS = FeatureColumn("user.id", "user", "category"), FeatureColumn("item.id", "item", "category")

SCHEMA = Schema(
    # In the rows of the world, the user's column is between the ids and the item's columns.
    features=(*_IDS, *_USERS, *_ITEMS),
    users=_USERS,
    items=_ITEMS,
    context=(FeatureColumn("context.third", "context", "category"),),
    history=5,
)
"""Columns of `learners.contract.worlds.world`."""

EVIDENCE = (EvidenceColumn("noise.score", prior=1.0), EvidenceColumn("truth.log_chance", by_activity=True))
"""What retrievers know of its rows. Only rerankers that work on it are told; what they begin with misleads them."""


def small(role: type, name: str) -> Learner | Policy:
    """Build a learner or policy by its name, with the ``checks_parameters`` of its class. It is not bound yet.

    An adapter is built with the small ranker that its class names in ``checks_ranker``. A ranker that needs a retriever is
    built with a small one that has learned ``world(5)``.

    Raises
    ------
    learners.registry.ConfigError
        When the name is unknown, or an adapter's ranker has no parameters to adapt.
    """
    cls = find(role, name)
    keywords = dict(getattr(cls, "checks_parameters", {}))
    if issubclass(cls, Adapter):
        assert cls.checks_ranker, f"{cls.__name__}.checks_ranker is empty; set it to the name of a ranker to check it with"
        ranker = small(Ranker, cls.checks_ranker)
        assert isinstance(ranker, Ranker)
        keywords["ranker"] = bind_to_world(ranker)
    if issubclass(cls, Ranker) and cls.needs_retriever:
        retriever = small(Retriever, cls.needs_retriever)
        assert isinstance(retriever, Retriever)
        bind_to_world(retriever).learn(world(5))
        keywords["retriever"] = retriever
    built: Learner | Policy = build(role, name, keywords)
    return built


def bound(make: Callable[[], _Any]) -> Callable[[], _Any]:
    """Wrap a factory, so that it binds each new learner to the world. Policies are not bound."""

    def made() -> _Any:
        learner = make()
        if isinstance(learner, Learner):
            bind_to_world(learner)
        return learner

    return made


def bind_to_world(learner: _Learner) -> _Learner:
    """Bind a learner to the columns of the world, and to catalogues and a history of its users and items."""
    evidence = EVIDENCE if isinstance(learner, Reranker) and learner.needs_evidence else ()
    learner.bind(replace(SCHEMA, evidence=evidence), *_known())
    return learner


@cache
def _known() -> tuple[Catalogues, UserHistory]:
    """Return the catalogues and the history of a world. They are shared, so do not write to them."""
    feedback = world(5)
    user = feedback.user[feedback.request]
    users, items, history = Catalog(64, len(_USERS)), Catalog(64, len(_ITEMS)), History(64, 20)
    first_item = len(_IDS) + len(_USERS)
    for catalog, ids, columns in (
        (users, user, slice(len(_IDS), first_item)),
        (items, feedback.item, slice(first_item, None)),
    ):
        for row in np.unique(ids, return_index=True)[1].tolist():
            catalog.put(int(ids[row]), str(ids[row]), {}, feedback.features[row, columns], feedback.values[row, columns])
    history.append(user, feedback.item, feedback.outcome_time, feedback.kind, feedback.reward > 0)
    return Catalogues(users, items), UserHistory(history)
