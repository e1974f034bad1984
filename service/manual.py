"""The manual's reference pages, in Markdown: configs, learners, metrics, events, HTTP and commands, as the code has them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_type_hints

import msgspec
from typer.main import get_command

from learners.base import Learner
from learners.plain_types import in_words
from service.cli import app as commands
from service.config import parse
from service.http.app import create_app
from service.process.runtime import open_runtime
from service.reference.docstrings import docstring_of
from service.reference.keys import ROLES, Key, all_learners, learner_keys, section_keys, tables
from service.reference.metrics import families
from service.reference.pages import note
from streams.events import Event

__all__ = ["pages"]

_CONFIG = "A config is a TOML file. `freshet config show FILE` prints the values of a file, and the defaults of the other keys."
_EVENTS = (
    "What clients post to `/v1/events`, and what the log holds: JSON objects with a `type`. Times are Unix seconds; 0 means "
    "the time of the append."
)


def pages() -> dict[str, str]:
    """Return the pages by path, such as ``reference/config.md``."""
    found = {
        "reference/config.md": _config(),
        "reference/metrics.md": _metrics(),
        "reference/events.md": _events(),
        "reference/http.md": _http(),
        "reference/commands.md": _commands(),
        "reference/learners/index.md": _learners(),
    }
    return found | {f"reference/learners/{name}.md": _learner(section, name, cls) for section, name, cls in all_learners()}


def _config() -> str:
    parts = ["# Config", _CONFIG]
    for name, table in tables().items():
        found = docstring_of(table)
        parts += [f"## `[{name}]`", found.summary, found.text, _keys(section_keys(name))]
    parts += ["## Tables of any names", _keys(section_keys("")), "The keys of each learner: [learners](learners/index.md)."]
    return _joined(parts)


def _learners() -> str:
    parts = ["# Learners", "A section of the config names a learner: `[ranker.fm]`."]
    for section in ROLES:
        rows = [(f"[{name}]({name}.md)", docstring_of(cls).summary) for role, name, cls in all_learners() if role == section]
        parts += [f"## `[{section}]`", _table(["name", "what it does"], rows)]
    return _joined(parts)


def _learner(section: str, name: str, cls: type) -> str:
    found = docstring_of(cls)
    parts = [f"# `[{section}.{name}]`", found.summary, found.text, _keys(learner_keys(section, name))]
    if issubclass(cls, Learner) and cls.metrics is not Learner.metrics:
        parts += ["**Metrics** (`freshet_learner`):", inspect.getdoc(cls.metrics) or ""]
    module = inspect.getmodule(cls)
    _, _, references = (inspect.getdoc(module) or "").partition("References\n----------\n")
    if references:
        parts += ["**References**", references]
    return _joined(parts)


def _metrics() -> str:
    rows = [(f"`{name}`", type_, ", ".join(labels), text) for name, type_, labels, text in families()]
    table = _table(["name", "type", "labels", "what it is"], rows)
    return _joined(["# Metrics", "`GET /metrics` has these for Prometheus.", table])


def _events() -> str:
    parts = ["# Events", _EVENTS]
    for cls in get_args(Event):
        found, hints = docstring_of(cls), get_type_hints(cls, include_extras=True)
        rows = [
            (f"`{field.encode_name}`", f"{in_words(hints[field.name])}{_default(field)}", found.meanings.get(field.name, ""))
            for field in msgspec.structs.fields(cls)
        ]
        tag = str(cls.__struct_config__.tag)
        parts += [f"## `{tag}`", found.summary, found.text, _table(["field", "what it may be", "what it is"], rows)]
    return _joined(parts)


def _http() -> str:
    with open_runtime(parse({})) as runtime:
        document: dict[str, Any] = create_app(runtime).openapi()
    parts = ["# HTTP", document["info"]["description"], "`GET /docs` of a running service has all fields."]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            rows = [(code, answer["description"]) for code, answer in operation["responses"].items()]
            parts += [f"## `{method.upper()} {path}`", operation["summary"], operation.get("description", "")]
            parts += [_table(["answer", "when"], rows)]
    return _joined(parts)


def _commands() -> str:
    group = get_command(commands)
    parts = ["# Commands", f"```text\n{_help(group, 'freshet', None)}\n```"]
    for path, text in _subcommands(group, "freshet", None):
        parts += [f"## `{path}`", f"```text\n{text}\n```"]
    return _joined(parts)


def _subcommands(group: Any, path: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = group.context_class(group, info_name=path if parent is None else path.rpartition(" ")[2], parent=parent)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield f"{path} {name}", _help(command, name, context)
        if hasattr(command, "list_commands"):
            yield from _subcommands(command, f"{path} {name}", context)


def _help(command: Any, name: str, parent: Any) -> str:
    text: str = command.get_help(command.context_class(command, info_name=name, parent=parent, terminal_width=100))
    return text


def _keys(keys: Iterable[Key]) -> str:
    rows = [(f"`{key.name}`", key.type + note(key), key.text) for key in keys]
    return _table(["key", "what it may be", "what it does"], rows) if rows else ""


def _table(head: list[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("``", "`").split())


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "; required"
    return f"; default {json.dumps(field.default)}" if isinstance(field.default, str | int | float) else ""


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"
