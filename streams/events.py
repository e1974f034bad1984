"""What happened: the vocabulary of events.

One tagged union (``type`` names the kind) is what a client posts to ``/v1/events``, what every log stores, and what the
OpenAPI page describes. Times are Unix seconds; 0 means "when it was appended".
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

__all__ = [
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

Id = Annotated[str, Meta(min_length=1, max_length=256)]
Kind = Annotated[str, Meta(min_length=1, max_length=64)]
Timestamp = Annotated[float, Meta(ge=0.0, le=1e11)]
Scalar = str | float | bool
Attribute = str | float | bool | list[str]


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
        What later interactions join on.
    user : str
        User id.
    items : tuple of str, length n
        Item ids in the order shown.
    features : bytes
        The n feature rows as of serving time, packed by ``streams.batch.pack_rows``; empty when the client ranked by itself.
    scores, propensities : tuple of float, length n or 0
        Score of each item, and the probability that it was put at its position given the positions above it.
    unshown : bytes
        The candidates that were not shown, as hashed ids of 8 bytes, little-endian: with the shown ones they are what the
        policy chose among. Empty when all were shown, or when the client ranked by itself.
    source : str
        Name of the learner that made the order.
    version : int
        Version of the state that scored.
    context : dict
        Request context (device, page, ...), as the client sent it.
    history : bytes
        The user's last interactions as the ranking saw them, packed by ``streams.batch.pack_history``; empty when there were
        none, or when the client ranked by itself.
    carried : dict of str to bytes
        What learners want back when they learn from this ranking, by the learner's name in the config.
    base : bytes
        The ranker's own score of each item, float32, little-endian; empty when no reranker changed it.
    config : str
        Fingerprint of the configuration that scored.
    signature : bytes
        Proof that the service made this ranking: only then are `features`, `history`, `carried`, `scores` and `base` believed.
    timestamp : float
        When it was ranked, Unix seconds.
    """

    request_id: Id
    user: Id
    items: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=1000)]
    features: bytes = b""
    scores: tuple[float, ...] = ()
    propensities: tuple[float, ...] = ()
    unshown: bytes = b""
    source: str = ""
    version: int = 0
    context: dict[str, Scalar] = field(default_factory=dict)
    history: bytes = b""
    carried: dict[str, bytes] = field(default_factory=dict)
    base: bytes = b""
    config: str = ""
    signature: bytes = b""


class Interaction(_Event, frozen=True, tag="interaction"):
    """A user did something with an item: a click, a purchase, a rating.

    Attributes
    ----------
    id : str
        Makes a retry harmless: a second event with the same id is dropped. Empty: never taken for a duplicate.
    request_id : str or None
        The impression it answers; None for an interaction outside any impression (a recorded rating).
    user, item, kind : str
        Who, with what, and how. The config's ``[reward]`` says what each kind is worth.
    value : float
        Strength: stars of a rating, seconds of a play, 1 for a click.
    context : dict
        Context of an interaction that has no impression; ignored when it has one.
    timestamp : float
        Unix seconds.
    """

    user: Id
    item: Id
    id: Annotated[str, Meta(max_length=256)] = ""
    request_id: Id | None = None
    kind: Kind = "click"
    value: float = 1.0
    context: dict[str, Scalar] = field(default_factory=dict)


class ItemUpdate(_Event, frozen=True, tag="item"):
    """An item appeared, changed its attributes, or was deleted (and is never served again until it is updated anew)."""

    item: Id
    attributes: dict[str, Attribute] = field(default_factory=dict)
    deleted: bool = False


class UserUpdate(_Event, frozen=True, tag="user"):
    """A user appeared, changed attributes, or was deleted (attributes only: see `Forget`)."""

    user: Id
    attributes: dict[str, Attribute] = field(default_factory=dict)
    deleted: bool = False


class Forget(_Event, frozen=True, tag="forget"):
    """Remove what is kept per user: history, attributes, waiting impressions, and the user's own rows of every learner."""

    user: Id


class Tick(_Event, frozen=True, tag="tick"):
    """Time passed with nothing else to say.

    Written by the one who learns, so that closing a waiting batch is itself a fact in the log and a replay closes it at
    the same place (decision 0003).
    """


Event = Impression | Interaction | ItemUpdate | UserUpdate | Forget | Tick
