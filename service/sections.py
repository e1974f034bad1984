"""The tables of a config file, with their keys, types, bounds and defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.tables.ranges import Ranges
from service.tables.rows import Features, Negatives, Reward, RewardRule, Statistics
from service.tables.section import Count, Keywords, Positive, Section
from service.tables.stream import Stream
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
    bytes : int
        Most bytes of their ids and attributes, in the same way.
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
        Most requests that may wait to be scored; further ones are answered 503 with ``Retry-After`` at once. Large rankings
        wait apart from small ones, and the number holds for each of the two.
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
