"""Encoding and decoding of events as JSON. Errors tell the client what to send instead."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import TypeVar, get_args

import msgspec

from streams.events import Event, ItemUpdate, Tick

__all__ = ["BadEvent", "decode", "decode_as", "encode", "partition_key", "preview"]

_Document = TypeVar("_Document", bound=msgspec.Struct)

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_UNKNOWN = object()
_LOOKED_AT = 65_536
"""Bytes at the start of what is not JSON that are searched for its cause."""
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError, RecursionError)
_STRUCTS: dict[str, type[msgspec.Struct]] = {struct.__struct_config__.tag: struct for struct in get_args(Event)}
_TYPES = {
    "str": "text in quotes",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "array": "a list",
    "object": "a JSON object",
}
_MESSAGE = re.compile(r"(?P<problem>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(?P<types>[^`]*)`(?: of length)?(?P<bound> (?:>=|<=) [^,]+)?(?:, got `(?P<got>\w+)`)?")


class BadEvent(ValueError):
    """A record or a request body that is not a valid event.

    Attributes
    ----------
    field : str
        The wrong field, such as ``context.device`` or ``items[3]``; empty when the data is not a JSON object. A long name is
        shortened.
    kind : str
        Short reason for counters: ``not_json``, ``not_an_event``, ``too_long``, ...
    """

    def __init__(self, field: str, problem: str, *, kind: str = "not_an_event", what: str = "event") -> None:
        self.field = preview(field, quote=False)
        super().__init__(f"{self.field or what}: {problem}")
        self.kind = kind


def encode(event: Event) -> bytes:
    """Encode an event as JSON in UTF-8.

    Raises
    ------
    BadEvent
        For NaN, infinities and text that is not valid Unicode: JSON cannot hold them.
    """
    try:
        data = _ENCODER.encode(event)
    except UnicodeEncodeError as error:
        raise BadEvent("", f"{error.object!r:.80} is not valid Unicode; replace the lone surrogates") from error
    # The encoder writes NaN and infinities as null. The decoder accepts null in no field.
    if b"null" in data:
        try:
            _DECODER.decode(data)
        except msgspec.ValidationError as error:
            field, _ = _locate(msgspec.json.decode(data), _split(error)[1], "null")
            raise BadEvent(field, "not a finite number; leave the event out, or replace the number") from error
    return data


def decode(data: bytes | str) -> Event:
    """Decode one event.

    Parameters
    ----------
    data : bytes or str
        One JSON object.

    Raises
    ------
    BadEvent
        Names the field, the value and what to send instead.
    """
    try:
        return _DECODER.decode(data)
    except msgspec.ValidationError as error:
        raise _explain(data, error) from error
    except _NOT_JSON as error:
        raise _not_json(data, error, "event") from error


def decode_as(document: type[_Document], data: bytes) -> _Document:
    """Decode the body of a request: one JSON object that is not an event.

    Parameters
    ----------
    document : type
        Struct to decode it as.
    data : bytes

    Raises
    ------
    BadEvent
        As in `decode`.
    """
    try:
        return msgspec.json.decode(data, type=document)
    except msgspec.ValidationError as error:
        raise _explain(data, error, document) from error
    except _NOT_JSON as error:
        raise _not_json(data, error, "body") from error


def partition_key(event: Event) -> bytes:
    """Return the key that keeps a user's events in one partition and in order: the user's id, or empty without a user."""
    return b"" if isinstance(event, ItemUpdate | Tick) else event.user.encode()


def _not_json(data: bytes | str, error: Exception, what: str) -> BadEvent:
    text = data[:_LOOKED_AT] if isinstance(data, str) else data[:_LOOKED_AT].decode("utf-8", "replace")
    problem = f"{preview(text, quote=False) or 'nothing'} is not JSON ({error}); send one JSON object in UTF-8"
    if re.search(r"[:,\[]\s*-?(NaN|Inf)", text):
        problem = f"JSON has no NaN and no Infinity ({preview(text, quote=False)}); send finite numbers"
    return BadEvent("", problem, kind="not_json", what=what)


def _explain(data: bytes | str, error: msgspec.ValidationError, document: type[msgspec.Struct] | None = None) -> BadEvent:
    """Turn an error of msgspec into one that names field, value and remedy. Slow, but only bad events take this path."""
    problem, path = _split(error)
    try:
        raw = msgspec.json.decode(data)
    except _NOT_JSON:
        raw = _UNKNOWN
    kind = raw.get("type") if isinstance(raw, dict) else None
    kind = kind if isinstance(kind, str) else "event"
    subject, struct = (document.__name__, document) if document else (f"event of type {kind}", _STRUCTS.get(kind))
    named = re.search(r"`(\w+)`", problem)
    if problem.startswith("Object missing required field") and named:
        if named[1] == "type":
            return BadEvent("type", f"missing; send one of {', '.join(_STRUCTS)}")
        return BadEvent(named[1], f"missing; every {subject} needs it")
    if problem.startswith("Object contains unknown field"):
        name = preview(problem.split("`")[1], quote=False)
        fields = struct.__struct_fields__ if struct else ()
        return BadEvent(name, f"not a field of {kind if document is None else subject}; {_suggestion(name, fields)}")
    expected = _EXPECTED.fullmatch(problem)
    what = "event" if document is None else "body"
    field, value = _locate(raw, path, expected["got"] if expected else None)
    got = "unusable" if value is _UNKNOWN else f"got {preview(value)}"
    if field == "type" and document is None:
        return BadEvent(field, f"{got}; {_suggestion(preview(value, quote=False), tuple(_STRUCTS))}")
    if problem == "Number out of range":
        return BadEvent(field, "out of range; send a finite number")
    if problem.startswith("Invalid base64"):
        return BadEvent(field, f"{got}; send base64, or leave the field out")
    if expected is None:
        return BadEvent(field, f"{got} ({problem}); correct it", what=what)
    types = expected["types"].split(" | ")
    wanted = " or ".join(_TYPES.get(name, name) for name in types if name != "int" or "float" not in types)
    bound = (expected["bound"] or "").strip()
    if bound and expected["types"] in ("str", "array", "object", "bytes"):
        limit = "at least" if bound.startswith(">=") else "at most"
        units = {"str": ("character", "characters"), "bytes": ("byte", "bytes")}
        singular, plural = units.get(expected["types"], ("entry", "entries"))
        return BadEvent(field, f"{got}; send {limit} {bound[3:]} {singular if bound[3:] == '1' else plural}")
    if field == "timestamp":
        wanted = "Unix seconds as a number"
    return BadEvent(field, f"{got}; send {wanted}{' ' + bound if bound else ''}", what=what)


def _split(error: msgspec.ValidationError) -> tuple[str, str]:
    """Split the message of msgspec into problem and path."""
    found = _MESSAGE.fullmatch(str(error))
    return (found["problem"], found["path"] or "") if found else (str(error), "")


def _suggestion(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"it can be {', '.join(known)}" if known else "leave it out"


def _locate(raw: object, path: str, got: str | None) -> tuple[str, object]:
    """Find the path and value that msgspec calls ``.context[...]``: the first entry there of JSON type `got`."""
    found = list(_walk(raw, re.findall(r"[^.\[\]]+|\.\.\.", path), ""))
    for field, value in found:
        if got is None or _json_type(value) == got:
            return field, value
    return found[0] if found else (path.lstrip("."), _UNKNOWN)


def _walk(raw: object, steps: list[str], field: str) -> Iterator[tuple[str, object]]:
    if not steps:
        yield field, raw
    elif isinstance(raw, dict):
        for name in raw if steps[0] == "..." else (steps[0],):
            if name in raw:
                yield from _walk(raw[name], steps[1:], f"{field}.{name}" if field else name)
    elif isinstance(raw, list) and steps[0].isdigit() and int(steps[0]) < len(raw):
        yield from _walk(raw[int(steps[0])], steps[1:], f"{field}[{steps[0]}]")


def _json_type(value: object) -> str:
    kinds = ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"), (list, "array"), (dict, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def preview(value: object, *, quote: bool = True) -> str:
    """Return a value as JSON, or with `quote` false as text; what is longer than 80 characters is shortened."""
    if isinstance(value, str):
        value = value[:81]
    text = json.dumps(value, ensure_ascii=False) if quote else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
