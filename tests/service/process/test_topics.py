"""The topics that a config names: how they are created, and which settings of existing ones are refused."""

from __future__ import annotations

import gc
import re
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from service.config import Config, ConfigError
from service.process.topics import DAY, HOUR, TopicSpec, compare, create, required_topics, table
from streams.kafka.topics import TopicDescription, Topics
from tests.broker import Broker
from tests.service.processes import command


def freshet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*map(str, arguments)), capture_output=True, text=True, timeout=120, check=False)


MakeConfig = Callable[..., Config]

# See tests/streams/kafka/test_log.py.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

_FRESH = count()


@pytest.fixture(autouse=True)
def leave_no_socket() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def names(broker: Broker) -> tuple[str, str, str]:
    """Names of events, weights and dead letters that no topic has."""
    prefix = f"{broker.topic()}-{next(_FRESH)}"
    return f"{prefix}-events", f"{prefix}-weights", f"{prefix}-dead"


def sections(servers: str, events: str, weights: str, dead: str) -> dict[str, Any]:
    return {
        "stream": {"url": f"kafka://{servers}/{events}"},
        "weights": {"url": f"kafka://{servers}/{weights}"},
        "dead_letters": {"url": f"kafka://{servers}/{dead}"},
    }


THREE = sections("broker:9092", "events", "weights", "dead")


def test_each_topic_gets_the_settings_of_its_use(make_config: MakeConfig) -> None:
    events, weights, dead = required_topics(make_config(**THREE))
    assert [(one.use, one.partitions, one.retention) for one in (events, weights, dead)] == [
        ("events", 4, 7 * DAY),
        ("weights", 1, HOUR),
        ("dead letters", 1, 30 * DAY),
    ]
    # window and lateness are 20 s each, and a replica starts at the newest checkpoint
    assert (events.min_retention, weights.min_retention, dead.min_retention) == (80.0, 60.0, 0.0)
    assert (weights.max_partitions, events.max_partitions) == (1, 0)


def test_retention_follows_from_the_window_and_the_checkpoints(make_config: MakeConfig) -> None:
    slow = THREE | {"stream": THREE["stream"] | {"window": 8 * DAY, "lateness": DAY}, "checkpoint": {"every": 600.0}}
    events, weights, _ = required_topics(make_config(**slow))
    assert (events.retention, events.min_retention) == (18 * DAY, 18 * DAY)
    assert (weights.retention, weights.min_retention) == (12_000.0, 1200.0)
    assert required_topics(make_config(**THREE), 8, 30 * DAY)[0][5:] == (8, 8, 0, 30 * DAY, 30 * DAY)
    with pytest.raises(ConfigError, match=r"\[stream\] --retention: 60 s is less than 80 s, twice the window and lateness"):
        required_topics(make_config(**THREE), retention=60.0)


def test_urls_of_other_logs_are_ignored(make_config: MakeConfig) -> None:
    mixed = THREE | {"weights": {"url": "lmdb:///somewhere"}, "dead_letters": {}}
    assert [one.use for one in required_topics(make_config(**mixed))] == ["events"]
    with pytest.raises(ConfigError, match=r"\[stream\] url = 'memory://': neither here nor in \[weights\]"):
        required_topics(make_config())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"weights": {"url": "kafka://broker:9092/events"}},
            r"\[weights\] url = .*: the events are in this topic; give another",
        ),
        ({"weights": {"url": "kafka://broker:9092"}}, r"\[weights\] url = .*: write kafka://host:port/topic"),
        (
            {"dead_letters": {"url": "kafka://me:secret@broker/x"}},
            r"\[dead_letters\] url: credentials .*\[dead_letters.options\]",
        ),
    ],
)
def test_urls_are_checked_by_name(change: dict[str, Any], says: str, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=says):
        required_topics(make_config(**THREE | change))


def test_topics_are_made_once_and_then_found(broker: Broker, names: tuple[str, str, str], make_config: MakeConfig) -> None:
    needed = required_topics(make_config(**sections(broker.servers, *names)), partitions=3)
    dry = create(needed, dry_run=True)
    assert [report.state for report in dry] == ["missing"] * 3
    with Topics(broker.servers) as topics:
        assert topics.find(names) == {}
        made = create(needed)
        assert [(report.state, report.found.partitions) for report in made] == [("created", 3), ("created", 1), ("created", 1)]
        found = topics.find(names)
    asked = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "max.message.bytes": "1048588"}
    for name, kept in zip(names, (7 * DAY, HOUR, 30 * DAY), strict=True):
        assert found[name].settings.items() >= (asked | {"retention.ms": f"{kept * 1000:.0f}"}).items()
    again = create(needed)
    assert [(report.state, report.differences, report.usable) for report in again] == [("there", [], True)] * 3
    assert table(again).row_count == 3


def test_an_append_needs_two_of_three_copies(broker: Broker, names: tuple[str, str, str], make_config: MakeConfig) -> None:
    """The test broker accepts any number of copies."""
    if broker.process is None:
        pytest.skip("a cluster has as many copies as brokers")
    create(required_topics(make_config(**sections(broker.servers, *names))), 3)
    with Topics(broker.servers) as topics:
        assert {found.settings["min.insync.replicas"] for found in topics.find(names).values()} == {"2"}
        assert {found.settings.get("min.insync.replicas") for found in topics.find([broker.topic()]).values()} <= {None, "1"}


def test_nothing_is_created_when_one_topic_cannot_be_checked(
    broker: Broker, names: tuple[str, str, str], make_config: MakeConfig
) -> None:
    three = sections(broker.servers, *names)
    elsewhere = three | {"dead_letters": {"url": "kafka://127.0.0.1:1/dead", "options": {"request_timeout_ms": 100}}}
    with pytest.raises(ConnectionError, match=r"no broker at 127\.0\.0\.1:1"):
        create(required_topics(make_config(**elsewhere)))
    mistyped = three | {"weights": three["weights"] | {"options": {"ssl_cafil": "x"}}}
    with pytest.raises(ConfigError, match=r"\[weights.options\] ssl_cafil: .*did you mean ssl_cafile"):
        create(required_topics(make_config(**mistyped)))
    with Topics(broker.servers) as topics:
        assert topics.find(names) == {}


RIGHT = {
    "cleanup.policy": "delete",
    "retention.ms": "604800000",
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": "1048588",
}


@pytest.mark.parametrize(
    ("use", "partitions", "settings", "essential", "says"),
    [
        (
            "events",
            4,
            {"cleanup.policy": "compact"},
            True,
            "cleanup.policy=compact: .*every event with this key; .*kafka-configs",
        ),
        ("weights", 1, {"cleanup.policy": "compact,delete"}, True, "changes to the previous one"),
        ("dead letters", 1, {"cleanup.policy": "compact"}, True, "a different record"),
        ("events", 3, {}, True, "3 partitions, and 4 were asked for; name a new topic"),
        ("events", 5, {}, None, ""),
        ("weights", 2, {}, True, "2 partitions: records need one order"),
        ("dead letters", 2, {}, None, ""),
        ("events", 4, {"retention.ms": "60000"}, True, "retention.ms=60000 keeps 60 s, and 80 s are needed"),
        (
            "weights",
            1,
            {"retention.ms": "59000"},
            True,
            "a replica reads it from the newest checkpoint on.*retention.ms=3600000",
        ),
        ("dead letters", 1, {"retention.ms": "1000"}, None, ""),
        ("events", 4, {"retention.ms": "-1"}, None, ""),
        ("events", 4, {"message.timestamp.type": "CreateTime"}, False, "their producer's time"),
        ("events", 4, {"max.message.bytes": "1000"}, False, "max.message.bytes=1000: less than max_request_size = 1048576"),
        ("events", 4, {"max.message.bytes": "9000000"}, None, ""),
    ],
)
def test_what_differs_is_named_with_its_remedy(
    use: str, partitions: int, settings: dict[str, str], essential: bool | None, says: str, make_config: MakeConfig
) -> None:
    (one,) = (one for one in required_topics(make_config(**THREE), 4) if one.use == use)
    found = list(compare(one, TopicDescription(partitions, 1, RIGHT | settings), None, 1 << 20))
    assert [difference.essential for difference in found] == ([] if essential is None else [essential])
    for difference in found:
        assert re.search(says, difference.text), difference.text


def test_copies_are_compared(make_config: MakeConfig) -> None:
    one: TopicSpec = required_topics(make_config(**THREE))[0]
    assert [said.text for said in compare(one, TopicDescription(4, 1, RIGHT), 3, 1)] == [
        "1 copies, and 3 were asked for; kafka-reassign-partitions.sh adds some"
    ]
    (said,) = compare(one, TopicDescription(4, 3, RIGHT | {"min.insync.replicas": "1"}), None, 1)
    assert "min.insync.replicas=1" in said.text
    assert not list(compare(one, TopicDescription(4, 3, RIGHT | {"min.insync.replicas": "2"}), 3, 1))


def test_a_setting_that_the_broker_does_not_report_is_not_a_difference(make_config: MakeConfig) -> None:
    for one in required_topics(make_config(**THREE)):
        assert not list(compare(one, TopicDescription(1, 3, {}), None, 1 << 20))


# ---- the command


CONFIG = """
[stream]
url = "kafka://{servers}/{events}"
[weights]
url = "kafka://{servers}/{weights}"
[dead_letters]
url = "kafka://{servers}/{dead}"
"""


def test_the_command_makes_them_and_says_what_is_there(broker: Broker, names: tuple[str, str, str], tmp_path: Path) -> None:
    config = tmp_path / "service.toml"
    events, weights, dead = names
    config.write_text(CONFIG.format(servers=broker.servers, events=events, weights=weights, dead=dead))
    dry = freshet("topics", "create", "-c", config, "--partitions", "2", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.count("would be created") == 3
    made = freshet("topics", "create", "-c", config, "--partitions", "2", "--retention", "3")
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("created") == 3
    assert "3 d" in made.stdout
    assert "compaction keeps only the last record of a key" in made.stdout
    there = freshet("topics", "create", "-c", config)
    assert (there.returncode, there.stdout.count("exists"), there.stderr) == (0, 3, "")
    fewer = freshet("topics", "create", "-c", config, "--partitions", "6")
    assert fewer.returncode == 2
    assert "exists, not usable" in fewer.stdout
    assert f"{events}: not usable: 2 partitions, and 6 were asked for" in fewer.stderr


def test_the_command_names_a_compacted_topic_and_leaves_it(broker: Broker, names: tuple[str, str, str], tmp_path: Path) -> None:
    config = tmp_path / "service.toml"
    events, weights, dead = names
    broker.topic(name=events, **{"cleanup.policy": "compact", "message.timestamp.type": "CreateTime"})
    broker.topic(2, name=weights)
    config.write_text(CONFIG.format(servers=broker.servers, events=events, weights=weights, dead=dead))
    done = freshet("topics", "create", "-c", config)
    assert done.returncode == 2
    for words in (f"{events}: not usable: cleanup.policy=compact", f"{events}: differs: message.timestamp.type=CreateTime"):
        assert words in done.stderr
    assert f"{weights}: not usable: 2 partitions" in done.stderr
    with Topics(broker.servers) as topics:
        found = topics.find(names)
    assert found[events].settings["cleanup.policy"] == "compact", "nothing is altered"
    assert dead in found, "what was missing is made"


def test_the_command_names_what_stops_it(tmp_path: Path) -> None:
    config = tmp_path / "service.toml"
    config.write_text('[stream]\nurl = "kafka://127.0.0.1:1/events"\n')
    gone = freshet("topics", "create", "-c", config)
    assert gone.returncode == 5
    assert "no broker at 127.0.0.1:1 (Connection refused); start it, or correct the address" in gone.stderr
    config.write_text('[stream]\nurl = "lmdb:///tmp/x"\n')
    none = freshet("topics", "create", "-c", config)
    assert none.returncode == 2
    assert "kafka:// url" in none.stderr
    assert "Traceback" not in gone.stderr + none.stderr
