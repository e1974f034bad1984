"""Urls of streams and logs, such as ``lmdb:///folder`` or ``file:recording.csv``: what follows the scheme is taken as it is."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["path_of", "scheme_of", "url_of_recording"]

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(?://)?", re.IGNORECASE)


def scheme_of(url: str) -> str:
    """Return the scheme in lower case; empty if the url has none."""
    found = _SCHEME.match(url)
    return found[1].lower() if found else ""


def path_of(url: str) -> Path:
    """Return the path that a url of a folder or a file names. ``#``, ``?``, ``%`` and ``[`` are characters like any other."""
    return Path(_SCHEME.sub("", url, count=1))


def url_of_recording(argument: str) -> str:
    """Return the url of what a command line names: a url, or else the path of a file."""
    return argument if "://" in argument or argument.startswith("file:") else f"file:{argument}"
