"""A config with all its values, and where each comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from service.config import Config
from service.reference.keys import ROLES, Key, learner_keys, section_keys, tables

__all__ = ["as_toml"]


def as_toml(config: Config, given: Mapping[str, Any], *, only_given: bool = False) -> str:
    """Return a config as TOML, with a comment at each value that is a default.

    Parameters
    ----------
    config : Config
    given : mapping
        The file's own contents.
    only_given : bool
        Leave the defaults out.
    """
    values = config.model_dump()
    lines: list[str] = []
    for section, keys in _sections(config):
        own, mine = _at(values, section), _at(given, section)
        rows = list(_rows(keys, own or {}, mine or {}, only_given=only_given))
        if rows or mine is not None or not only_given:
            lines += ["", f"[{_path(section)}]" + ("" if rows or mine is not None else "  # default"), *rows]
    return "\n".join(lines[1:]) + "\n"


def _sections(config: Config) -> Iterator[tuple[tuple[str, ...], list[Key] | None]]:
    """Yield the path of each section and its keys; None where the keys are any."""
    for name in tables():
        if _at(config.model_dump(), path := tuple(name.split("."))) is not None:
            yield path, section_keys(name)
    yield ("reward",), None
    if config.tune:
        yield ("tune",), None
    for section in ROLES:
        named = getattr(config, section)
        if not named:
            yield (section,), []
        for name in named:
            yield (section, name), None if "." in name else learner_keys(section, name)


def _rows(keys: list[Key] | None, values: Mapping[str, Any], given: Mapping[str, Any], *, only_given: bool) -> Iterator[str]:
    if keys is None:
        for name, value in values.items():
            if name in given:
                yield f"{_key(name)} = {_value(value)}"
            elif not only_given:
                yield f"{_key(name)} = {_value(value)}  # default"
        return
    for key in keys:
        if key.name in given:
            yield f"{key.name} = {_value(values[key.name])}"
        elif key.required and not only_given:
            yield f"# {key.name}: has to be given"
        elif not only_given:
            default = values.get(key.name, key.default)
            yield f"# {key.name}: none  # default" if default is None else f"{key.name} = {_value(default)}  # default"


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _path(parts: tuple[str, ...]) -> str:
    return ".".join(_key(part) for part in parts)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return ("-" if value < 0 else "") + "inf" if math.isinf(value) else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, BaseModel):
        return _value(value.model_dump())
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(name)} = {_value(part)}" for name, part in value.items() if part is not None)
        return f"{{ {inside} }}" if inside else "{}"
    return f"[{', '.join(_value(part) for part in value)}]"
