"""Learners as a reader meets them: the list of all, and the page of one."""

from __future__ import annotations

import textwrap
from difflib import get_close_matches

from rich.table import Table

from learners.registry import ConfigError, find
from service.reference.docstrings import docstring_of
from service.reference.keys import ROLES, Key, all_learners, learner_keys, role_of

__all__ = ["learner_page", "learners_table", "note"]

_WIDTH = 100


def learners_table() -> Table:
    """Return the list of all learners."""
    table = Table("section", "name", "what it does", title_justify="left")
    for section, name, cls in all_learners():
        table.add_row(section, name, docstring_of(cls).summary)
    return table


def learner_page(name: str) -> str:
    """Return what a learner does, its keys, and where it comes from, as plain text.

    Raises
    ------
    ConfigError
        When there is no such learner.
    """
    section = role_of(name)
    if section is None:
        names = [other for _, other, _ in all_learners()]
        close = get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError("learners", f"no learner is called {name!r}; {hint}there are: {', '.join(sorted(names))}")
    cls = find(ROLES[section], name)
    found = docstring_of(cls)
    parts = [f"[{section}.{name}]", found.summary, found.text]
    for key in learner_keys(section, name):
        meaning = textwrap.indent(textwrap.fill(f"{key.type}{note(key)}. {key.text}", _WIDTH - 4), "    ")
        parts.append(f"{key.name}\n{meaning}")
    return "\n\n".join(filter(None, parts)) + "\n"


def note(key: Key) -> str:
    """Return what a reader has to know of a key's default."""
    if key.required:
        return "; has to be given"
    return "" if key.default is None else f"; default {key.default!r}"
