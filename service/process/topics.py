"""The Kafka topics that a config names: what each has to be, making them, and what is wrong with those that are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from rich.table import Table

from service.config import Config, ConfigError
from service.process.logs import TIMEOUT, servers_and_topic
from service.sections import Keywords
from streams.kafka.topics import Found, Topics

__all__ = ["Report", "Wanted", "create", "table", "wanted"]

PARTITIONS = 4
"""Partitions of a new events topic."""

COPIES = 3
"""Copies of each partition, where there are so many brokers."""

HOUR, DAY = 3600.0, 86400.0
KEPT = 7 * DAY
"""Seconds that events are kept unless it is said otherwise."""

LETTERS_KEPT = 30 * DAY
"""Seconds that dead letters are kept: as long as somebody may take to look at them."""

CHECKPOINTS = 20
"""Checkpoints that the weights topic reaches back over: a replica starts at the newest one that it can read."""

# What Kafka's own default leaves between the largest request of a client and the largest batch of a topic.
_BATCH_HEAD = 12

NOT_COMPACTED = "cleanup.policy=delete: compaction keeps the last record of a key, and here each counts"

_WHY_NOT_COMPACTED = {
    "events": "a user's history is every event with this key",
    "weights": "a record holds changes to the one before, not the last value of a key",
    "dead letters": "each letter is of a record of its own",
}

_WHY_KEPT = {
    "events": "asked for, or twice the window and lateness, which a restart reads again",
    "weights": "a replica reads it from the newest checkpoint on",
}


class Wanted(NamedTuple):
    """A topic that a config needs.

    Attributes
    ----------
    section, use : str
        Of the config that names it, and what is in it.
    servers, name : str
    options : dict
        The log's.
    partitions : int
        To make it with.
    least, most : int
        Partitions that one which is there may have; 0 for `most`: any number.
    kept : float
        Seconds of retention to make it with.
    reach : float
        Seconds of retention that one which is there has to have.
    """

    section: str
    use: str
    servers: str
    name: str
    options: Keywords
    partitions: int
    least: int
    most: int
    kept: float
    reach: float


class Difference(NamedTuple):
    """Something about a topic that is there: what, how to mend it, and whether Freshet works at all as it is."""

    essential: bool
    text: str


@dataclass
class Report:
    """What became of a topic that the config needs."""

    wanted: Wanted
    state: Literal["there", "created", "missing"]
    found: Found
    differences: list[Difference] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether nothing essential differs."""
        return not any(difference.essential for difference in self.differences)


def wanted(config: Config, partitions: int | None = None, kept: float | None = None) -> list[Wanted]:
    """List the topics that a config names.

    Parameters
    ----------
    config : Config
    partitions : int or None
        Of the events topic; None: 4 for a new one, and any number for one that is there.
    kept : float or None
        Seconds that the events topic keeps events; None: 7 days, or twice the window and lateness if that is more.

    Raises
    ------
    ConfigError
        For urls that name no topic, or one topic for two uses, and for a time that is too short.
    """
    stream, weights, letters, every = config.stream, config.weights, config.dead_letters, config.checkpoint.every
    reach = 2 * (stream.window + stream.lateness)
    if kept is not None and kept < reach:
        problem = f"--retention: {_span(kept)} is less than {_span(reach)}, twice the window and lateness"
        raise ConfigError("stream", f"{problem}, which a restart reads again; give more, or shorten them")
    events = (partitions or PARTITIONS, partitions or 1, 0, kept or max(KEPT, reach), kept or reach)
    made: list[Wanted] = []
    for section, use, url, options, shape in (
        ("stream", "events", stream.url, stream.options, events),
        ("weights", "weights", weights.url, weights.options, (1, 1, 1, max(HOUR, CHECKPOINTS * every), 2 * every)),
        ("dead_letters", "dead letters", letters.url, letters.options, (1, 1, 0, LETTERS_KEPT, 0.0)),
    ):
        if url is None or urlsplit(url).scheme != "kafka":
            continue
        servers, name = servers_and_topic(url, section)
        twin = next((one for one in made if (one.servers, one.name) == (servers, name)), None)
        if twin is not None:
            problem = f"url = {url!r}: the {twin.use} are in this topic; give another name"
            raise ConfigError(section, problem)
        made.append(Wanted(section, use, servers, name, options, *shape))
    if not made:
        raise ConfigError("stream", f"url = {stream.url!r}: neither here nor in [weights] or [dead_letters] is a kafka:// url")
    return made


def create(needed: list[Wanted], replication: int | None = None, *, dry_run: bool = False) -> list[Report]:
    """Make the topics that are missing, and compare those that are there.

    Parameters
    ----------
    needed : list of Wanted
    replication : int or None
        Copies of each partition; None: 3, or as many as there are brokers, and any number for topics that are there.
    dry_run : bool
        Make nothing.

    Returns
    -------
    list of Report
        In the order of `needed`.

    Raises
    ------
    ConfigError
        For options that the client refuses.
    OSError
        When the broker cannot be reached, does not allow it or refuses it.
    """
    reports = []
    with ExitStack() as opened:
        # All are looked at before the first is made: what is wrong with one of them leaves the cluster as it was.
        for one in needed:
            try:
                topics = opened.enter_context(Topics(one.servers, one.options, TIMEOUT))
            except ValueError as error:
                raise ConfigError(f"{one.section}.options", str(error)) from error
            found = topics.find([one.name]).get(one.name)
            copies = replication or min(COPIES, topics.brokers())
            asked = Found(one.partitions, copies, settings(one, copies, topics.largest))
            reports.append((topics, Report(one, "there" if found else "missing", found or asked)))
        for topics, report in reports:
            if report.state == "missing" and not dry_run:
                name = report.wanted.name
                topics.create(name, *report.found)
                report.state, report.found = "created", topics.find([name]).get(name, report.found)
            report.differences = list(compare(report.wanted, report.found, replication, topics.largest))
    return [report for _, report in reports]


def settings(one: Wanted, copies: int, largest: int) -> dict[str, str]:
    """Settings of a new topic, for so many copies and requests of so many bytes."""
    made = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(largest + _BATCH_HEAD),
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(int(one.kept * 1000)),
    }
    # With two of three copies written, one broker may be away without appends being refused.
    return made | ({"min.insync.replicas": "2"} if copies >= 3 else {})


def compare(one: Wanted, found: Found, replication: int | None, largest: int) -> Iterator[Difference]:
    """What is wrong with a topic that is there; what the broker does not tell counts as right."""
    told = found.settings
    policy = told.get("cleanup.policy", "delete")
    if "compact" in policy:
        why = f"the broker would delete records that are needed: {_WHY_NOT_COMPACTED[one.use]}"
        yield Difference(True, f"cleanup.policy={policy}: {why}; {_alter(one, 'cleanup.policy=delete')}")
    if found.partitions < one.least:
        problem = f"{found.partitions} partitions, and {one.least} were asked for"
        remedy = "name a new topic in the url; adding some to this one sends users to other partitions in the midst of things"
        yield Difference(True, f"{problem}; {remedy}")
    if one.most and found.partitions > one.most:
        problem = f"{found.partitions} partitions: records have one order, which only one partition keeps"
        yield Difference(True, f"{problem}; name a new topic in the url")
    kept = int(told.get("retention.ms", -1)) / 1000
    if 0 <= kept < one.reach:
        needed = f"{_span(one.reach)} are needed ({_WHY_KEPT[one.use]})"
        problem = f"retention.ms={kept * 1000:.0f} keeps {_span(kept)}, and {needed}"
        yield Difference(True, f"{problem}; {_alter(one, f'retention.ms={one.kept * 1000:.0f}')}")
    stamped = told.get("message.timestamp.type", "LogAppendTime")
    if stamped != "LogAppendTime":
        problem = f"message.timestamp.type={stamped}: records have the time of whoever produced them, and retention goes by it"
        yield Difference(False, f"{problem}; {_alter(one, 'message.timestamp.type=LogAppendTime')}")
    limit = int(told.get("max.message.bytes", largest))
    if limit < largest:
        problem = f"max.message.bytes={limit}: less than max_request_size = {largest} of the options"
        yield Difference(False, f"{problem}; {_alter(one, f'max.message.bytes={largest + _BATCH_HEAD}')}")
    if replication is not None and found.replication < replication:
        problem = f"{found.replication} copies, and {replication} were asked for"
        yield Difference(False, f"{problem}; kafka-reassign-partitions.sh adds some")
    if found.replication >= 3 and int(told.get("min.insync.replicas", 2)) < 2:
        problem = "min.insync.replicas=1: what a broker has acknowledged is lost when it alone had it"
        yield Difference(False, f"{problem}; {_alter(one, 'min.insync.replicas=2')}")


def table(reports: list[Report]) -> Table:
    """What was made and what is there, for a person."""
    made = Table(caption=NOT_COMPACTED, caption_justify="left")
    for column in ("topic", "for", "partitions", "copies", "kept", "state"):
        made.add_column(column, justify="right" if column in ("partitions", "copies", "kept") else "left")
    for report in reports:
        one, found = report.wanted, report.found
        state = {"missing": "would be created", "created": "created", "there": "was there"}[report.state]
        state += ", not usable" if not report.usable else ", differs" if report.differences else ""
        place = f"kafka://{one.servers}/{one.name}"
        row = (place, one.use, str(found.partitions), str(found.replication), _kept(found.settings.get("retention.ms")), state)
        made.add_row(*row)
    return made


def _kept(retention: str | None) -> str:
    if retention is None:
        return "not told"
    return _span(int(retention) / 1000) if int(retention) >= 0 else "for ever"


def _span(seconds: float) -> str:
    for unit, name in ((DAY, "d"), (HOUR, "h")):
        if seconds >= unit:
            return f"{seconds / unit:.4g} {name}"
    return f"{seconds:.4g} s"


def _alter(one: Wanted, setting: str) -> str:
    where = f"--bootstrap-server {one.servers} --entity-type topics --entity-name {one.name}"
    return f"kafka-configs.sh --alter {where} --add-config {setting}"
