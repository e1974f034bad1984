"""Bodies of requests and responses other than rankings, as msgspec structs."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType, field

from streams.events import Attribute, Id, Timestamp

__all__ = ["EventResult", "EventResults", "Health", "ItemDocument", "LiveEvent", "Problem", "Status", "UserDocument", "Written"]


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


class Health(Struct, kw_only=True):
    """Response of a process that is well: ``alive`` or ``ready``."""

    status: str


class LiveEvent(Struct, kw_only=True):
    """A server-sent event of the live page: ``history``, a list of samples, or ``sample``. Its data are JSON."""

    event: str
    data: str
    retry: int | UnsetType = UNSET


class Status(Struct, kw_only=True):
    """Status of a process: what every role has. A trainer and a replica add what they know of their logs.

    Attributes
    ----------
    name, role : str
        Of the config; ``trainer`` or ``replica``.
    version : int
        Number of micro-batches that the state has learned.
    lag_seconds : float or None
        Seconds that the state may be behind the event log; None while that is not known.
    caught_up : bool
        Whether everything that was in the log at the start has been learned.
    next : dict of str to int
        Offset of the next record of each partition.
    lag : int
        Records of the log that have not been read.
    users, items : int
        How many have attributes.
    retrievers, adapters, rerankers : list of str
    ranker, policy : str
    fingerprint : str
        Of the config.
    memory_bytes : dict of str to int
        Memory by store.
    notices : list of str
        Last messages for the operator.
    digest, shared_digest : str
        Of the whole state, and of what a replica has of it, if they were asked for.
    """

    name: str
    role: str
    version: int
    lag_seconds: float | None
    caught_up: bool
    next: dict[str, int]
    lag: int
    users: int
    items: int
    retrievers: list[str]
    ranker: str
    adapters: list[str]
    rerankers: list[str]
    policy: str
    fingerprint: str
    memory_bytes: dict[str, int]
    notices: list[str]
    digest: str | UnsetType = UNSET
    shared_digest: str | UnsetType = UNSET
