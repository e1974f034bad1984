"""Limits of the texts in events: how long ids, texts, attributes and contexts may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from streams.codec import BadEvent, preview
from streams.events import MAX_ID, Attribute, Event, Impression, Interaction, ItemUpdate, Tick, UserUpdate

__all__ = ["DEFAULT_LIMITS", "TextLimits"]

_ENCODER = msgspec.json.Encoder()

_VALUES = 20_000
"""Values that any single event or request may have, without its attributes and context: 10,000 excluded ids are the most."""

_GROWTH = 8
"""A JSON text is at most this many times longer when it is written again: ``1e15`` becomes ``1000000000000000.0``."""


class TextLimits:
    """Refuses events with longer texts than the memory of a service is made for.

    Parameters
    ----------
    id : int
        Characters of an id, 1 to 256. No event can hold longer ids.
    text : int
        Bytes, in UTF-8, of an attribute's or a context's name or text, and of each tag.
    attributes : int
        Bytes of all attributes of an item or a user, as JSON.
    context : int
        Bytes of a context, as JSON.
    """

    def __init__(self, id: int = MAX_ID, text: int = 1024, attributes: int = 16_384, context: int = 4096) -> None:
        self.id, self.text, self.attributes, self.context = id, text, attributes, context
        self._values = max(_VALUES, attributes, context)
        # An event that is no longer than this needs no check. Most interactions are.
        self._harmless = min(text, attributes // _GROWTH, context // _GROWTH, *([id] if id < MAX_ID else []))

    def check_values(self, data: bytes) -> None:
        """Raise `BadEvent` for JSON that has more values than any event or request can have, before it is decoded.

        Each value but the first of a list or an object follows a comma.

        Parameters
        ----------
        data : bytes
            One event, or the body of a request.

        Raises
        ------
        BadEvent
            Of kind ``too_long``.
        """
        if len(data) > self._values and (count := data.count(b",")) > self._values:
            start = preview(data[:400].decode("utf-8", "replace"), quote=False)
            problem = f"{start} has {count} commas, more than the {self._values} that any can have: send less"
            raise BadEvent("", problem, kind="too_long", what="body")

    def check(self, event: Event, size: int | None = None) -> None:
        """Raise `BadEvent` if an event holds too long a text.

        Parameters
        ----------
        event : Event
        size : int or None
            Bytes of the event as JSON, if known: short events are not looked at.

        Raises
        ------
        BadEvent
            Of kind ``too_long``, naming the field, the start of its value, and the remedy.
        """
        if size is not None and size <= self._harmless:
            return
        if self.id < MAX_ID:  # no event holds longer ones
            self._check_event_ids(event)
        if isinstance(event, Interaction | Impression):
            self.check_context(event.context)
        elif isinstance(event, ItemUpdate | UserUpdate):
            self.check_attributes(event.attributes)

    def _check_event_ids(self, event: Event) -> None:
        if isinstance(event, Interaction):
            self.check_ids(user=event.user, item=event.item, id=event.id, request_id=event.request_id or "")
        elif isinstance(event, Impression):
            self.check_ids(user=event.user, request_id=event.request_id)
            self.check_listed("items", event.items)
        elif isinstance(event, ItemUpdate):
            self.check_ids(item=event.item)
        elif not isinstance(event, Tick):
            self.check_ids(user=event.user)

    def check_listed(self, name: str, ids: Sequence[str]) -> None:
        """Raise `BadEvent` for the first id of a list that is too long."""
        for position, one in enumerate(ids if self.id < MAX_ID else ()):
            self.check_ids(**{f"{name}[{position}]": one})

    def check_ids(self, **ids: str) -> None:
        """Raise `BadEvent` for the first id that is too long; the names are those of the fields."""
        for name, value in ids.items():
            if len(value) > self.id:
                remedy = f"shorten it, or raise id in [limits], at most to {MAX_ID}"
                problem = f"got {preview(value)} of {len(value)} characters; [limits] id = {self.id}: {remedy}"
                raise BadEvent(name, problem, kind="too_long")

    def check_context(self, context: Mapping[str, Attribute]) -> None:
        """Raise `BadEvent` if a context is too long."""
        if context:
            self._check("context", context, self.context)

    def check_attributes(self, attributes: Mapping[str, Attribute]) -> None:
        """Raise `BadEvent` if the attributes of an item or a user are too long."""
        if attributes:
            self._check("attributes", attributes, self.attributes)

    def _check(self, where: str, values: Mapping[str, Attribute], most: int) -> None:
        for name, value in values.items():  # before the whole is written: it may have megabytes
            if isinstance(value, str) and len(value) > self.text:
                self._check_text(f"{where}.{preview(name, quote=False)}", value, "text")
        whole = _ENCODER.encode(values)
        # Escapes in JSON only make texts longer. So if the whole is short enough, so are its parts.
        if len(whole) > self.text:
            for name, value in values.items():
                self._check_text(f"{where}.{preview(name, quote=False)}", name, "name")
                if isinstance(value, str):
                    self._check_text(f"{where}.{name}", value, "text")
                elif isinstance(value, list):
                    for position, tag in enumerate(value):
                        self._check_text(f"{where}.{name}[{position}]", tag, "text")
        if len(whole) > most:
            start = preview(whole[:400].decode("utf-8", "ignore"), quote=False)
            remedy = f"send less, or raise {where} in [limits]"
            raise BadEvent(where, f"got {start} of {len(whole)} bytes; [limits] {where} = {most}: {remedy}", kind="too_long")

    def _check_text(self, field: str, text: str, what: str) -> None:
        if 4 * len(text) > self.text and (size := len(text.encode())) > self.text:
            problem = f"got the {what} {preview(text)} of {size} bytes; [limits] text = {self.text}"
            raise BadEvent(field, f"{problem}: shorten it, or raise text in [limits]", kind="too_long")


DEFAULT_LIMITS = TextLimits()
"""The limits of a config without ``[limits]``."""
