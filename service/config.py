"""The config file: TOML in, frozen settings out. Whatever is unknown, missing or mistyped is refused by name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from learners import features
from learners.base import Adapter, Ranker, Reranker, Retriever
from learners.features import Featurizer, Side
from learners.registry import ConfigError
from service.fingerprint import fingerprint_of

__all__ = ["Config", "ConfigError", "RewardRule", "Role", "load", "parse"]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Single = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]
"""A number that learners can calculate with: finite as a float32."""
Keywords = dict[str, Any]
HostName = Annotated[str, Field(pattern=r"^(\*|(\*\.)?[\w.-]+|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]
"""What browsers call a site: scheme, name, and the port if it is not the scheme's own. A host name has no port here."""

Role = Literal["embedded", "trainer", "replica"]
"""What a process does: learn and serve, learn for others, or serve what another has learned."""


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
        Passed to the log as they are; see `streams.lmdb_log.LmdbLog` and `streams.kafka.KafkaLog`.
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


class FieldType(_Section):
    """How an attribute becomes feature columns; see `learners.features.Field`."""

    type: Literal["category", "number", "bucket", "tags"]
    width: Positive = 1.0
    most: Annotated[int, Field(gt=0, le=64)] = 8
    mean: Single | None = None
    scale: Positive | None = None


Kind = Literal["category", "number", "bucket", "tags"]


class Features(_Section):
    """Fields by side; see `learners.features`. ``id`` of a user or item is its id; crosses are ``"user.id * item.genres"``."""

    user: dict[str, Kind | FieldType] = {"id": "category"}
    item: dict[str, Kind | FieldType] = {"id": "category"}
    context: dict[str, Kind | FieldType] = {}
    crosses: tuple[str, ...] = Field(default=(), strict=False)


class RewardRule(_Section):
    """Worth of a kind by a threshold on the interaction's value."""

    at_least: float
    then: Single = 1.0
    otherwise: Single = 0.0


class Capacity(_Section):
    """Most users or items whose attributes are kept; past it the longest untouched gives way."""

    capacity: Count = 100_000


class HistorySize(_Section):
    """Users and their last interactions that are remembered; `recent` of them reach the learners."""

    capacity: Count = 100_000
    length: Annotated[int, Field(gt=0, le=10_000)] = 50
    recent: Count = 10


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


class _Tables(_Section):
    stream: Stream = Stream()
    features: Features = Features()
    reward: dict[str, Single | RewardRule] = Field(default={"click": 1.0, "rating": RewardRule(at_least=4.0)}, strict=False)
    users: Capacity = Capacity()
    items: Capacity = Capacity()
    history: HistorySize = HistorySize()
    checkpoint: Checkpoint = Checkpoint()
    weights: Weights = Weights()
    dead_letters: DeadLetterLog = DeadLetterLog()
    server: Server = Server()
    retrievers: dict[str, Keywords] = {"popularity": {}}
    ranker: dict[str, Keywords] = {"fm": {}}
    adapters: dict[str, Keywords] = {}
    rerankers: dict[str, Keywords] = {}
    policy: dict[str, Keywords] = {"greedy": {}}


_INDECISIVE = (
    *("url", "options", "retain", "ack", "buffer", "group"),
    *("format", "columns", "kind", "sorted", "strict", "users", "items"),
)
"""Keys of ``[stream]`` that say where events are, not what becomes of them."""

_LEARNERS: dict[type, str] = {Retriever: "retrievers", Ranker: "ranker", Adapter: "adapters", Reranker: "rerankers"}
"""Sections of the learners that have a state, in the order in which they learn."""


class Config(_Tables):
    """A whole configuration.

    Attributes
    ----------
    name : str
        What reports call it: the file's name.
    """

    name: str = "default"

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides what the state becomes, defaults included; see `service.fingerprint`.

        Raises
        ------
        ConfigError
            For a learner that there is not.
        """
        decisive = self.model_dump(exclude={"name", "checkpoint", "weights", "dead_letters", "server", "policy"})
        for key in _INDECISIVE:
            del decisive["stream"][key]
        # The same fields can be written in several ways; the order of fields is that of columns.
        decisive["features"] = [asdict(field) for field in self._fields()], self.features.crosses
        learners = {role: decisive.pop(section) for role, section in _LEARNERS.items()}
        return fingerprint_of(decisive, learners)

    @property
    def folder(self) -> Path | None:
        """Folder of the embedded log, when there is one."""
        parts = urlsplit(self.stream.url)
        return Path(parts.netloc + parts.path) if parts.scheme == "lmdb" else None

    @property
    def checkpoints(self) -> Path | None:
        """Folder of this configuration's checkpoints; None: nothing is saved.

        Each configuration has its own, so that another one starts from the log, and going back continues.
        """
        if self.checkpoint.folder is not None:
            return Path(self.checkpoint.folder) / self.fingerprint
        return self.folder / "checkpoints" / self.fingerprint if self.folder else None

    def featurizer(self) -> Featurizer:
        """Build the featurizer that ``[features]`` describes.

        Raises
        ------
        ConfigError
            For a cross of fields that are not there.
        """
        try:
            return Featurizer(self._fields(), self.features.crosses)
        except ValueError as error:
            raise ConfigError("features", str(error)) from error

    def _fields(self) -> list[features.Field]:
        """Fields of ``[features]``, in its order."""
        sides: tuple[tuple[Side, dict[str, Kind | FieldType]], ...] = (
            ("user", self.features.user),
            ("item", self.features.item),
            ("context", self.features.context),
        )
        return [
            features.Field(side=side, name=name, **({"type": kind} if isinstance(kind, str) else kind.model_dump()))
            for side, named in sides
            for name, kind in named.items()
        ]


def parse(document: Mapping[str, Any], name: str = "default") -> Config:
    """Check a parsed TOML document.

    Raises
    ------
    ConfigError
        Naming the section, the key, the value and the remedy.
    """
    try:
        tables = _Tables.model_validate(dict(document))
    except ValidationError as error:
        raise _refused(error) from None
    for section in ("ranker", "policy"):
        names = list(getattr(tables, section))
        if len(names) != 1:
            raise ConfigError(section, f"exactly one is needed, as in [{section}.name]; found {names}")
    return Config(name=name, **dict(tables))


def load(path: Path) -> Config:
    """Read a config file.

    Raises
    ------
    ConfigError
        For a file that cannot be read, is not TOML, or says what no section knows.
    """
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror}); give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not TOML: {error}") from error
    return parse(document, path.stem)


def _refused(error: ValidationError) -> ConfigError:
    """Say the first problem of each section in the config's own words."""
    problems: dict[str, list[str]] = {}
    details = error.errors()
    # A table where a name would do as well is wrong in both ways; what is wrong inside the table says more.
    inside = [detail for detail in details if _UNION_TAGS & {str(part) for part in detail["loc"][:-1]}]
    for detail in inside or details:
        *sections, key = [str(part) for part in detail["loc"] if part not in _UNION_TAGS]
        model: type[BaseModel] | None = _Tables
        for section in sections:
            annotation = model.model_fields[section].annotation if model and section in model.model_fields else None
            model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        keys = list(model.model_fields) if model else []
        if detail["type"] == "extra_forbidden" and keys:
            close = get_close_matches(key, keys, 1)
            hint = f"did you mean {close[0]!r}? " if close else "remove it; "
            text = f"{key} = {detail['input']!r}: no such key; {hint}there are: {', '.join(keys)}"
        else:
            text = f"{key} = {detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
        problems.setdefault(".".join(sections) or "config", []).append(text)
    where = next(iter(problems))
    return ConfigError(where, problems[where])


_UNION_TAGS = {"FieldType", "RewardRule", "float", "literal['category','number','bucket','tags']"}
