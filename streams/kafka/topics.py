"""Topics of a Kafka cluster: what is there, and making what is not."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as failures
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType

from streams.kafka.clients import started
from streams.kafka.errors import NoBroker, explain
from streams.kafka.options import Settings

__all__ = ["Found", "TopicRefused", "Topics"]

_EVERY = ConfigFilterType.ALL
_THERE_ALREADY = failures.TopicAlreadyExistsError.errno
_NOT_THERE = failures.UnknownTopicOrPartitionError.errno
_REMEDIES = {
    failures.InvalidConfigurationError: "the broker does not know one of the settings, or not this value",
    failures.InvalidPartitionsError: "ask for at least one partition",
    failures.InvalidReplicationFactorError: "ask for no more copies than there are brokers",
    failures.InvalidTopicError: "a name is made of letters, digits, '.', '_' and '-', 249 at most",
    failures.PolicyViolationError: "the cluster has rules for topics; ask who runs it to make this one",
}


class TopicRefused(OSError):
    """The broker does not make such a topic; nothing was made."""


class Found(NamedTuple):
    """A topic as the broker describes it.

    Attributes
    ----------
    partitions : int
    replication : int
        Copies of the partition that has the fewest.
    settings : dict of str to str
        Those that the broker tells, its defaults included. Empty where this user may not ask, or the broker does not tell:
        what is missing here is not known, rather than different.
    """

    partitions: int
    replication: int
    settings: dict[str, str]


class Topics:
    """The topics of one cluster, looked at and made; none is ever altered or deleted. Use it as a context manager.

    Parameters
    ----------
    servers : str
        ``host:port``, several separated by commas.
    options : mapping or None
        As of `streams.kafka.log.KafkaLog`.
    timeout : float
        Seconds; an answer may take two fifths of it.

    Attributes
    ----------
    largest : int
        Bytes of the largest request that these options let a log send.

    Raises
    ------
    ValueError
        For options that make no sense.
    NoBroker, NotAllowed
        Both of them OSError, with the remedy.
    """

    def __init__(self, servers: str, options: Mapping[str, Any] | None = None, timeout: float = 10.0) -> None:
        self.servers, self.timeout = servers, timeout
        clients = {"consumer": KafkaConsumer, "producer": KafkaProducer, "admin": KafkaAdminClient}
        defaults = {name: client.DEFAULT_CONFIG for name, client in clients.items()}
        settings = Settings(servers, options or {}, timeout, **defaults)
        self.largest = settings.largest
        self._share = settings.admin["request_timeout_ms"]
        try:
            self._admin = started(KafkaAdminClient, settings.admin, connecting_ms=self._share)
        except (failures.KafkaError, TypeError, ValueError, AssertionError, RuntimeError) as error:
            explain(error, "asking for topics", servers, "", timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._admin.close()

    def brokers(self) -> int:
        """Count the brokers that take part now."""
        with self._explained("asking for brokers", ""):
            return len(self._admin.describe_cluster()["brokers"])

    def find(self, names: Sequence[str]) -> dict[str, Found]:
        """Look topics up.

        Returns
        -------
        dict of str to Found
            Those that are there.

        Raises
        ------
        NoBroker, NotAllowed
        """
        there: dict[str, list[dict[str, Any]]] = {}
        with self._explained("asking for topics", ", ".join(names)):
            for topic in self._admin.describe_topics(list(names)):
                if topic["error_code"] not in (0, _NOT_THERE):
                    self._refuse(topic["name"], failures.for_code(topic["error_code"]), "asked whether it is there")
                if not topic["error_code"]:
                    there[topic["name"]] = topic["partitions"]
            # All settings, rather than some by name, which the broker of the tests cannot do.
            asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in there]
            told = self._admin.describe_configs(asked, config_filter=_EVERY)["topic"] if asked else {}
        return {
            name: Found(
                len(partitions),
                min((len(partition["replica_nodes"]) for partition in partitions), default=0),
                {key: str(one["value"]) for key, one in told.get(name, {}).items() if one["value"] is not None},
            )
            for name, partitions in there.items()
        }

    def create(self, name: str, partitions: int, replication: int, settings: Mapping[str, str]) -> None:
        """Make a topic, and wait until it can be used. One that somebody has made meanwhile stays as it is.

        Raises
        ------
        TopicRefused
            With the broker's own words.
        NoBroker, NotAllowed
        """
        topic = {"num_partitions": partitions, "replication_factor": replication, "configs": dict(settings)}
        with self._explained("creating", name):
            try:
                (made,) = self._admin.create_topics({name: topic}, timeout_ms=self._share, raise_errors=False)["topics"]
            except RuntimeError as error:  # the client's way to say that it was sent from broker to broker
                problem = "creating: the cluster has no controller at the moment; try again when it has elected one"
                raise NoBroker(errno.EAGAIN, problem, f"kafka://{self.servers}/{name}") from error
            if made["error_code"] not in (0, _THERE_ALREADY):
                asked = f"{partitions} partitions, {replication} copies, {dict(settings)}"
                self._refuse(name, failures.for_code(made["error_code"]), f"{made['error_message'] or 'no reason'}; {asked}")
            self._admin.wait_for_topics([name], timeout_ms=self._share)

    def _refuse(self, name: str, error: type[Exception], words: str) -> NoReturn:
        for kind, remedy in _REMEDIES.items():
            if issubclass(error, kind):
                problem = f"the broker refuses the topic {name!r} ({error.__name__}: {words}); {remedy}"
                raise TopicRefused(errno.EINVAL, problem, f"kafka://{self.servers}/{name}")
        raise error(words)

    @contextmanager
    def _explained(self, doing: str, topic: str) -> Iterator[None]:
        try:
            yield
        except failures.KafkaError as error:
            explain(error, doing, self.servers, topic, self.timeout, allow="describe and create")
