"""Bodies of requests and responses other than rankings, as msgspec structs."""

from __future__ import annotations

from msgspec import Struct, field

from streams.events import Attribute, Id, Timestamp

__all__ = ["EventResult", "EventResults", "ItemDocument", "Problem", "UserDocument", "Written"]


class EventResult(Struct, kw_only=True, omit_defaults=True):
    """Result of one event of a list: ``accepted``, or ``rejected`` with the field and the remedy."""

    status: str
    field: str | None = None
    error: str | None = None


class EventResults(Struct, kw_only=True):
    """Response to ``POST /v1/events``: one result per event, in order.

    202: all were accepted, 207: some, 422: none. Accepted events will be learned; rejected ones are kept as dead letters.
    """

    accepted: int
    rejected: int
    results: list[EventResult]


class ItemDocument(Struct, kw_only=True, forbid_unknown_fields=True):
    """An item of the catalogue."""

    attributes: dict[str, Attribute] = field(default_factory=dict)
    item: Id | None = None
    timestamp: Timestamp = 0.0


class UserDocument(Struct, kw_only=True, forbid_unknown_fields=True):
    """A user and the known attributes."""

    attributes: dict[str, Attribute] = field(default_factory=dict)
    user: Id | None = None
    timestamp: Timestamp = 0.0


class Written(Struct, kw_only=True):
    """Response to a change that is in the log. `visible`: rankings use it already; otherwise they will, after the backlog."""

    visible: bool


class Problem(Struct, kw_only=True, omit_defaults=True):
    """An error: what is wrong, in which field, and what to do."""

    error: str
    field: str | None = None
