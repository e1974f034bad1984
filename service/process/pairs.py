"""Match learners that build on each other: add their keywords, and refuse combinations that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learners import registry
from learners.base import Adapter, Ranker, Reranker, Retriever
from service.config import ConfigError

__all__ = ["check_changes", "for_adapter", "for_ranker", "for_reranker"]


def for_adapter(name: str, keywords: dict[str, Any], ranker: Ranker) -> dict[str, Any]:
    """Keywords of an adapter, with its ranker added.

    Raises
    ------
    ConfigError
        When the config sets the keyword ``ranker``.
    """
    if "ranker" in keywords:
        raise ConfigError(
            f"adapters.{name}", f"ranker = {keywords['ranker']!r}: an adapter adapts the ranker of [ranker]; leave it out"
        )
    return keywords | {"ranker": ranker}


def for_ranker(name: str, keywords: dict[str, Any], retrievers: Mapping[str, Retriever]) -> dict[str, Any]:
    """Keywords of a ranker, with the retriever added if it ranks with the model of one.

    Raises
    ------
    ConfigError
        When the config sets the keyword ``retriever``, or does not have the retriever.
    """
    where = f"ranker.{name}"
    needed: str = registry.find(Ranker, name, where).needs_retriever  # type: ignore[attr-defined]
    if not needed:
        return keywords
    if "retriever" in keywords:
        raise ConfigError(where, f"retriever = {keywords['retriever']!r}: it is the one of [retrievers.{needed}]; leave it out")
    if needed not in retrievers:
        raise ConfigError(where, f"ranks with the model of a retriever that is not configured; add [retrievers.{needed}]")
    return keywords | {"retriever": retrievers[needed]}


def for_reranker(name: str, keywords: dict[str, Any], ranker_name: str, ranker: Ranker) -> dict[str, Any]:
    """Keywords of a reranker, with the width of the ranker's hidden vector added if it needs one.

    Raises
    ------
    ConfigError
        When the config sets the width, or the ranker has no hidden vector.
    """
    where = f"rerankers.{name}"
    if not registry.find(Reranker, name, where).needs_hidden:  # type: ignore[attr-defined]
        return keywords
    if "width" in keywords:
        raise ConfigError(where, f"width = {keywords['width']!r}: it is the ranker's width; remove the key")
    if not ranker.hidden_width:
        raise ConfigError(where, f"needs a ranker with a hidden vector; {ranker_name} has none. Choose another, such as fm")
    return keywords | {"width": ranker.hidden_width}


def check_changes(adapters: Mapping[str, Adapter], ranker_name: str, ranker: Ranker) -> None:
    """Check that the ranker has the parameters that adapters change, and that no two adapters change the same one.

    Raises
    ------
    ConfigError
        Names the adapter and the parameter.
    """
    adaptable, taken = ranker.adaptable(), dict[str, str]()
    for name, adapter in adapters.items():
        for parameter in adapter.changes:
            if parameter not in adaptable:
                problem = f"changes {parameter!r}; the adaptable parameters of {ranker_name} are {', '.join(adaptable)}"
                raise ConfigError(f"adapters.{name}", f"{problem}. Choose another ranker, or remove the adapter")
            if parameter in taken:
                problem = f"changes {parameter!r}, and so does [adapters.{taken[parameter]}]; leave one of them out"
                raise ConfigError(f"adapters.{name}", problem)
            taken[parameter] = name
