"""The keys of a config, with their types, bounds, defaults and meanings, read from the classes that use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, get_args, get_type_hints

from learners.keywords import REQUIRED, keywords
from learners.plain_types import in_words
from learners.registry import FOLDERS, available, find
from service.reference.docstrings import docstring_of
from service.sections import Tables
from service.tables.section import Section

__all__ = ["ROLES", "Key", "all_learners", "learner_keys", "role_of", "section_keys", "tables"]

ROLES: dict[str, type] = {
    (folder if folder in Tables.model_fields else role.__name__.lower()): role for role, folder in FOLDERS.items()
}
"""Role of the learners of each section, such as ``ranker``."""


class Key(NamedTuple):
    """A key of a section.

    Attributes
    ----------
    section : str
        Such as ``stream`` or ``ranker.fm``.
    name : str
    type : str
        The values that it may have, in words.
    default : object
        None: no value; `learners.keywords.REQUIRED`: the key has to be given.
    text : str
        What it means.
    """

    section: str
    name: str
    type: str
    default: object
    text: str

    @property
    def required(self) -> bool:
        """Whether the key has to be given."""
        return self.default is REQUIRED


def tables() -> dict[str, type[Section]]:
    """Return the sections with fixed keys, by name; nested ones, such as ``stream.columns``, after the one they are in."""
    return dict(_tables(Tables, ""))


def section_keys(section: str) -> list[Key]:
    """Return the keys of a section with fixed keys. The name "" gives the keys of the file that are tables of any names.

    Raises
    ------
    KeyError
        For a section that does not exist.
    """
    table: type[Section] = tables()[section] if section else Tables
    hints, texts = get_type_hints(table, include_extras=True), docstring_of(table).meanings
    return [
        Key(
            section,
            name,
            in_words(hints[name]),
            REQUIRED if field.is_required() else field.get_default(call_default_factory=True),
            texts.get(name, ""),
        )
        for name, field in table.model_fields.items()
        if _table_in(hints[name]) is None
    ]


def learner_keys(section: str, name: str) -> list[Key]:
    """Return the keys of a learner.

    Parameters
    ----------
    section : str
        A key of `ROLES`.
    name : str
        As in the config.

    Raises
    ------
    ConfigError
        When there is no such learner.
    """
    cls = find(ROLES[section], name)
    texts = docstring_of(cls).meanings
    return [
        Key(f"{section}.{name}", key.name, in_words(key.annotation), key.default, texts.get(key.name, ""))
        for key in keywords(cls)
    ]


def all_learners() -> Iterator[tuple[str, str, type]]:
    """Yield the section, the name and the class of all learners."""
    for section, role in ROLES.items():
        for name in available(role):
            yield section, name, find(role, name)


def role_of(name: str) -> str | None:
    """Return the section of a learner; None if there is no learner of that name."""
    return next((section for section, role in ROLES.items() if name in available(role)), None)


def _tables(table: type[Section], path: str) -> Iterator[tuple[str, type[Section]]]:
    for name, hint in get_type_hints(table, include_extras=True).items():
        if name in table.model_fields and (inside := _table_in(hint)) is not None:
            yield f"{path}{name}", inside
            yield from _tables(inside, f"{path}{name}.")


def _table_in(hint: Any) -> type[Section] | None:
    """Return the table that a key holds; None if it holds something else."""
    members = [hint, *get_args(hint)]
    return next((part for part in members if isinstance(part, type) and issubclass(part, Section)), None)
