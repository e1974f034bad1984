"""What a config file may say: its tables, their keys, types, bounds and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

__all__ = [
    "Capacity",
    "Checkpoint",
    "DeadLetterLog",
    "FieldSpec",
    "FieldType",
    "Keywords",
    "RewardRule",
    "Server",
    "Tables",
    "Weights",
]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Single = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]
"""A number that learners can calculate with: finite as a float32."""
Keywords = dict[str, Any]
HostName = Annotated[str, Field(pattern=r"^(\*|(\*\.)?[\w.-]+|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]
"""What browsers call a site: scheme, name, and the port if it is not the scheme's own. A host name has no port here."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Columns(_Section):
    """Names of the columns of a recorded file; see `streams.recorded.ColumnMap`."""

    user: str = "user"
    item: str = "item"
    timestamp: str | None = "timestamp"
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    value: str | None = None
    kind: str | None = None
    context: tuple[str, ...] = Field(default=(), strict=False)
    user_attributes: tuple[str, ...] = Field(default=(), strict=False)
    item_attributes: tuple[str, ...] = Field(default=(), strict=False)


class Stream(_Section):
    """Where events come from, and how they are joined and cut into batches.

    Attributes
    ----------
    url : str
        ``lmdb:///folder`` (embedded log), ``kafka://host:port/topic``, ``memory://`` (gone with the process) or
        ``file:recording``.
    window, lateness : float
        Seconds that an impression waits for interactions, and that later ones still count as corrections.
    batch_rows : int
        Rows of a micro-batch.
    waiting : int
        Most impressions remembered for joining; past it the oldest leave early. Each takes about 1 KB, 12 bytes a feature
        and item, and 8 bytes a candidate that was not shown.
    remembered : int
        Most ids of interactions remembered for dropping duplicates.
    group : str or None
        Consumer group that shares out the partitions of a Kafka topic among several `freshet train`, each of which learns a
        state of its own from its share; None: this process learns from all of them.
    max_skew : float
        Seconds that an event may be dated ahead of when it was appended.
    retain : int or None
        Records to keep in the embedded log behind the oldest checkpoint; None: all, until the log is full.
    ack : {"broker", "queued"}
        When ``POST /v1/events`` is answered: once the events are in the log, or as soon as they wait for it in memory.
    buffer : int
        Bytes of events that may wait for the log; past it requests are refused.
    options : dict
        Passed to the log as they are; see `streams.lmdb_log.LmdbLog` and `streams.kafka.log.KafkaLog`.
    format, columns, kind, sorted, strict, users, items
        Of a recorded file; see `streams.recorded.open_recording`.
    """

    url: str = "memory://"
    window: Positive = 600.0
    lateness: Annotated[float, Field(ge=0)] = 600.0
    batch_rows: Count = 64
    waiting: Count = 100_000
    remembered: Count = 200_000
    group: str | None = None
    max_skew: Positive = 300.0
    retain: Annotated[int, Field(ge=0)] | None = None
    ack: Literal["broker", "queued"] = "broker"
    buffer: Count = 64 << 20
    options: Keywords = {}
    format: str | None = None
    columns: Columns | None = None
    kind: str = "rating"
    sorted: bool = False
    strict: bool = False
    users: str | None = None
    items: str | None = None


Kind = Literal["category", "number", "bucket", "tags"]
"""How an attribute becomes feature columns."""


class FieldType(_Section):
    """How an attribute becomes feature columns; see `learners.features.Field`."""

    type: Kind
    width: Positive = 1.0
    most: Annotated[int, Field(gt=0, le=64)] = 8
    mean: Single | None = None
    scale: Positive | None = None


def _form(value: object) -> str:
    """Whether a value that may be a table is one. What is wrong with it is then said of that form alone."""
    return "table" if isinstance(value, dict | _Section) else "plain"


FieldSpec = Annotated[Annotated[Kind, Tag("plain")] | Annotated[FieldType, Tag("table")], Discriminator(_form)]
"""A field's type, by its name alone or as a table."""


class Features(_Section):
    """Fields by side; see `learners.features`. ``id`` of a user or item is its id; crosses are ``"user.id * item.genres"``."""

    user: dict[str, FieldSpec] = {"id": "category"}
    item: dict[str, FieldSpec] = {"id": "category"}
    context: dict[str, FieldSpec] = {}
    crosses: tuple[str, ...] = Field(default=(), strict=False)


class RewardRule(_Section):
    """Worth of a kind by a threshold on the interaction's value."""

    at_least: float
    then: Single = 1.0
    otherwise: Single = 0.0


Reward = Annotated[Annotated[Single, Tag("plain")] | Annotated[RewardRule, Tag("table")], Discriminator(_form)]
"""What an interaction of a kind is worth: a number, or a rule as a table."""


class Capacity(_Section):
    """Most users or items whose attributes are kept; past it the longest untouched gives way."""

    capacity: Count = 100_000


class HistorySize(_Section):
    """Users and their last interactions that are remembered; `recent` of them reach the learners."""

    capacity: Count = 100_000
    length: Annotated[int, Field(gt=0, le=10_000)] = 50
    recent: Count = 10


class Seen(_Section):
    """What users have touched and are not recommended again: users, items of all of them, items of one; the oldest leave first.

    `kinds` are the kinds of interactions that count, such as ``["buy"]`` where what was only clicked may come again; all of
    them unless given. An item takes 8 to 24 bytes.
    """

    users: Count = 100_000
    items: Annotated[int, Field(ge=8)] = 1_000_000
    per_user: Annotated[int, Field(ge=8, le=1_000_000)] = 1000
    kinds: list[str] | None = None


class Checkpoint(_Section):
    """Where and how often the state is saved.

    `folder` defaults to ``checkpoints`` inside the embedded log's folder. A Kafka topic needs one; dead letters go there too.
    """

    folder: str | None = None
    every: Positive = 30.0
    keep: Annotated[int, Field(ge=2)] = 3


class Weights(_Section):
    """The weights log: what changes in the trainer's state, for replicas.

    Attributes
    ----------
    url : str or None
        ``lmdb:///folder`` on one machine, ``kafka://host:port/topic`` (of one partition) across machines; None: no replicas.
    every : float
        Seconds between changes.
    options : dict
        Passed to the log as they are, as in ``[stream.options]``.
    """

    url: str | None = None
    every: Positive = 0.1
    options: Keywords = {}


class DeadLetterLog(_Section):
    """Where records are kept that cannot be used.

    Attributes
    ----------
    url : str or None
        None: a log in the data folder. ``lmdb:///folder``: one elsewhere. ``kafka://host:port/topic``: in the data folder first
        (in memory where there is none), and copied to the topic.
    options : dict
        Passed to that log as they are, as in ``[stream.options]``.
    """

    url: str | None = None
    options: Keywords = {}


class Server(_Section):
    """The HTTP side and the engine behind it.

    Attributes
    ----------
    host, port
        Where it listens. It has no authentication of its own: put it behind something that has before binding it wider.
    hosts : tuple of str
        Names, without a port, that requests may be addressed to, beside `host`, ``localhost``, ``127.0.0.1`` and ``::1``: what
        a proxy passes on as ``Host``. ``*.example.com`` is any name below it, ``*`` any name. Where `host` is ``0.0.0.0`` or
        ``::``, any IP address is one. Others are answered 421, except on ``/healthz``, ``/readyz`` and ``/metrics``.
    origins : tuple of str
        Origins, as ``https://shop.example``, whose pages may ask and command the service from a browser (CORS); ``*``: all.
    max_body : int
        Bytes of a request body.
    max_events : int
        Events of one ``POST /v1/events``.
    flush : float
        Seconds that outcomes wait for a batch to fill before a tick closes it.
    batch_requests : int
        Most requests that are scored together.
    queue, max_wait
        Most requests that wait to be scored, and most seconds that one more would wait, by what they took lately (but as many
        as are scored together may wait). Others are answered 503 with ``Retry-After`` at once, instead of all being late.
    timeout : float
        Seconds that a request waits for its answer; then it is answered 503, and no longer scored.
    learning_share : float
        Least share of the engine's time that learning gets while it has something to learn; 0: requests always go first.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    hosts: tuple[HostName, ...] = Field(default=(), strict=False)
    origins: tuple[Origin, ...] = Field(default=(), strict=False)
    max_body: Count = 4 << 20
    max_events: Count = 10_000
    flush: Positive = 0.02
    batch_requests: Count = 16
    queue: Count = 256
    max_wait: Positive = 1.0
    timeout: Positive = 10.0
    learning_share: Annotated[float, Field(ge=0, lt=1)] = 0.2


class Tables(_Section):
    """The tables of a config file, each with its defaults."""

    stream: Stream = Stream()
    features: Features = Features()
    reward: dict[str, Reward] = Field(default={"click": 1.0, "rating": RewardRule(at_least=4.0)}, strict=False)
    users: Capacity = Capacity()
    items: Capacity = Capacity()
    history: HistorySize = HistorySize()
    seen: Seen = Seen()
    checkpoint: Checkpoint = Checkpoint()
    weights: Weights = Weights()
    dead_letters: DeadLetterLog = DeadLetterLog()
    server: Server = Server()
    retrievers: dict[str, Keywords] = {"popularity": {}}
    ranker: dict[str, Keywords] = {"fm": {}}
    adapters: dict[str, Keywords] = {}
    rerankers: dict[str, Keywords] = {}
    policy: dict[str, Keywords] = {"greedy": {}}
