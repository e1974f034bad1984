"""Create the Kafka topics that a config names, and check the settings of existing ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rich.table import Table

from service.config import Config, ConfigError
from service.process.logs import TIMEOUT, servers_and_topic
from service.tables.section import Keywords
from service.urls import scheme_of
from streams.kafka.topics import TopicDescription, Topics

__all__ = ["Report", "TopicSpec", "create", "required_topics", "table"]

PARTITIONS = 4
"""Partitions of a new events topic."""

REPLICATION = 3
"""Replicas of each partition, if there are as many brokers."""

HOUR, DAY = 3600.0, 86400.0
RETENTION = 7 * DAY
"""Default retention of events, in seconds."""

LETTERS_RETENTION = 30 * DAY
"""Retention of dead letters, in seconds: time enough for somebody to look at them."""

CHECKPOINTS_COVERED = 20
"""Checkpoint intervals that the weights topic covers: a replica starts at the newest checkpoint that it can read."""

# Difference between Kafka's defaults for the largest batch of a topic and the largest request of a client.
_BATCH_HEAD = 12

NOT_COMPACTED = "cleanup.policy=delete: compaction keeps only the last record of a key, and every record counts here"

_WHY_NOT_COMPACTED = {
    "events": "a user's history is every event with this key",
    "weights": "a record holds changes to the previous one, not the last value of a key",
    "dead letters": "each letter holds a different record",
}

_WHY_RETAINED = {
    "events": "--retention, or twice the window and lateness, which a restart reads again",
    "weights": "a replica reads it from the newest checkpoint on",
}


class TopicSpec(NamedTuple):
    """A topic that a config needs.

    Attributes
    ----------
    section, use : str
        Section of the config that names it, and what it holds.
    servers, name : str
    options : dict
        Options of the log.
    partitions : int
        Partitions of a new topic.
    min_partitions, max_partitions : int
        Range that an existing topic may have; `max_partitions` = 0: no limit.
    retention : float
        Retention of a new topic, seconds.
    min_retention : float
        Smallest retention that an existing topic may have, seconds.
    """

    section: str
    use: str
    servers: str
    name: str
    options: Keywords
    partitions: int
    min_partitions: int
    max_partitions: int
    retention: float
    min_retention: float


class Difference(NamedTuple):
    """A wrong setting of an existing topic, with its remedy. Freshet cannot use the topic if it is `essential`."""

    essential: bool
    text: str


@dataclass
class Report:
    """State of a topic that the config needs."""

    topic: TopicSpec
    state: Literal["there", "created", "missing"]
    found: TopicDescription
    differences: list[Difference] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether no essential setting is wrong."""
        return not any(difference.essential for difference in self.differences)


def required_topics(config: Config, partitions: int | None = None, retention: float | None = None) -> list[TopicSpec]:
    """List the topics that a config names.

    Parameters
    ----------
    config : Config
    partitions : int or None
        Partitions of the events topic; None: 4 for a new topic, and any number for an existing one.
    retention : float or None
        Retention of the events topic, seconds; None: 7 days, or twice the window and lateness if that is longer.

    Raises
    ------
    ConfigError
        For a url that names no topic, one topic with two uses, or a retention that is too short.
    """
    stream, weights, letters, every = config.stream, config.weights, config.dead_letters, config.checkpoint.every
    needed = 2 * (stream.window + stream.lateness)
    if retention is not None and retention < needed:
        problem = f"--retention: {_duration(retention)} is less than {_duration(needed)}, twice the window and lateness"
        raise ConfigError("stream", f"{problem}, which a restart reads again; give more, or shorten them")
    events = (partitions or PARTITIONS, partitions or 1, 0, retention or max(RETENTION, needed), retention or needed)
    specs: list[TopicSpec] = []
    for section, use, url, options, shape in (
        ("stream", "events", stream.url, stream.options, events),
        ("weights", "weights", weights.url, weights.options, (1, 1, 1, max(HOUR, CHECKPOINTS_COVERED * every), 2 * every)),
        ("dead_letters", "dead letters", letters.url, letters.options, (1, 1, 0, LETTERS_RETENTION, 0.0)),
    ):
        if url is None or scheme_of(url) != "kafka":
            continue
        servers, name = servers_and_topic(url, section)
        twin = next((spec for spec in specs if (spec.servers, spec.name) == (servers, name)), None)
        if twin is not None:
            problem = f"url = {url!r}: the {twin.use} are in this topic; give another name"
            raise ConfigError(section, problem)
        specs.append(TopicSpec(section, use, servers, name, options, *shape))
    if not specs:
        raise ConfigError(
            "stream", f"url = {stream.url!r}: neither here nor in [weights] or [dead_letters] is a kafka:// url; give one"
        )
    return specs


def create(needed: list[TopicSpec], replication: int | None = None, *, dry_run: bool = False) -> list[Report]:
    """Create missing topics, and check existing ones.

    Parameters
    ----------
    needed : list of TopicSpec
    replication : int or None
        Replicas of each partition; None: 3 for a new topic, or one per broker if there are fewer, and any number for an
        existing one.
    dry_run : bool
        Check only, and create nothing.

    Returns
    -------
    list of Report
        In the order of `needed`.

    Raises
    ------
    ConfigError
        For options that the Kafka client refuses.
    OSError
        When the broker cannot be reached, or refuses the request.
    """
    reports = []
    with ExitStack() as opened:
        # All topics are checked before the first is created: an error must leave the cluster unchanged.
        for spec in needed:
            try:
                topics = opened.enter_context(Topics(spec.servers, spec.options, TIMEOUT))
            except ValueError as error:
                raise ConfigError(f"{spec.section}.options", str(error)) from error
            found = topics.find([spec.name]).get(spec.name)
            copies = replication or min(REPLICATION, topics.brokers())
            planned = TopicDescription(spec.partitions, copies, settings(spec, copies, topics.largest))
            reports.append((topics, Report(spec, "there" if found else "missing", found or planned)))
        for topics, report in reports:
            if report.state == "missing" and not dry_run:
                name = report.topic.name
                topics.create(name, *report.found)
                report.state, report.found = "created", topics.find([name]).get(name, report.found)
            report.differences = list(compare(report.topic, report.found, replication, topics.largest))
    return [report for _, report in reports]


def settings(spec: TopicSpec, copies: int, largest: int) -> dict[str, str]:
    """Settings of a new topic with `copies` replicas, for requests of up to `largest` bytes."""
    made = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(largest + _BATCH_HEAD),
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(int(spec.retention * 1000)),
    }
    # An append needs two of three replicas, so one broker may be down.
    return made | ({"min.insync.replicas": "2"} if copies >= 3 else {})


def compare(spec: TopicSpec, found: TopicDescription, replication: int | None, largest: int) -> Iterator[Difference]:
    """Wrong settings of an existing topic. A setting that the broker does not report counts as right."""
    reported = found.settings
    policy = reported.get("cleanup.policy", "delete")
    if "compact" in policy:
        why = f"the broker would delete records that are needed: {_WHY_NOT_COMPACTED[spec.use]}"
        yield Difference(True, f"cleanup.policy={policy}: {why}; {_alter(spec, 'cleanup.policy=delete')}")
    if found.partitions < spec.min_partitions:
        problem = f"{found.partitions} partitions, and {spec.min_partitions} were asked for"
        remedy = "name a new topic in the url; adding partitions to this one would move users to other partitions"
        yield Difference(True, f"{problem}; {remedy}")
    if spec.max_partitions and found.partitions > spec.max_partitions:
        problem = f"{found.partitions} partitions: records need one order, which only a single partition keeps"
        yield Difference(True, f"{problem}; name a new topic in the url")
    kept = int(reported.get("retention.ms", -1)) / 1000
    if 0 <= kept < spec.min_retention:
        needed = f"{_duration(spec.min_retention)} are needed ({_WHY_RETAINED[spec.use]})"
        problem = f"retention.ms={kept * 1000:.0f} keeps {_duration(kept)}, and {needed}"
        yield Difference(True, f"{problem}; {_alter(spec, f'retention.ms={spec.retention * 1000:.0f}')}")
    stamped = reported.get("message.timestamp.type", "LogAppendTime")
    if stamped != "LogAppendTime":
        problem = f"message.timestamp.type={stamped}: records have their producer's time, and retention depends on it"
        yield Difference(False, f"{problem}; {_alter(spec, 'message.timestamp.type=LogAppendTime')}")
    limit = int(reported.get("max.message.bytes", largest))
    if limit < largest:
        problem = f"max.message.bytes={limit}: less than max_request_size = {largest} of the options"
        yield Difference(False, f"{problem}; {_alter(spec, f'max.message.bytes={largest + _BATCH_HEAD}')}")
    if replication is not None and found.replication < replication:
        problem = f"{found.replication} copies, and {replication} were asked for"
        yield Difference(False, f"{problem}; kafka-reassign-partitions.sh adds some")
    if found.replication >= 3 and int(reported.get("min.insync.replicas", 2)) < 2:
        problem = "min.insync.replicas=1: an acknowledged record may be on one broker only, and is lost with it"
        yield Difference(False, f"{problem}; {_alter(spec, 'min.insync.replicas=2')}")


def table(reports: list[Report]) -> Table:
    """Table of the topics and their states, to print."""
    made = Table(caption=NOT_COMPACTED, caption_justify="left")
    for column in ("topic", "use", "partitions", "copies", "retention", "state"):
        made.add_column(column, justify="right" if column in ("partitions", "copies", "retention") else "left")
    for report in reports:
        spec, found = report.topic, report.found
        state = {"missing": "would be created", "created": "created", "there": "exists"}[report.state]
        state += ", not usable" if not report.usable else ", differs" if report.differences else ""
        url = f"kafka://{spec.servers}/{spec.name}"
        row = (
            url,
            spec.use,
            str(found.partitions),
            str(found.replication),
            _retention_text(found.settings.get("retention.ms")),
            state,
        )
        made.add_row(*row)
    return made


def _retention_text(retention: str | None) -> str:
    if retention is None:
        return "not reported"
    return _duration(int(retention) / 1000) if int(retention) >= 0 else "unlimited"


def _duration(seconds: float) -> str:
    for unit, name in ((DAY, "d"), (HOUR, "h")):
        if seconds >= unit:
            return f"{seconds / unit:.4g} {name}"
    return f"{seconds:.4g} s"


def _alter(spec: TopicSpec, setting: str) -> str:
    where = f"--bootstrap-server {spec.servers} --entity-type topics --entity-name {spec.name}"
    return f"kafka-configs.sh --alter {where} --add-config {setting}"
