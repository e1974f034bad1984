"""Values of a config by path: in the parsed document, and in the text with its comments."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import tomlkit

from learners import registry
from learners.base import Adapter, Policy, Ranker, Reranker, Retriever
from service import config as configs
from service.config import ConfigError
from service.tables.ranges import joined, parts

__all__ = ["ONE_OF", "ROLES", "Document", "changed", "configured", "resolved", "rewritten"]

Document = dict[str, Any]
"""A parsed TOML document."""

ROLES: dict[str, type] = {
    "retrievers": Retriever,
    "ranker": Ranker,
    "adapters": Adapter,
    "rerankers": Reranker,
    "policy": Policy,
}
"""Sections of learners, and their roles."""

ONE_OF = ("ranker", "policy")
"""Sections that hold exactly one learner."""


def configured(document: Mapping[str, Any], section: str) -> list[str]:
    """Return the names of the learners in a section, those of a missing section included."""
    return list(getattr(configs.parse(document), section))


def resolved(document: Mapping[str, Any], path: str) -> Any:
    """Return the value of a key: what the document says, or else the default.

    Parameters
    ----------
    document : mapping
    path : str
        A number in it is an index of a list.

    Raises
    ------
    LookupError
        When there is no such key.
    ConfigError
        For an unknown learner.
    """
    section, *rest = parts(path)
    value: Any = configs.parse(document).model_dump()[section]
    for depth, part in enumerate(rest):
        if isinstance(value, list | tuple) and part.isdigit():
            value = value[int(part)]
        elif depth == 1 and section in ROLES:
            cls = registry.find(ROLES[section], rest[0], joined([section, rest[0]]))
            value = (registry.defaults(cls) | value)[part]
        elif isinstance(value, Mapping):
            value = value[part]
        else:
            raise LookupError(path)
    return list(value) if isinstance(value, tuple) else value


def changed(document: Mapping[str, Any], values: Mapping[str, Any]) -> Document:
    """Return a copy of a document with other values.

    Parameters
    ----------
    document : mapping
    values : mapping of path to value
        For ``ranker`` and ``policy``, the name of the learner; for another learner's section, True to add it with its
        defaults where it is missing, or False to remove it.

    Raises
    ------
    ConfigError
        For a path that leads through a value that is no table.
    """
    new: Document = copy.deepcopy(dict(document))
    _change(new, values, dict)
    return new


def rewritten(text: str, values: Mapping[str, Any]) -> str:
    """Return the text of a config with other values. Its comments and the order of its keys stay.

    Parameters
    ----------
    text : str
        TOML.
    values : mapping
        As for `changed`. Values that the text already has are not written again.
    """
    document = tomlkit.parse(text)
    plain = document.unwrap()
    _change(document, {path: value for path, value in values.items() if not _has(plain, path, value)}, tomlkit.table)
    return tomlkit.dumps(document)


def _has(document: Mapping[str, Any], path: str, value: Any) -> bool:
    """Whether a key has this value, written or by default. The value of an added learner's key is new."""
    section, *rest = parts(path)
    if not rest:
        return configured(document, section) == [value]
    if section in ROLES and rest[0] not in configured(document, section):
        return value is False and len(rest) == 1
    if section in ROLES and len(rest) == 1:
        return value is True
    try:
        return bool(resolved(document, path) == value)
    except LookupError:
        return False


def _change(document: MutableMapping[str, Any], values: Mapping[str, Any], new_table: Callable[[], Any]) -> None:
    for path, value in values.items():
        section, *rest = parts(path)
        if section in ROLES and section not in document:
            document[section] = new_table()
            for name in configured({}, section):
                document[section][name] = new_table()
        if not rest:
            for name in [name for name in document[section] if name != value]:
                del document[section][name]
            if value not in document[section]:
                document[section][value] = new_table()
        elif section in ROLES and len(rest) == 1:
            if not value:
                document[section].pop(rest[0], None)
            elif rest[0] not in document[section]:
                document[section][rest[0]] = new_table()
        else:
            _set(document, path, value, new_table)


def _set(document: MutableMapping[str, Any], path: str, value: Any, new_table: Callable[[], Any]) -> None:
    *above, last = parts(path)
    table: Any = document
    for depth, part in enumerate(above):
        if isinstance(table, list):
            table = table[int(part)]
            continue
        if part not in table:
            inherited = None
            if depth == len(above) - 1 and last.isdigit():
                inherited = resolved(document, joined(above))
            table[part] = inherited if isinstance(inherited, list) else new_table()
        table = table[part]
    if not isinstance(table, list | MutableMapping):
        raise ConfigError("tune", f"{path}: {joined(above)} is {table!r}, not a table; write it as a table in the config")
    key: Any = int(last) if isinstance(table, list) else last
    table[key] = value
