"""Open the logs that a config names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from service.config import Config, ConfigError
from service.urls import path_of, scheme_of
from streams.dead_letters import DeadLetters
from streams.forwarding import Forwarder
from streams.lmdb_log import LmdbLog
from streams.log import Log, MemoryLog

__all__ = [
    "ask_brokers",
    "data_folder",
    "open_dead_letters",
    "open_log",
    "open_membership",
    "open_weights",
    "servers_and_topic",
]

if TYPE_CHECKING:
    from streams.kafka.group import GroupMember

Notify = Callable[[frozenset[int]], None]

TIMEOUT = 10.0
"""Seconds until a broker that does not answer counts as an error."""

READ_TIMEOUT = 0.01
"""Seconds that a read waits for records from a broker. The engine has requests to answer meanwhile."""

MAX_DEAD_BYTES, MAX_DEAD_IN_MEMORY, MAX_DEAD_BYTES_IN_MEMORY = 256 << 20, 10_000, 32 << 20
"""Limits of the dead letters: bytes of the log on disk; letters in memory that wait for a topic, and their bytes."""


def data_folder(config: Config, *, needed: bool = True) -> Path | None:
    """Folder that only this process writes to: the embedded log's, or the checkpoint folder with a Kafka topic.

    Parameters
    ----------
    config : Config
    needed : bool
        False: return None if the config names no folder.

    Raises
    ------
    ConfigError
        For a url that the service cannot use, or a Kafka topic without a folder.
    """
    scheme = scheme_of(config.stream.url)
    if scheme == "memory":
        return None
    if scheme == "lmdb":
        return config.folder
    if scheme != "kafka":
        problem = f"url = {config.stream.url!r}: serving needs lmdb:///folder, kafka://host:port/topic or memory://"
        raise ConfigError("stream", problem)
    if config.checkpoint.folder is None and not needed:
        return None
    if config.checkpoint.folder is None:
        problem = "folder: missing; with a Kafka topic, name a folder for checkpoints and dead letters"
        raise ConfigError("checkpoint", problem)
    if config.stream.retain is not None:
        problem = (
            f"retain = {config.stream.retain}: a topic keeps what its retention.ms and retention.bytes say; remove the key"
        )
        raise ConfigError("stream", problem)
    return Path(config.checkpoint.folder)


def open_log(config: Config, *, readonly: bool = False) -> Log:
    """Open the event log, to serve or to replay it.

    Parameters
    ----------
    config : Config
    readonly : bool
        For a replay: nothing is created or written, and a read waits for the records that exist.

    Raises
    ------
    ConfigError
        For an invalid url or option.
    OSError
        When the log cannot be opened or reached.
    """
    if config.folder is None:
        return _open_topic("stream", config.stream.url, config.stream.options, readonly, None if readonly else READ_TIMEOUT)
    return _open_folder("stream", config.folder / "events", config.stream.options, readonly)


def open_weights(config: Config, *, readonly: bool = False) -> Log:
    """Open the weights log.

    Raises
    ------
    ConfigError
        For an invalid url or option, or a topic of several partitions.
    FileNotFoundError
        When `readonly` is set and the log does not exist (yet).
    OSError
        When the log cannot be opened or reached.
    """
    url, options = config.weights.url, config.weights.options
    assert url is not None
    if scheme_of(url) == "lmdb":
        return _open_folder("weights", path_of(url) / "weights", options, readonly)
    if scheme_of(url) != "kafka":
        raise ConfigError("weights", f"url = {url!r}: give lmdb:///folder or kafka://host:port/topic")
    log = _open_topic("weights", url, options, readonly, READ_TIMEOUT)
    if (count := len(log.end())) > 1:
        log.close()
        problem = f"url = {url!r}: the topic has {count} partitions, but changes need one order; give a topic of one partition"
        raise ConfigError("weights", problem)
    return log


def open_membership(config: Config, log: Log, member: str, revoked: Notify, lost: Notify) -> GroupMember:
    """Join the consumer group that ``[stream] group`` names.

    Raises
    ------
    ConfigError
        For invalid options.
    OSError
        When the broker cannot be reached, or refuses access.
    """
    from streams.kafka.group import GroupMember  # See `_open_topic`.

    servers, topic = servers_and_topic(config.stream.url, "stream")
    assert config.stream.group is not None
    try:
        return GroupMember(
            servers,
            topic,
            list(log.end()),
            config.stream.group,
            member,
            revoked=revoked,
            lost=lost,
            options=config.stream.options,
            timeout=TIMEOUT,
        )
    except ValueError as error:
        raise ConfigError("stream.options", str(error)) from error


def open_dead_letters(config: Config, folder: Path | None) -> DeadLetters:
    """Open the dead letter log.

    Parameters
    ----------
    config : Config
    folder : Path or None
        Data folder of this process.

    Raises
    ------
    ConfigError
        For an invalid url or option.
    OSError
        When a log on disk cannot be opened, or the topic does not exist. An unreachable broker is no error.
    """
    url, options = config.dead_letters.url, config.dead_letters.options
    if url is not None and scheme_of(url) == "lmdb":
        options = {"max_bytes": MAX_DEAD_BYTES} | options
        return DeadLetters(_open_folder("dead_letters", path_of(url) / "dead", options, False))
    if url is not None and scheme_of(url) != "kafka":
        raise ConfigError("dead_letters", f"url = {url!r}: give lmdb:///folder or kafka://host:port/topic, or remove the key")
    if folder is None and url is None:
        return DeadLetters()
    local: Log = (
        MemoryLog(max_records=MAX_DEAD_IN_MEMORY, max_bytes=MAX_DEAD_BYTES_IN_MEMORY)
        if folder is None
        else LmdbLog(folder / "dead", max_bytes=MAX_DEAD_BYTES)
    )
    if url is None:
        return DeadLetters(local)
    try:
        progress = None if folder is None else folder / "dead-copied"
        return DeadLetters(
            local, Forwarder(local, lambda: _open_topic("dead_letters", url, options, False, READ_TIMEOUT), url, progress)
        )
    except BaseException:
        local.close()
        raise


def ask_brokers(config: Config) -> None:
    """Ask for the topics of the events and of the weights, to find out whether their brokers answer.

    Raises
    ------
    ConfigError
        For an invalid url or option.
    OSError
        As `open_log`.
    """
    from streams.kafka.topics import Topics  # See `_open_topic`.

    for section, url, options in (
        ("stream", config.stream.url, config.stream.options),
        ("weights", config.weights.url, config.weights.options),
    ):
        if url is not None and scheme_of(url) == "kafka":
            servers, topic = servers_and_topic(url, section)
            with Topics(servers, options, TIMEOUT) as topics:
                topics.find([topic])


def servers_and_topic(url: str, section: str) -> tuple[str, str]:
    """Split ``kafka://host:port/topic`` into servers and topic.

    Raises
    ------
    ConfigError
        For a url that is not of this form, or holds credentials.
    """
    remedy = "write kafka://host:port/topic, several hosts separated by commas"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(section, f"url = {url!r}: {error}; {remedy}") from error
    topic = parts.path.strip("/")
    if "@" in parts.netloc:
        where = f"[{section}.options]"
        problem = f"url: credentials do not belong in it; see sasl_plain_username and sasl_plain_password in {where}"
        raise ConfigError(section, problem)
    if not parts.netloc or not topic or "/" in topic or parts.query or parts.fragment:
        raise ConfigError(section, f"url = {url!r}: {remedy}")
    return parts.netloc, topic


def _open_folder(section: str, folder: Path, options: dict[str, Any], readonly: bool) -> LmdbLog:
    try:
        return LmdbLog(folder, readonly=True) if readonly else LmdbLog(folder, **options)
    except TypeError as error:
        raise ConfigError(f"{section}.options", f"{error}; see streams.lmdb_log.LmdbLog for the keys") from error
    except ValueError as error:
        raise ConfigError(f"{section}.options", str(error)) from error


def _open_topic(section: str, url: str, options: dict[str, Any], readonly: bool, read_timeout: float | None) -> Log:
    from streams.kafka.log import KafkaLog  # Imported late: the Kafka client is slow to import.

    servers, topic = servers_and_topic(url, section)
    try:
        return KafkaLog(servers, topic, options=options, readonly=readonly, timeout=TIMEOUT, patience=read_timeout)
    except ValueError as error:
        raise ConfigError(f"{section}.options", str(error)) from error
