"""The keywords of learners' constructors: their types, bounds and defaults, and whether given ones are right."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from learners.plain_types import in_words

__all__ = ["REQUIRED", "ConfigError", "Keyword", "check_keywords", "defaults", "json_schema", "keywords"]


class ConfigError(ValueError):
    """A config is invalid. The message has one problem per line, with the section, the key, its value and the remedy.

    Attributes
    ----------
    where : str
        The section, such as ``ranker.fm``.
    problems : list of str
        The problems, each with its remedy.
    """

    def __init__(self, where: str, problems: str | list[str]) -> None:
        self.where = where
        self.problems = [problems] if isinstance(problems, str) else problems
        super().__init__("\n".join(f"[{where}] {problem}" for problem in self.problems))


class Keyword(NamedTuple):
    """A keyword of a constructor that a config may set.

    Attributes
    ----------
    name : str
    annotation : object
        Its type, with bounds.
    default : object
        `REQUIRED` if it has none.
    """

    name: str
    annotation: object
    default: object


REQUIRED = inspect.Parameter.empty
"""Default of a keyword that has none."""


def keywords(cls: type) -> list[Keyword]:
    """Return the keywords that a config may set, in the constructor's order; none that the service fills in."""
    return [Keyword(name, part.annotation, part.default) for name, part in _settable(cls).items()]


def json_schema(cls: type) -> dict[str, Any]:
    """Return the JSON Schema of a learner's section."""
    found = _model(cls, _settable(cls)).model_json_schema(by_alias=True)
    for schema in found["properties"].values():
        schema.pop("title", None)
    return found


def defaults(cls: type) -> dict[str, Any]:
    """Return the default values of a constructor's keywords."""
    return {
        name: parameter.default
        for name, parameter in _parameters(cls).items()
        if parameter.default is not inspect.Parameter.empty
    }


def check_keywords(cls: type, keywords: Mapping[str, object], where: str) -> dict[str, Any]:
    """Check keywords against the constructor's signature: names, types and annotated constraints.

    Text is not converted to numbers. An integer is accepted for a float, and a list for a tuple.

    Returns
    -------
    dict
        The given keywords only. The constructor adds its defaults.

    Raises
    ------
    ConfigError
        When keys are unknown, missing or mistyped. It lists all of them.
    """
    parameters = _parameters(cls)
    model = _model(cls, parameters)
    try:
        checked = model.model_validate(dict(keywords))
    except ValidationError as error:
        raise ConfigError(where, [_problem(detail, parameters) for detail in error.errors()]) from None
    return {name: getattr(checked, field) for field, name in _fields(parameters).items() if name in keywords}


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    constructor: Callable[..., None] = inspect.getattr_static(cls, "__init__")
    if constructor is object.__init__:
        return {}
    hints = get_type_hints(constructor, include_extras=True)
    parameters = {}
    for name, parameter in list(inspect.signature(constructor).parameters.items())[1:]:
        loose = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if loose or name not in hints:
            problem = "replace it by named keywords" if loose else "annotate its type"
            raise TypeError(f"{cls.__name__}.__init__: a config cannot be checked against {name}; {problem}")
        parameters[name] = parameter.replace(annotation=hints[name])
    return parameters


def _settable(cls: type) -> dict[str, inspect.Parameter]:
    # The service fills in the ranker's width where a learner needs it.
    filled = ["width"] if getattr(cls, "needs_hidden", False) else []
    return {name: part for name, part in _parameters(cls).items() if name not in filled and not _is_object(part.annotation)}


def _is_object(annotation: object) -> bool:
    return isinstance(annotation, type) and annotation not in (bool, int, float, str, dict, list, tuple)


def _fields(parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    # The keywords get other names, because pydantic refuses some that a learner may use, such as `schema` or `model_path`.
    return {f"field_{number}": name for number, name in enumerate(parameters)}


def _model(cls: type, parameters: Mapping[str, inspect.Parameter]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for field, name in _fields(parameters).items():
        annotation = parameters[name].annotation
        default = ... if parameters[name].default is inspect.Parameter.empty else parameters[name].default
        bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
        if get_origin(bare) is tuple:
            annotation = Annotated[
                annotation, BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
            ]
        fields[field] = (annotation, Field(default, alias=name))
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    return create_model(cls.__name__, __config__=config, **fields)


def _problem(detail: ErrorDetails, parameters: Mapping[str, inspect.Parameter]) -> str:
    key = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        close = get_close_matches(key, parameters, 1)
        hint = f"did you mean {close[0]!r}? " if close else "remove it; "
        return f"{key} = {detail['input']!r}: no such key; {hint}the keys are: {', '.join(parameters) or 'none'}"
    wanted = in_words(parameters[key].annotation)
    if detail["type"] == "missing":
        return f"{key} is missing; set it to {wanted}"
    inside = "".join(f"[{part!r}]" for part in detail["loc"][1:])
    default = parameters[key].default
    remedy = f"give {wanted}" + ("" if default is inspect.Parameter.empty else f", or leave it out (default {default!r})")
    return f"{key}{inside} = {detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}; {remedy}"
