"""Builds learners by name: a config section names a file, and its keys are the constructor's keywords.

``[ranker.fm]`` builds the class that ``learners/rankers/fm.py`` registers as ``fm``. A learner with several files has a folder:
``[rerankers.reloop2]`` builds the class that a file in ``learners/rerankers/reloop2/`` registers.
``[ranker."my_package.my_ranker"]`` builds the only ranker that the module ``my_package.my_ranker`` registers. A module is
imported only when a config names it.
"""

from __future__ import annotations

import importlib
import importlib.resources
import inspect
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.resources.abc import Traversable
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from learners.base import Adapter, Policy, Ranker, Reranker, Retriever
from learners.threads import one_thread

__all__ = ["FOLDERS", "ConfigError", "available", "build", "check_keywords", "defaults", "find", "register"]

FOLDERS: dict[type, str] = {
    Retriever: "retrievers",
    Ranker: "rankers",
    Adapter: "adapters",
    Reranker: "rerankers",
    Policy: "policies",
}
"""Folder of each role's learners."""

_REGISTERS = re.compile(r'^@register\("(\w+)"\)', re.MULTILINE)
_registered: dict[tuple[str, type], dict[str, type]] = {}
"""Registered classes by name, for each module and role."""

_Class = TypeVar("_Class", bound=type)
_Role = TypeVar("_Role")


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


def register(name: str) -> Callable[[_Class], _Class]:
    """Register a learner or policy class under its config name. Also limits matrix products to one thread.

    Parameters
    ----------
    name : str
        Within a role's folder, this must be the file's name without ``.py``, or the name of the learner's own folder.

    Raises
    ------
    TypeError
        When the class does not implement exactly one role of `learners.base`.
    ValueError
        When the module has already registered another class of this role under the name.
    """

    def decorate(cls: _Class) -> _Class:
        roles = [role for role in FOLDERS if issubclass(cls, role)]
        if len(roles) != 1:
            names = ", ".join(role.__name__ for role in FOLDERS)
            raise TypeError(f'register("{name}"): {cls.__name__} must derive from exactly one of {names}')
        names_here = _registered.setdefault((cls.__module__, roles[0]), {})
        if name in names_here and names_here[name].__qualname__ != cls.__qualname__:
            raise ValueError(
                f'register("{name}"): {names_here[name].__name__} of {cls.__module__} has this name; choose another'
            )
        names_here[name] = cls
        # The libraries that the module computes with are loaded by now.
        one_thread()
        return cls

    return decorate


def available(role: type) -> list[str]:
    """List the names of all learners of a role, sorted. Files are read, not imported.

    A file in a role's folder is listed if it registers its own name, a folder if one of its files registers the folder's name.
    Other files are helpers.
    """
    return sorted(_modules(role))


def _modules(role: type) -> dict[str, str]:
    """Return the module of each learner of a role, by config name."""
    package = f"learners.{FOLDERS[role]}"
    found = {}
    for entry in importlib.resources.files(package).iterdir():
        if entry.is_dir():
            for file in entry.iterdir():
                if file.name.endswith(".py") and entry.name in _registers(file):
                    found[entry.name] = f"{package}.{entry.name}.{file.name.removesuffix('.py')}"
        elif entry.name.endswith(".py") and (name := entry.name.removesuffix(".py")) in _registers(entry):
            found[name] = f"{package}.{name}"
    return found


def _registers(file: Traversable) -> list[str]:
    """Return the names that a file registers."""
    return _REGISTERS.findall(file.read_text(encoding="utf-8"))


def find(role: type, name: str, where: str = "") -> type:
    """Import and return the class registered for `role` under `name`.

    Parameters
    ----------
    role : type
        A role of `learners.base`.
    name : str
        Name of a file or folder in the role's folder, or the dotted path of another module.
    where : str
        Config section to name in errors; by default ``role.name``.

    Raises
    ------
    ConfigError
        When the learner does not exist, or its module cannot be imported or registers something else.
    """
    where = where or f"{role.__name__.lower()}.{name}"
    dotted = "." in name and all(part.isidentifier() for part in name.split("."))
    module = name if dotted else _modules(role).get(name)
    if module is None:
        raise ConfigError(where, _no_such(role, name))
    try:
        importlib.import_module(module)
    except ImportError as error:
        remedy = "check the path, and install its package" if dotted else "install the missing package"
        raise ConfigError(where, f"module {module!r} cannot be imported ({error}); {remedy}") from error
    found = _registered.get((module, role), {})
    if dotted and len(found) == 1:
        return next(iter(found.values()))
    if dotted or name not in found:
        names = ", ".join(sorted(found)) or "none"
        raise ConfigError(
            where,
            f"module {module!r} registers {names}, and must register one {role.__name__}; put @register on one class only",
        )
    return found[name]


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


def build(role: Callable[..., _Role], name: str, keywords: Mapping[str, object], where: str = "") -> _Role:
    """Build the learner or policy of a config section.

    Parameters
    ----------
    role : type
        A role of `learners.base`.
    name : str
        As for `find`.
    keywords : mapping
        Keys and values of the section: the constructor's keywords.
    where : str
        Config section to name in errors; by default ``role.name``.

    Raises
    ------
    ConfigError
        When the learner does not exist, a key is unknown, missing or mistyped, or the constructor refuses a value.
    """
    assert isinstance(role, type)
    where = where or f"{role.__name__.lower()}.{name}"
    cls: Callable[..., _Role] = find(role, name, where)
    checked = check_keywords(find(role, name, where), keywords, where)
    try:
        return cls(**checked)
    except ValueError as error:
        raise ConfigError(where, str(error)) from error


def _no_such(role: type, name: str) -> str:
    expected, names = role.__name__.lower(), available(role)
    for other in FOLDERS:
        if other is not role and name in available(other):
            actual = other.__name__.lower()
            return f"{name!r} is a {actual}, not a {expected}; move it to a {actual} section"
    close = get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"no {expected} is called {name!r}; {hint}choose one of {', '.join(names) or 'none yet'}, or give the path of a module"
    )


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
    annotation = inspect.formatannotation(parameters[key].annotation)
    if detail["type"] == "missing":
        return f"{key} is missing; set it to a value of type {annotation}"
    inside = "".join(f"[{part!r}]" for part in detail["loc"][1:])
    default = parameters[key].default
    remedy = f"give {annotation}" + ("" if default is inspect.Parameter.empty else f", or leave it out (default {default!r})")
    return f"{key}{inside} = {detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}; {remedy}"
