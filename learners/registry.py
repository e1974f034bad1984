"""Builds learners by name: a config section names a file, and its keys are the constructor's keywords.

``[ranker.fm]`` builds the class that ``learners/rankers/fm.py`` registers as ``fm``. A learner with several files has a folder:
``[rerankers.reloop2]`` builds the class that a file in ``learners/rerankers/reloop2/`` registers.
``[ranker."my_package.my_ranker"]`` builds the only ranker that the module ``my_package.my_ranker`` registers. A module is
imported only when a config names it.
"""

from __future__ import annotations

import importlib
import importlib.resources
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.resources.abc import Traversable
from typing import TypeVar

from learners.base import Adapter, Policy, Ranker, Reranker, Retriever
from learners.keywords import ConfigError, check_keywords, defaults
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
