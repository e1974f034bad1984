"""One HTML page of a report: tables, pictures, configs and versions. It loads nothing from elsewhere."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path

from rich.table import Table
from rich.text import Text

__all__ = ["versions", "write_page"]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd }
th { text-align: left; font-weight: 600 } td.right, th.right { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto } figure { margin: 1rem 0 } svg { max-width: 100%; height: auto }
"""

_PACKAGES = ("freshet", "numpy", "numba", "torch", "faiss-cpu", "faiss-gpu", "river", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_page(
    path: Path, table: Table, picture: Path, remarks: Sequence[str], configs: Mapping[str, str], command: str
) -> None:
    """Write a page.

    Parameters
    ----------
    path : Path
    table : Table
        Its title is that of the page.
    picture : Path
        An SVG file, which becomes part of the page.
    remarks : sequence of str
    configs : mapping of str to str
        TOML of each config with all its values, seeds included, by name.
    command : str
        What made the report.
    """
    title = escape(str(table.title))
    svg = picture.read_text(encoding="utf-8")
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p><code>{escape(command)}</code></p>",
        _html(table),
        *(f"<p>{escape(remark)}</p>" for remark in remarks),
        f"<figure>{svg[svg.index('<svg') :]}</figure>",
        *(f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" for name, text in configs.items()),
        f"<p>{escape(', '.join(f'{name} {version}' for name, version in versions().items()))}</p></body></html>",
    ]
    path.write_text("\n".join(parts), encoding="utf-8")


def _html(table: Table) -> str:
    right = [' class="right"' if column.justify == "right" else "" for column in table.columns]
    head = "".join(f"<th{side}>{escape(str(column.header))}</th>" for column, side in zip(table.columns, right, strict=True))
    rows = zip(*(column.cells for column in table.columns), strict=True)
    body = "".join(
        "<tr>" + "".join(f"<td{side}>{_cell(str(cell))}</td>" for cell, side in zip(row, right, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(markup: str) -> str:
    text = escape(Text.from_markup(markup).plain)
    return f"<b>{text}</b>" if markup.startswith("[bold]") else text
