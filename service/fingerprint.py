"""Which checkpoints a config can go on from: those of a config, and of a program, with the same fingerprint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import xxhash

from learners import registry
from learners.base import Learner
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from memory.keyed.seen_items import SeenItems
from service.ranking.pipeline import Pipeline

__all__ = ["fingerprint_of"]


def fingerprint_of(sections: Mapping[str, Any], learners: Mapping[type, Mapping[str, Mapping[str, Any]]]) -> str:
    """Hash of what decides the state: the config with all its defaults, and the versions of what keeps the state.

    The order of the keys of a table makes no difference, except that of the learners of a role: they learn in that order.

    Parameters
    ----------
    sections : mapping
        The config's sections that decide, but for learners.
    learners : mapping of role to mapping of name to keywords
        The learners that have a state, in the order in which they learn. What they do not say is filled in from their
        constructors: a changed default is another fingerprint.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    learners.registry.ConfigError
        For a learner that there is not.
    """
    described = []
    for role, named in learners.items():
        for name, keywords in named.items():
            cls = registry.find(role, name)
            assert issubclass(cls, Learner)
            described.append([role.__name__, name, cls.state_version, registry.defaults(cls) | dict(keywords)])
    stores = {store.__name__: store.state_version for store in (Pipeline, Catalog, History, SeenItems)}
    text = json.dumps(_plain([sections, described, stores]), sort_keys=True)
    return str(xxhash.xxh3_64_hexdigest(text.encode()))


def _plain(value: Any) -> Any:
    """The same for the same value, however it was written, and in every process."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [_plain(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted(map(json.dumps, map(_plain, value)))
    # A default of a third party's own type. Addresses differ between processes.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
