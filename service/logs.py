"""The log that ``[stream] url`` names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from service.config import Config, ConfigError
from streams.lmdb_log import LmdbLog
from streams.log import Log

__all__ = ["data_folder", "open_log", "servers_and_topic"]

TIMEOUT = 10.0
"""Seconds until a broker that does not answer is an error."""

PATIENCE = 0.01
"""Seconds that the engine waits for records that a broker has: it has requests to answer meanwhile."""


def data_folder(config: Config) -> Path | None:
    """Folder that one process writes to: the embedded log's, or where a Kafka topic's checkpoints and dead letters go.

    Raises
    ------
    ConfigError
        For a url that cannot be served, or a Kafka topic without a folder.
    """
    scheme = urlsplit(config.stream.url).scheme
    if scheme == "memory":
        return None
    if scheme == "lmdb":
        return config.folder
    if scheme != "kafka":
        problem = f"url = {config.stream.url!r}: serving needs lmdb:///folder, kafka://host:port/topic or memory://"
        raise ConfigError("stream", problem)
    if config.checkpoint.folder is None:
        problem = "folder: missing; with a Kafka topic, name a folder for checkpoints and dead letters"
        raise ConfigError("checkpoint", problem)
    if config.stream.retain is not None:
        problem = f"retain = {config.stream.retain}: a topic keeps what its retention.ms and retention.bytes say; leave it out"
        raise ConfigError("stream", problem)
    return Path(config.checkpoint.folder)


def open_log(config: Config, *, readonly: bool = False) -> Log:
    """Open a log on disk or elsewhere, to serve from or to replay.

    Parameters
    ----------
    config : Config
    readonly : bool
        For a replay: nothing is made or written, and reading waits for what there is.

    Raises
    ------
    ConfigError
        For a url or options that make no sense, or a topic of several partitions.
    OSError
        When it cannot be opened or reached.
    """
    if config.folder is None:
        return _open_topic(config, readonly)
    if readonly:
        return LmdbLog(config.folder / "events", readonly=True)
    try:
        return LmdbLog(config.folder / "events", **config.stream.options)
    except TypeError as error:
        raise ConfigError("stream.options", f"{error}; see streams.lmdb_log.LmdbLog for the keys") from error


def servers_and_topic(url: str, section: str) -> tuple[str, str]:
    """Take ``kafka://host:port/topic`` apart.

    Raises
    ------
    ConfigError
        For a url that is not of this form, or holds credentials.
    """
    parts = urlsplit(url)
    topic = parts.path.strip("/")
    if "@" in parts.netloc:
        where = f"[{section}.options]"
        problem = f"url: credentials do not belong in it; see sasl_plain_username and sasl_plain_password in {where}"
        raise ConfigError(section, problem)
    if not parts.netloc or not topic or "/" in topic or parts.query or parts.fragment:
        raise ConfigError(section, f"url = {url!r}: write kafka://host:port/topic, several hosts separated by commas")
    return parts.netloc, topic


def _open_topic(config: Config, readonly: bool) -> Log:
    from streams.kafka import KafkaLog  # The client takes a moment to import: only who uses Kafka pays it.

    url = config.stream.url
    servers, topic = servers_and_topic(url, "stream")
    try:
        log = KafkaLog(
            servers,
            topic,
            options=config.stream.options,
            readonly=readonly,
            timeout=TIMEOUT,
            patience=None if readonly else PATIENCE,
        )
    except ValueError as error:
        raise ConfigError("stream.options", str(error)) from error
    if len(log.partitions) > 1:
        log.close()
        problem = (
            f"url = {url!r}: the topic has partitions {', '.join(map(str, log.partitions))}, and this version reads topics of "
            "one; give a topic with one partition (several come later)"
        )
        raise ConfigError("stream", problem)
    return log
