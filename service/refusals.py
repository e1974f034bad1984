"""Explain why a config file is refused, by its own sections and keys."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

__all__ = ["explain"]


def explain(error: ValidationError, tables: type[BaseModel]) -> tuple[str, list[str]]:
    """Describe the problems of the first section that is refused.

    Parameters
    ----------
    error : ValidationError
        Raised when `tables` was validated.
    tables : type of BaseModel
        Model of the whole file.

    Returns
    -------
    section : str
        Path of the section, such as ``features.item.year``; ``config`` for the file itself.
    problems : list of str
        For each wrong key of that section: the key, its value and the remedy.
    """
    problems: dict[str, list[str]] = {}
    for detail in error.errors():
        (*sections, key), keys = _locate(detail["loc"], tables)
        problems.setdefault(".".join(sections) or "config", []).append(_problem(detail, key, keys))
    return next(iter(problems.items()))


def _problem(detail: ErrorDetails, key: str, keys: Sequence[str]) -> str:
    text = detail["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    if detail["type"] == "missing":
        return f"{key}: {text}"
    if detail["type"] == "extra_forbidden":
        close = get_close_matches(key, keys, 1)
        hint = f"did you mean {close[0]!r}? " if close else "remove it; "
        text = f"no such key; {hint}there are: {', '.join(keys)}"
    return f"{key} = {detail['input']!r}: {text}"


def _locate(loc: Sequence[str | int], tables: type[BaseModel]) -> tuple[list[str], list[str]]:
    """Path of a value as the file writes it, and the keys of its section.

    pydantic mixes the tags of union members into the path. A key may have the same name as a tag, so tags are recognised by
    the types.
    """
    path: list[str] = []
    section: type[BaseModel] | None = None
    kind: Any = tables
    for part in loc:
        members = _tagged(kind)
        if part in members:
            kind = members[part]
            continue
        path.append(str(part))
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if section is not None:
            field = section.model_fields.get(str(part))
            kind = _required(field.annotation) if field else None
        else:
            kind = get_args(kind)[-1] if get_origin(kind) is dict else None
    return path, list(section.model_fields) if section else []


def _required(kind: Any) -> Any:
    """Type of an optional value without None."""
    given = [member for member in get_args(kind) if member is not NoneType]
    return given[0] if NoneType in get_args(kind) and len(given) == 1 else kind


def _tagged(kind: Any) -> dict[Any, Any]:
    """Members of a tagged union by tag; empty for any other type."""
    if get_origin(kind) is not Annotated:
        return {}
    return {
        note.tag: get_args(member)[0]
        for member in get_args(get_args(kind)[0])
        if get_origin(member) is Annotated
        for note in get_args(member)[1:]
        if isinstance(note, Tag)
    }
