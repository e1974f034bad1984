"""RecBole's atomic files: tab-separated, with a header of column names and types (``user_id:token``)."""

from __future__ import annotations

from pathlib import Path

from streams.readers.beside import beside, stems
from streams.readers.cleaning import Types
from streams.readers.files import first_line
from streams.readers.layout import Layout, Options, Side, SideFile
from streams.readers.mapping import BadRecording, ColumnMap
from streams.readers.text import TextReader
from streams.readers.updates import side_updates

__all__ = ["recbole"]

_TYPES = {"token", "float", "token_seq", "float_seq"}


def recbole(
    path: Path,
    columns: ColumnMap | None,
    users: SideFile,
    items: SideFile,
    options: Options,
) -> Layout:
    """Return the layout of an ``.inter`` file, with its ``.user`` and ``.item`` files, which may leave out the name of a split.

    Without `columns`, RecBole's own names are used: ``user_id``, ``item_id``, ``timestamp``, and ``rating`` or else ``label``.
    Other columns of tokens or numbers become context.
    """
    types = _types(path, options.encoding)
    if columns is None:
        value = next((name for name in ("rating", "label") if name in types), None)
        taken = {"user_id", "item_id", "timestamp", value}
        context = tuple(name for name, kind in types.items() if name not in taken and kind in ("token", "float"))
        columns = ColumnMap("user_id", "item_id", "timestamp" if "timestamp" in types else None, value, context=context)
    return Layout(
        TextReader(path, "\t", rename=_name, encoding=options.encoding),
        columns,
        _declared(types).with_text(options.of(columns)),
        _side("user", path, users, columns.user, options),
        _side("item", path, items, columns.item, options),
    )


def _side(side: str, path: Path, given: SideFile, identity: str, options: Options) -> Side | None:
    default = beside(path, *(f"{stem}.{side}" for stem in stems(path)))
    found = given if isinstance(given, Path) else default
    if given is False or found is None:
        return None
    types = _declared(_types(found, options.encoding)).with_text(options.side(side))
    reader = TextReader(found, "\t", rename=_name, encoding=options.encoding)
    return lambda bad, timestamp: side_updates(side, reader, identity, types, bad, timestamp)


def _types(path: Path, encoding: str | None) -> dict[str, str]:
    types: dict[str, str] = {}
    line = first_line(path, encoding)
    if not line:
        raise BadRecording(path, "empty file", "give a file with a header and rows")
    for column in line.split("\t"):
        name, _, kind = column.partition(":")
        if kind not in _TYPES:
            problem = f"header {column[:60]!r} has no type"
            raise BadRecording(path, problem, f"write it as {name[:40]}:token, or set another format")
        types[name] = kind
    return types


def _name(column: str) -> str:
    return column.partition(":")[0]


def _declared(types: dict[str, str]) -> Types:
    lists = {name: " " for name, kind in types.items() if kind.endswith("_seq")}
    return Types({name: kind == "float" for name, kind in types.items()}, lists)
