"""Fingerprint of a config and the program's state versions: checkpoints can be resumed only if it is the same."""

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
    """Hash of all that determines the learned state: the config with all defaults, and the state versions.

    The order of keys in a table does not matter, except for the learners of a role: they learn in that order.

    Parameters
    ----------
    sections : mapping
        The config's sections that determine the state, without the learners.
    learners : mapping of role to mapping of name to keywords
        The stateful learners, in the order in which they learn. Missing keywords are filled in from the constructors: a
        changed default changes the fingerprint. `device` counts as its default: it says where a learner computes, not what it
        learns. So a replica on a CPU can follow a trainer on a GPU.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    learners.registry.ConfigError
        For an unknown learner.
    """
    described = []
    for role, named in learners.items():
        for name, keywords in named.items():
            cls = registry.find(role, name)
            assert issubclass(cls, Learner)
            defaults = registry.defaults(cls)
            anywhere = {"device": defaults["device"]} if "device" in defaults else {}
            described.append([role.__name__, name, cls.state_version, defaults | dict(keywords) | anywhere])
    stores = {store.__name__: store.state_version for store in (Pipeline, Catalog, History, SeenItems)}
    text = json.dumps(_canonical([sections, described, stores]), sort_keys=True)
    return str(xxhash.xxh3_64_hexdigest(text.encode()))


def _canonical(value: Any) -> Any:
    """JSON value that is equal for equal settings, however they were written, in every process."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [_canonical(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted(map(json.dumps, map(_canonical, value)))
    # A default of a third party's type. The memory address in its text differs between processes.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
