"""The events: what clients post to ``/v1/events``, what every log stores, and what the OpenAPI page describes.

They are one tagged union: ``type`` names the kind of event. Times are Unix seconds; 0 means the time of the append.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

__all__ = [
    "MAX_ID",
    "Attribute",
    "Event",
    "Forget",
    "Id",
    "Impression",
    "Interaction",
    "ItemUpdate",
    "Kind",
    "Scalar",
    "Tick",
    "Timestamp",
    "UserUpdate",
]

_LARGEST = 340282346638528859811704183484516925440
"""Of float32, to the last digit."""

MAX_ID = 256
"""Most characters of an id. A config may allow fewer, but no event can hold longer ones: hash them."""

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Kind = Annotated[str, Meta(min_length=1, max_length=64)]
Timestamp = Annotated[float, Meta(ge=0.0, le=1e11)]
Number = Annotated[float, Meta(extra_json_schema={"minimum": -_LARGEST, "maximum": _LARGEST})]
"""A number that learners can calculate with. What is read is checked later: see `service.learning.validation`."""
Probability = Annotated[float, Meta(extra_json_schema={"minimum": 0.0, "maximum": 1.0})]
Bytes = Annotated[bytes, Meta(extra_json_schema={"pattern": r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"})]
Hashes = Annotated[
    bytes, Meta(extra_json_schema={"pattern": r"^([A-Za-z0-9+/]{32})*([A-Za-z0-9+/]{11}=|[A-Za-z0-9+/]{22}==)?$"})
]
"""Hashed ids, 8 bytes each."""
Whole = Annotated[int, Meta(extra_json_schema={"minimum": -_LARGEST, "maximum": _LARGEST})]
"""A whole number, which stays whole: an article number of 19 digits is not the float next to it."""
Scalar = str | Whole | Number | bool
Attribute = str | Whole | Number | bool | list[str]


class _Event(
    Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,  # events hold no cycles, and there are many of them
):
    timestamp: Timestamp = 0.0


class Impression(_Event, frozen=True, tag="impression"):
    """Items shown to a user, with the feature rows they were scored on.

    Attributes
    ----------
    request_id : str
        Id that later interactions refer to.
    user : str
        User id.
    items : tuple of str, length n
        Item ids in the order shown.
    features : bytes
        The n feature rows as of serving time, packed by ``streams.batch.pack_rows``; empty when the client made the ranking.
    scores, propensities : tuple of float, length n or 0
        Score of each item; probability that it was put at its position, given the positions above it.
    unshown : bytes
        The candidates that were not shown, as hashed ids of 8 bytes, little-endian. The policy chose among these and the
        items shown. Empty when all were shown, or when the client made the ranking.
    source : str
        Name of the learner that ranked the items.
    version : int
        Version of the state that scored the items.
    context : dict
        Request context (device, page, ...), as the client sent it.
    history : bytes
        The user's last interactions as of serving time, packed by ``streams.batch.pack_history``; empty when there were none,
        or when the client made the ranking.
    carried : dict of str to bytes
        Bytes that learners get back when they learn from this ranking, by the learner's name in the config.
    base : bytes
        The ranker's own score of each item, float32, little-endian; empty when no reranker changed it.
    config : str
        Fingerprint of the config that scored the items.
    signature : bytes
        Proves that the service made this ranking. Without it, `features`, `history`, `carried`, `scores` and `base` are not
        trusted.
    timestamp : float
        Time of the ranking, Unix seconds.
    """

    request_id: Id
    user: Id
    items: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=1000)]
    features: Bytes = b""
    scores: Annotated[tuple[Number, ...], Meta(max_length=1000)] = ()
    propensities: Annotated[tuple[Probability, ...], Meta(max_length=1000)] = ()
    unshown: Hashes = b""
    source: Annotated[str, Meta(max_length=MAX_ID)] = ""
    version: int = 0
    context: dict[str, Scalar] = field(default_factory=dict)
    history: Bytes = b""
    carried: Annotated[dict[Kind, Bytes], Meta(max_length=64)] = field(default_factory=dict)
    base: Bytes = b""
    config: Annotated[str, Meta(max_length=MAX_ID)] = ""
    signature: Annotated[Bytes, Meta(max_length=MAX_ID)] = b""


class Interaction(_Event, frozen=True, tag="interaction"):
    """A user did something with an item: a click, a purchase, a rating.

    Attributes
    ----------
    id : str
        Makes a retry harmless: a second event with the same id is dropped. An event with an empty id is never dropped.
    request_id : str or None
        The impression that the interaction belongs to; None for none (a recorded rating).
    user, item, kind : str
        User id, item id, and kind of interaction. The config's ``[reward]`` gives the reward of each kind.
    value : float
        Strength: the stars of a rating, the seconds of a play, 1 for a click.
    context : dict
        Request context. Ignored when the interaction has an impression.
    timestamp : float
        Unix seconds.
    """

    user: Id
    item: Id
    id: Annotated[str, Meta(max_length=MAX_ID)] = ""
    request_id: Id | None = None
    kind: Kind = "click"
    value: Number = 1.0
    context: dict[str, Scalar] = field(default_factory=dict)


class ItemUpdate(_Event, frozen=True, tag="item"):
    """An item was added, changed or deleted. A deleted item is not served until another update adds it again."""

    item: Id
    attributes: dict[str, Attribute] = field(default_factory=dict)
    deleted: bool = False


class UserUpdate(_Event, frozen=True, tag="user"):
    """A user was added, changed or deleted. Deletion removes the attributes only; see `Forget` for the rest."""

    user: Id
    attributes: dict[str, Attribute] = field(default_factory=dict)
    deleted: bool = False


class Forget(_Event, frozen=True, tag="forget"):
    """Delete all that is kept about a user: history, attributes, open impressions, and the user's rows in every learner."""

    user: Id


class Tick(_Event, frozen=True, tag="tick"):
    """Event time has advanced without another event.

    The trainer writes ticks. A tick closes the open batch, so a replay of the log closes it at the same record (decision 0003).
    """


Event = Impression | Interaction | ItemUpdate | UserUpdate | Forget | Tick
