"""Learners by name: a config section names a file, and its keys are the constructor's keywords.

``[ranker.fm]`` builds the class that ``learners/rankers/fm.py`` registers as ``fm``. A learner with helpers is a folder:
``[rerankers.reloop2]`` builds the class that a file in ``learners/rerankers/reloop2/`` registers.
``[ranker."my_package.my_ranker"]`` builds the one ranker that the module ``my_package.my_ranker`` registers. Nothing is
imported before it is asked for.
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
"""Folder of each role's files."""

_REGISTERS = re.compile(r'^@register\("(\w+)"\)', re.MULTILINE)
_registered: dict[tuple[str, type], dict[str, type]] = {}
"""What each module registered for each role."""

_Class = TypeVar("_Class", bound=type)
_Role = TypeVar("_Role")


class ConfigError(ValueError):
    """A config that cannot be built. The message names the section, the key, its value and the remedy, one problem a line.

    Attributes
    ----------
    where : str
        The section, such as ``ranker.fm``.
    problems : list of str
        What is wrong, each with its remedy.
    """

    def __init__(self, where: str, problems: str | list[str]) -> None:
        self.where = where
        self.problems = [problems] if isinstance(problems, str) else problems
        super().__init__("\n".join(f"[{where}] {problem}" for problem in self.problems))


def register(name: str) -> Callable[[_Class], _Class]:
    """Give a learner or a policy the name by which a config asks for it, and matrix products one thread.

    Parameters
    ----------
    name : str
        In a role's folder: the name of the file without ``.py``, or of the learner's own folder.

    Raises
    ------
    TypeError
        When the class has none of the roles of `learners.base`.
    ValueError
        When the module already registered another class of that role under the name.
    """

    def decorate(cls: _Class) -> _Class:
        roles = [role for role in FOLDERS if issubclass(cls, role)]
        if len(roles) != 1:
            names = ", ".join(role.__name__ for role in FOLDERS)
            raise TypeError(f'register("{name}"): {cls.__name__} must derive from exactly one of {names}')
        names_here = _registered.setdefault((cls.__module__, roles[0]), {})
        if name in names_here and names_here[name].__qualname__ != cls.__qualname__:
            raise ValueError(
                f'register("{name}"): {names_here[name].__name__} of {cls.__module__} has that name; choose another'
            )
        names_here[name] = cls
        # Whatever the module computes with is loaded by now.
        one_thread()
        return cls

    return decorate


def available(role: type) -> list[str]:
    """Names that a config can ask for, sorted; the files are read, not imported.

    A file in a role's folder counts when it registers its own name, and a folder when one of its files registers the folder's
    name. So helpers may lie beside the learners.
    """
    return sorted(_modules(role))


def _modules(role: type) -> dict[str, str]:
    """Module of each learner of a role, by the name that a config asks for."""
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
    """Names that a file registers."""
    return _REGISTERS.findall(file.read_text(encoding="utf-8"))


def find(role: type, name: str, where: str = "") -> type:
    """Class registered for `role` under `name`, imported now.

    Parameters
    ----------
    role : type
        A role of `learners.base`.
    name : str
        Name of a file or of a folder in the role's folder, or the dotted path of a module elsewhere.
    where : str
        Section to name in errors; by default ``role.name``.

    Raises
    ------
    ConfigError
        When there is no such learner, or its module cannot be imported or registers something else.
    """
    where = where or f"{role.__name__.lower()}.{name}"
    dotted = "." in name and all(part.isidentifier() for part in name.split("."))
    module = name if dotted else _modules(role).get(name)
    if module is None:
        raise ConfigError(where, _no_such(role, name))
    try:
        importlib.import_module(module)
    except ImportError as error:
        remedy = "check the path and that its package is installed" if dotted else "install what it needs"
        raise ConfigError(where, f"module {module!r} cannot be imported ({error}); {remedy}") from error
    found = _registered.get((module, role), {})
    if dotted and len(found) == 1:
        return next(iter(found.values()))
    if dotted or name not in found:
        has = ", ".join(sorted(found)) or "none"
        raise ConfigError(
            where,
            f"module {module!r} must register one {role.__name__} and has {has}; put @register on the class, one in a module",
        )
    return found[name]


def defaults(cls: type) -> dict[str, Any]:
    """Keywords of a constructor that can be left out, with the values that they have then."""
    return {
        name: parameter.default
        for name, parameter in _parameters(cls).items()
        if parameter.default is not inspect.Parameter.empty
    }


def check_keywords(cls: type, keywords: Mapping[str, object], where: str) -> dict[str, Any]:
    """Check keywords against the signature of `cls`: names, types and the constraints annotated there.

    Numbers are not read from text, and a whole number will do where a float is asked. A list will do for a tuple.

    Returns
    -------
    dict
        The keywords given, no others: defaults are left to the constructor.

    Raises
    ------
    ConfigError
        With every unknown, missing or mistyped key.
    """
    parameters = _parameters(cls)
    model = _model(cls, parameters)
    try:
        checked = model.model_validate(dict(keywords))
    except ValidationError as error:
        raise ConfigError(where, [_problem(detail, parameters) for detail in error.errors()]) from None
    return {name: getattr(checked, field) for field, name in _fields(parameters).items() if name in keywords}


def build(role: Callable[..., _Role], name: str, keywords: Mapping[str, object], where: str = "") -> _Role:
    """Build what a config section asks for.

    Parameters
    ----------
    role : type
        A role of `learners.base`.
    name : str
        As for `find`.
    keywords : mapping
        The section's keys and values: keywords of the constructor.
    where : str
        Section to name in errors; by default ``role.name``.

    Raises
    ------
    ConfigError
        When there is no such learner, a key is unknown, missing or mistyped, or the constructor refuses the values.
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
    wanted, names = role.__name__.lower(), available(role)
    for other in FOLDERS:
        if other is not role and name in available(other):
            has = other.__name__.lower()
            return f"{name!r} is a {has}, not a {wanted}; move it to a {has} section"
    close = get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"no {wanted} is called {name!r}; {hint}there are: {', '.join(names) or 'none yet'}; or give the path of a module"


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    constructor: Callable[..., None] = inspect.getattr_static(cls, "__init__")
    if constructor is object.__init__:
        return {}
    hints = get_type_hints(constructor, include_extras=True)
    parameters = {}
    for name, parameter in list(inspect.signature(constructor).parameters.items())[1:]:
        loose = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if loose or name not in hints:
            problem = "must be spelled out" if loose else "needs a type"
            raise TypeError(f"{cls.__name__}.__init__: {name} {problem}, so that a config can be checked against it")
        parameters[name] = parameter.replace(annotation=hints[name])
    return parameters


def _fields(parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    # Not the keywords' own names: pydantic refuses some, such as `schema` or `model_path`, that a learner may well use.
    return {f"field_{place}": name for place, name in enumerate(parameters)}


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
        return f"{key} is missing; give it a value of type {annotation}"
    inside = "".join(f"[{part!r}]" for part in detail["loc"][1:])
    default = parameters[key].default
    remedy = f"give {annotation}" + ("" if default is inspect.Parameter.empty else f", or leave it out for {default!r}")
    return f"{key}{inside} = {detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}; {remedy}"
