"""What the docstrings of classes say, in parts."""

from __future__ import annotations

import inspect
from typing import NamedTuple

from docstring_parser import DocstringStyle, parse

__all__ = ["Docstring", "docstring_of"]


class Docstring(NamedTuple):
    """Parts of a numpydoc docstring.

    Attributes
    ----------
    summary : str
        The first sentence, on one line.
    text : str
        What follows it, before the first section.
    meanings : dict
        Meaning of each parameter and attribute, on one line.
    """

    summary: str
    text: str
    meanings: dict[str, str]


def docstring_of(cls: type) -> Docstring:
    """Return the parts of a class's docstring.

    Examples
    --------
    >>> docstring_of(Docstring).meanings["text"]
    'What follows it, before the first section.'
    """
    found = parse(inspect.getdoc(cls) or "", DocstringStyle.NUMPYDOC)
    meanings = {
        name: " ".join((entry.description or "").split()) for entry in found.params for name in entry.arg_name.split(", ")
    }
    return Docstring(" ".join((found.short_description or "").split()), found.long_description or "", meanings)
