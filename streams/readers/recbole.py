"""RecBole's atomic files: tab-separated, with a header of column names and types (``user_id:token``)."""

from __future__ import annotations

from pathlib import Path

from streams.readers.cleaning import Types
from streams.readers.layout import Layout, Side, SideFile
from streams.readers.mapping import BadRecording, ColumnMap
from streams.readers.text import TextReader, first_line
from streams.readers.updates import side_updates

__all__ = ["recbole"]

_TYPES = {"token", "float", "token_seq", "float_seq"}


def recbole(path: Path, columns: ColumnMap | None, users: SideFile, items: SideFile) -> Layout:
    """Return the layout of an ``.inter`` file, with its ``.user`` and ``.item`` files.

    Without `columns`, RecBole's own names are used: ``user_id``, ``item_id``, ``timestamp``, and ``rating`` or else ``label``.
    Other columns of tokens or numbers become context.
    """
    types = _types(path)
    if columns is None:
        value = next((name for name in ("rating", "label") if name in types), None)
        taken = {"user_id", "item_id", "timestamp", value}
        context = tuple(name for name, kind in types.items() if name not in taken and kind in ("token", "float"))
        columns = ColumnMap("user_id", "item_id", "timestamp" if "timestamp" in types else None, value, context=context)
    return Layout(
        TextReader(path, "\t", rename=_name),
        columns,
        _declared(types),
        _side("user", path, users, columns.user),
        _side("item", path, items, columns.item),
    )


def _side(side: str, path: Path, given: SideFile, identity: str) -> Side | None:
    default = path.with_suffix(f".{side}")
    if given is False or (given is None and not default.exists()):
        return None
    found = given if isinstance(given, Path) else default
    types = _types(found)
    reader = TextReader(found, "\t", rename=_name)
    return lambda bad, timestamp: side_updates(side, reader, identity, _declared(types), bad, timestamp)


def _types(path: Path) -> dict[str, str]:
    types: dict[str, str] = {}
    line = first_line(path)
    if not line:
        raise BadRecording(path, "empty file", "give a file with a header and rows")
    for column in line.split("\t"):
        name, _, kind = column.partition(":")
        if kind not in _TYPES:
            raise BadRecording(path, f"header {column!r} has no type", f"write it as {name}:token, or set another format")
        types[name] = kind
    return types


def _name(column: str) -> str:
    return column.partition(":")[0]


def _declared(types: dict[str, str]) -> Types:
    lists = {name: " " for name, kind in types.items() if kind.endswith("_seq")}
    return Types({name: kind == "float" for name, kind in types.items()}, lists)
