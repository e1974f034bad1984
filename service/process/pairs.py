"""Learners that have to fit a ranker: what they are built with, and which pairs are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learners import registry
from learners.base import Adapter, Ranker, Reranker
from service.config import ConfigError

__all__ = ["check_changes", "for_adapter", "for_reranker"]


def for_adapter(name: str, keywords: dict[str, Any], ranker: Ranker) -> dict[str, Any]:
    """Keywords of an adapter, with the ranker that it adapts.

    Raises
    ------
    ConfigError
        When the config names a ranker here.
    """
    if "ranker" in keywords:
        raise ConfigError(
            f"adapters.{name}", f"ranker = {keywords['ranker']!r}: an adapter adapts the one of [ranker]; leave it out"
        )
    return keywords | {"ranker": ranker}


def for_reranker(name: str, keywords: dict[str, Any], ranker_name: str, ranker: Ranker) -> dict[str, Any]:
    """Keywords of a reranker, with the width of the ranker's hidden vector if it works on that.

    Raises
    ------
    ConfigError
        When the config says the width, or the ranker has no hidden vector.
    """
    where = f"rerankers.{name}"
    if not registry.find(Reranker, name, where).needs_hidden:  # type: ignore[attr-defined]
        return keywords
    if "width" in keywords:
        raise ConfigError(where, f"width = {keywords['width']!r}: it is the ranker's to say; leave it out")
    if not ranker.hidden_width:
        raise ConfigError(where, f"needs a ranker with a hidden vector; {ranker_name} has none. Choose another, such as fm")
    return keywords | {"width": ranker.hidden_width}


def check_changes(adapters: Mapping[str, Adapter], ranker_name: str, ranker: Ranker) -> None:
    """Check that adapters change parameters that the ranker has, and no two of them the same one.

    Raises
    ------
    ConfigError
        Naming the adapter and the parameter.
    """
    adaptable, taken = ranker.adaptable(), dict[str, str]()
    for name, adapter in adapters.items():
        for parameter in adapter.changes:
            if parameter not in adaptable:
                problem = f"changes {parameter!r}; the adaptable parameters of {ranker_name} are {', '.join(adaptable)}"
                raise ConfigError(f"adapters.{name}", f"{problem}. Choose another ranker, or leave the adapter out")
            if parameter in taken:
                problem = f"changes {parameter!r}, and so does [adapters.{taken[parameter]}]; leave one of them out"
                raise ConfigError(f"adapters.{name}", problem)
            taken[parameter] = name
