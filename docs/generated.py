"""Hooks of mkdocs: pages made from the code, and links that leave the manual."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.structure.files import File, Files

from service.manual import pages

_OUTSIDE = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)+((?:[A-Z]+\.md|Makefile|(?:examples|deploy|learners|benchmarks|tests|service|streams)/)[^)]*)\)"
)
"""Links to files of the repository that are no pages, from a page in docs/ or one folder below."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the reference."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Name files of the repository instead of linking to them."""
    return _OUTSIDE.sub(lambda found: found[1] if found[1].strip("`") == found[2] else f"{found[1]} (`{found[2]}`)", markdown)
