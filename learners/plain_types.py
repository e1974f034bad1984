"""Types as a reader of a config knows them: "a number above 0", not ``Annotated[float, Field(gt=0)]``."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["in_words"]

_NOUNS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "values, true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    Any: ("any value", "values"),
}
"""One value of a type, and several."""

_RANGE = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_LIMITS = (*_RANGE, "multiple_of", "min_length", "max_length", "pattern")


def in_words(annotation: object) -> str:
    """Describe the values that an annotation allows.

    Parameters
    ----------
    annotation : type or annotated type
        As `typing.get_type_hints` returns it, with ``include_extras``.

    Examples
    --------
    >>> from pydantic import Field
    >>> in_words(Annotated[float, Field(gt=0, le=1)])
    'a number above 0, at most 1'
    >>> in_words(tuple[Annotated[int, Field(gt=0)], ...])
    'a list of whole numbers above 0'
    >>> in_words(Literal["cpu", "cuda"] | None)
    "'cpu' or 'cuda'; without a value if left out"
    """
    return _words(annotation, several=False)


def _words(annotation: Any, *, several: bool) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        sized = _is_list(parts[0])
        bounds = _bounds(parts[1:], sized=sized)
        return _words(parts[0], several=several) + (f"{'; ' if sized else ' '}{bounds}" if bounds else "")
    if origin in (Union, UnionType):
        given = [_words(part, several=several) for part in parts if part is not NoneType]
        return _listed(given) + ("; without a value if left out" if NoneType in parts else "")
    if origin is Literal:
        return _listed([repr(part) for part in parts])
    if _is_list(annotation):
        kinds = [part for part in parts if part is not Ellipsis]
        return ("lists of " if several else "a list of ") + (_words(kinds[0], several=True) if kinds else "values")
    if origin is dict or annotation is dict:
        inside = f" of {_words(parts[1], several=True)}" if parts and parts[1] is not Any else ""
        return ("tables" if several else "a table") + inside
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return ("tables" if several else "a table") + f" with {', '.join(annotation.model_fields)}"
    one, many = _NOUNS.get(annotation, (_named(annotation),) * 2)
    return many if several else one


def _is_list(annotation: object) -> bool:
    return (get_origin(annotation) or annotation) in (tuple, list, set, frozenset)


def _bounds(notes: tuple[object, ...], *, sized: bool) -> str:
    found: dict[str, Any] = {}
    for note in notes:
        for limit in note.metadata if isinstance(note, FieldInfo) else [note]:
            found |= {name: value for name in _LIMITS if (value := getattr(limit, name, None)) is not None}
    words = [_range(found)]
    if "multiple_of" in found:
        words.append(f"a multiple of {found['multiple_of']}")
    unit = "values" if sized else "characters"
    if "min_length" in found:
        words.append(f"at least {found['min_length']} {unit if found['min_length'] > 1 else unit[:-1]}")
    if "max_length" in found:
        words.append(f"at most {found['max_length']} {unit}")
    if "pattern" in found:
        words.append(f"matching {found['pattern']}")
    return ", ".join(filter(None, words))


def _range(found: dict[str, Any]) -> str:
    limits = {name: f"{found[name]:g}" if isinstance(found[name], float) else found[name] for name in found}
    # The largest float32 is not a limit that a reader has to know.
    limits = {name: text for name, text in limits.items() if name not in _RANGE or abs(found[name]) < 1e38}
    if "ge" in limits and "le" in limits:
        return f"from {limits['ge']} to {limits['le']}"
    return ", ".join(f"{word} {limits[name]}" for name, word in _RANGE.items() if name in limits)


def _listed(words: list[str]) -> str:
    words = list(dict.fromkeys(words))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _named(annotation: object) -> str:
    name = getattr(annotation, "__name__", str(annotation))
    return f"an object of class {name}"
