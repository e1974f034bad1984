"""The tables of a config file, with their keys, types, bounds and defaults."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator

from service.tables.ranges import Ranges
from service.tables.rows import Features, Negatives, Reward, RewardRule, Statistics
from service.tables.section import Count, Keywords, Positive, Section
from streams.events import MAX_ID

__all__ = [
    "Capacity",
    "Checkpoint",
    "DeadLetterLog",
    "Items",
    "Limits",
    "Server",
    "Tables",
    "Weights",
]

HostName = Annotated[str, Field(pattern=r"^(\*|(\*\.)?[\w.-]+|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]
"""Origin of a web page as browsers send it: scheme, host, and the port unless it is the scheme's default."""


class Columns(Section):
    """Column names of a recorded file; see `streams.recorded.ColumnMap`.

    Attributes
    ----------
    user, item : str
    timestamp : str or None
        None, written ``false`` or ``""``: the file has no times, and its rows are in time order.
    timestamp_unit : {"s", "ms", "us", "ns"}
        Unit of times that are numbers.
    timestamp_format : str or None
        Format of times that are neither numbers, dates nor ISO 8601, as for ``strptime``: ``"%y%m%d%H"`` for 14102100.
    value : str or None
        Column of the interactions' values, such as ratings; None: each value is 1.
    kind : str or None
        Column of the interactions' kinds; None: all are of `stream.kind`.
    context, user_attributes, item_attributes : tuple of str
        Columns that become attributes.
    """

    user: str = "user"
    item: str = "item"
    timestamp: str | Literal[False] | None = "timestamp"
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    timestamp_format: str | None = None
    value: str | None = None
    kind: str | None = None
    context: tuple[str, ...] = Field(default=(), strict=False)
    user_attributes: tuple[str, ...] = Field(default=(), strict=False)
    item_attributes: tuple[str, ...] = Field(default=(), strict=False)

    @field_validator("timestamp", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        """TOML has no null: `false` and empty text mean that the table has no times."""
        if value is None or value is False or value == "":
            return None
        if not isinstance(value, str):
            raise ValueError("give the name of a column, or false if there is none")
        return value


class Stream(Section):
    """Where events come from, how they are joined, and how they are split into batches.

    Attributes
    ----------
    url : str
        ``lmdb:///folder`` (embedded log), ``kafka://host:port/topic``, ``memory://`` (lost when the process ends) or
        ``file:recording``.
    window : float
        Seconds that an impression waits for its interactions. Then it closes: its positions without one get reward 0.
    close_after_click : float or None
        Seconds after a click at which an impression closes, if its window has not ended before; None: the window alone closes
        it. A click is any interaction with the impression. One that comes later still corrects what was learned.
    closing_click : {"first", "last"}
        The click from which `close_after_click` counts: the first of the impression, or the last so far.
    below_clicks : {"learn", "skip"}
        What happens to the positions below all clicks when an impression closes: reward 0, too, or they are not learned,
        because the user may not have seen them. An impression without a click keeps all its rows.
    lateness : float
        Seconds after the window in which an interaction still corrects what was learned.
    batch_rows : int
        Rows in a micro-batch.
    max_impressions : int
        Most impressions kept for joining; beyond it the window of the oldest one ends early. An impression takes about
        1 KB, 12 bytes per feature and item, and 8 bytes per candidate that was not shown.
    impression_bytes : int
        Most bytes of the impressions kept for joining, with the same effect.
    max_interaction_ids : int
        Most interaction ids kept for dropping duplicates.
    group : str or None
        Consumer group: several `freshet train` processes share the partitions of a Kafka topic, and each learns its own
        state from its partitions. None: this process learns from all partitions.
    max_skew : float
        Seconds by which an event's timestamp may lie after the time at which it was appended.
    retain : int or None
        Records to keep in the embedded log before the oldest checkpoint, or before the newest one when the log is nearly full;
        None: all, until the log is full and refuses events.
    ack : {"broker", "queued"}
        When ``POST /v1/events`` is answered: once the events are in the log, or once they are in the buffer in memory.
    buffer : int
        Bytes of events that may wait to be appended; beyond it requests are refused.
    options : dict
        Passed to the log unchanged; see `streams.lmdb_log.LmdbLog` and `streams.kafka.log.KafkaLog`.
    format, columns, kind, sorted, strict, users, items, header, encoding
        How to read a recorded file; see `streams.recorded.open_recording`.
    """

    url: str = "memory://"
    window: Positive = 600.0
    close_after_click: Positive | None = None
    closing_click: Literal["first", "last"] = "last"
    below_clicks: Literal["learn", "skip"] = "learn"
    lateness: Annotated[float, Field(ge=0)] = 600.0
    batch_rows: Count = 64
    max_impressions: Count = 100_000
    impression_bytes: Count = 1 << 30
    max_interaction_ids: Count = 200_000
    group: str | None = None
    max_skew: Positive = 300.0
    retain: Annotated[int, Field(ge=0)] | None = None
    ack: Literal["broker", "queued"] = "broker"
    buffer: Count = 64 << 20
    options: Keywords = Field(default={})
    format: str | None = None
    columns: Columns | None = None
    kind: str = "rating"
    sorted: bool = False
    strict: bool = False
    users: str | None = None
    items: str | None = None
    header: bool | tuple[str, ...] = True
    encoding: str | None = None

    @field_validator("header", mode="plain")
    @classmethod
    def _header(cls, value: object) -> object:
        if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
            return tuple(value)
        if not isinstance(value, bool):
            raise ValueError("give true, false, or a list of the names of all columns")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            return value if value is None else codecs.lookup(value).name
        except LookupError:
            raise ValueError("no such encoding; give one such as latin-1, cp1252, utf-16 or shift_jis") from None


class Capacity(Section):
    """Users or items whose attributes are kept.

    Attributes
    ----------
    capacity : int
        Most users or items. Beyond it the least recently used one is evicted.
    bytes : int
        Most bytes of their ids and attributes, in the same way.
    """

    capacity: Count = 100_000
    bytes: Count = 256 << 20


class Items(Capacity):
    """The catalogue of items.

    Attributes
    ----------
    capacity : int
        Most items whose attributes are kept; beyond it the least recently used one is evicted.
    recommend : {"auto", "listed", "all"}
        Items that may be recommended: ``listed`` are those with an item update; ``all`` are also ids that only interactions
        have named, misspelt ones too; ``auto`` means all until the first item update comes, and those listed from then on.
        ``POST /v1/rank`` ranks any id that is not deleted.
    """

    recommend: Literal["auto", "listed", "all"] = "auto"


class HistorySize(Section):
    """The history store.

    Attributes
    ----------
    capacity : int
        Most users. Beyond it the least recently used one is evicted.
    length : int
        Last interactions kept of each user.
    recent : int
        Last interactions that learners get with a request.
    """

    capacity: Count = 100_000
    length: Annotated[int, Field(gt=0, le=10_000)] = 50
    recent: Count = 10


class Seen(Section):
    """What users have touched and are not recommended again. Without retrievers, only what is in ``[history]`` is left out.

    Attributes
    ----------
    users : int
        Most users.
    items : int
        Most items of all users; the oldest leave first. One takes 10 bytes, up to 80 in a user's newest list.
    per_user : int
        Most items of one user.
    kinds : list of str or None
        Kinds of interactions that count, such as ``["buy"]`` where what was only clicked may come again; None: all.
    """

    users: Count = 100_000
    items: Annotated[int, Field(ge=8)] = 1_000_000
    per_user: Annotated[int, Field(ge=8, le=1_000_000)] = 1000
    kinds: list[str] | None = None


class Limits(Section):
    """Longest texts in events and requests; longer ones are refused, at every door. See docs/limits.md.

    Attributes
    ----------
    id : int
        Characters of an id, at most 256.
    text : int
        Bytes, in UTF-8, of an attribute's or a context's name or text, and of each tag.
    attributes : int
        Bytes of all attributes of an item or a user, as JSON.
    context : int
        Bytes of a context, as JSON.
    """

    id: Annotated[int, Field(gt=0, le=MAX_ID)] = MAX_ID
    text: Annotated[int, Field(gt=0, le=1 << 16)] = 1024
    attributes: Annotated[int, Field(gt=0, le=1 << 20)] = 16_384
    context: Annotated[int, Field(gt=0, le=1 << 16)] = 4096


class Checkpoint(Section):
    """Where and how often the state is saved.

    Attributes
    ----------
    folder : str or None
        None: ``checkpoints`` in the embedded log's folder. It is required with a Kafka topic, and holds the dead letters then,
        too.
    every : float
        Seconds between two checkpoints.
    keep : int
        Checkpoints that are kept.
    """

    folder: str | None = None
    every: Positive = 30.0
    keep: Annotated[int, Field(ge=2)] = 3


class Weights(Section):
    """The weights log: the changes of the trainer's state, for replicas.

    Attributes
    ----------
    url : str or None
        ``lmdb:///folder`` on one machine, ``kafka://host:port/topic`` (one partition) across machines; None: no replicas.
    every : float
        Seconds between two published changes.
    options : dict
        Passed to the log unchanged, as in ``[stream.options]``.
    """

    url: str | None = None
    every: Positive = 0.1
    options: Keywords = Field(default={})


class DeadLetterLog(Section):
    """The dead letter log: it keeps records that cannot be used.

    Attributes
    ----------
    url : str or None
        None: a log in the data folder. ``lmdb:///folder``: a log in that folder. ``kafka://host:port/topic``: the data folder
        first (memory, if there is none), from which letters are copied to the topic.
    options : dict
        Passed to the log unchanged, as in ``[stream.options]``.
    """

    url: str | None = None
    options: Keywords = Field(default={})


class Server(Section):
    """The HTTP server and the engine behind it.

    Attributes
    ----------
    host, port
        Address to listen on. Other addresses than those of this machine alone need keys.
    keys : str or None
        File of API keys, made with `freshet key new`; see docs/security.md. Only its owner may read it. Keys of the environment
        variable ``FRESHET_API_KEYS`` count, too. Without any, everyone who reaches the address may do everything.
    hosts : tuple of str
        Host names, without a port, that requests may name in their ``Host`` header, in addition to `host`, ``localhost``,
        ``127.0.0.1`` and ``::1``. Behind a proxy, list the name that the proxy sends. ``*.example.com`` allows every name
        below it, ``*`` every name. If `host` is ``0.0.0.0`` or ``::``, every IP address is allowed. Other requests are
        answered 421, except on ``/healthz``, ``/readyz`` and ``/metrics``.
    origins : tuple of str
        Origins, such as ``https://shop.example``, whose pages may send requests from a browser (CORS); ``*``: all.
    max_body : int
        Most bytes of a request body.
    max_bodies : int
        Most bytes of memory for the bodies of all requests: those that arrive count once, those that are processed eight times.
        Beyond it, bodies of more than 16 KiB are answered 503 with ``Retry-After``.
    max_connections : int
        Most connections at once; further ones are answered 503 with ``Retry-After`` and closed.
    max_head : int
        Most bytes of a request's target (else 414), and of it and the headers together (else 431).
    receive : float
        Seconds in which a request has to arrive, from its first byte on (else 408), and a response has to be taken.
    idle : float
        Seconds for which a connection stays open after a response: longer than at proxies (60 s), which could otherwise use one
        that has just been closed.
    max_events : int
        Most events of one ``POST /v1/events``.
    flush : float
        Seconds that rows wait for a micro-batch to fill before a tick closes it.
    batch_requests : int
        Most requests that are scored in one batch.
    queue : int
        Most requests that may wait to be scored; further ones are answered 503 with ``Retry-After`` at once.
    max_wait : float
        Most seconds that a request may have to wait, estimated from the latest scoring times. If the estimate is longer, the
        request is answered 503 with ``Retry-After`` at once. At least `batch_requests` requests may always wait.
    timeout : float
        Seconds until a request without an answer is answered 503; it is no longer scored then.
    learning_share : float
        Smallest share of the engine's time for learning while there is something to learn; 0: requests always go first.
    own_events : float
        Most seconds that a request waits until the events of its own user, accepted before it, are learned; 0: it does not
        wait. At a replica, and at a member of a group, requests do not wait.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    keys: str | None = None
    hosts: tuple[HostName, ...] = Field(default=(), strict=False)
    origins: tuple[Origin, ...] = Field(default=(), strict=False)
    max_body: Count = 4 << 20
    max_bodies: Count = 256 << 20
    max_connections: Count = 1000
    max_head: Annotated[int, Field(ge=1024)] = 16 << 10
    receive: Positive = 30.0
    idle: Positive = 75.0
    max_events: Count = 10_000
    flush: Positive = 0.02
    batch_requests: Count = 16
    queue: Count = 256
    max_wait: Positive = 1.0
    timeout: Positive = 10.0
    learning_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    own_events: Annotated[float, Field(ge=0, le=1)] = 0.05


class Tables(Section):
    """All tables of a config file, with their defaults.

    Attributes
    ----------
    reward : dict
        Reward of an interaction by its kind: a number, or a rule as a table. Other kinds are refused.
    retrievers, adapters, rerankers : dict
        Learners by name, with the keywords of each.
    ranker, policy : dict
        The one ranker, and the one policy.
    tune : dict
        Keys that ``freshet tune`` changes, and over what.
    """

    stream: Stream = Stream()
    features: Features = Features()
    reward: dict[str, Reward] = Field(default={"click": 1.0, "rating": RewardRule(at_least=4.0)}, strict=False)
    users: Capacity = Capacity()
    items: Items = Items()
    history: HistorySize = HistorySize()
    seen: Seen = Seen()
    statistics: Statistics | None = None
    negatives: Negatives = Negatives()
    limits: Limits = Limits()
    checkpoint: Checkpoint = Checkpoint()
    weights: Weights = Weights()
    dead_letters: DeadLetterLog = DeadLetterLog()
    server: Server = Server()
    retrievers: dict[str, Keywords] = Field(default={"popularity": {}})
    ranker: dict[str, Keywords] = Field(default={"fm": {}})
    adapters: dict[str, Keywords] = Field(default={})
    rerankers: dict[str, Keywords] = Field(default={})
    policy: dict[str, Keywords] = Field(default={"greedy": {}})
    tune: Ranges = Field(default={})
