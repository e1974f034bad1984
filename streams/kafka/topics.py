"""Lookup and creation of the topics of a Kafka cluster."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as failures
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType

from streams.kafka.clients import start_client
from streams.kafka.errors import NoBroker, explain
from streams.kafka.options import Settings

__all__ = ["TopicDescription", "TopicRefused", "Topics"]

_ALL_SETTINGS = ConfigFilterType.ALL
_ALREADY_EXISTS = failures.TopicAlreadyExistsError.errno
_DOES_NOT_EXIST = failures.UnknownTopicOrPartitionError.errno
_REMEDIES = {
    failures.InvalidConfigurationError: "the broker does not know one of the settings or its value; correct it",
    failures.InvalidPartitionsError: "ask for at least one partition",
    failures.InvalidReplicationFactorError: "ask for no more replicas than there are brokers",
    failures.InvalidTopicError: "use at most 249 letters, digits, '.', '_' and '-' in its name",
    failures.PolicyViolationError: "the cluster has a policy for topics; ask its operator to create this one",
}


class TopicRefused(OSError):
    """The broker refuses to create a topic; nothing was created."""


class TopicDescription(NamedTuple):
    """A topic as the broker describes it.

    Attributes
    ----------
    partitions : int
    replication : int
        Replicas of the partition that has the fewest.
    settings : dict of str to str
        Settings that the broker reports, including its defaults. A setting that is missing is unknown: this user may not
        read it, or the broker does not report it.
    """

    partitions: int
    replication: int
    settings: dict[str, str]


class Topics:
    """Finds and creates topics of one cluster; never changes or deletes one. Use it as a context manager.

    Parameters
    ----------
    servers : str
        ``host:port``, several separated by commas.
    options : mapping or None
        As in `streams.kafka.log.KafkaLog`.
    timeout : float
        Seconds. An answer may take two fifths of it.

    Attributes
    ----------
    largest : int
        Bytes in the largest request that a log with these options can send.

    Raises
    ------
    ValueError
        The options are wrong.
    NoBroker, NotAllowed
        `OSError` with a remedy.
    """

    def __init__(self, servers: str, options: Mapping[str, Any] | None = None, timeout: float = 10.0) -> None:
        self.servers, self.timeout = servers, timeout
        clients = {"consumer": KafkaConsumer, "producer": KafkaProducer, "admin": KafkaAdminClient}
        defaults = {name: client.DEFAULT_CONFIG for name, client in clients.items()}
        settings = Settings(servers, options or {}, timeout, **defaults)
        self.largest = settings.max_request_bytes
        self._share = settings.admin["request_timeout_ms"]
        try:
            self._admin = start_client(KafkaAdminClient, settings.admin, connect_timeout_ms=self._share)
        except (failures.KafkaError, TypeError, ValueError, AssertionError, RuntimeError) as error:
            explain(error, "asking for topics", servers, "", timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._admin.close()

    def brokers(self) -> int:
        """Return the number of brokers in the cluster now."""
        with self._explain_errors("asking for brokers", ""):
            return len(self._admin.describe_cluster()["brokers"])

    def find(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        """Describe topics.

        Returns
        -------
        dict of str to TopicDescription
            Descriptions of the topics that exist, by name.

        Raises
        ------
        NoBroker, NotAllowed
        """
        existing: dict[str, list[dict[str, Any]]] = {}
        with self._explain_errors("asking for topics", ", ".join(names)):
            for topic in self._admin.describe_topics(list(names)):
                if topic["error_code"] not in (0, _DOES_NOT_EXIST):
                    self._refuse(topic["name"], failures.for_code(topic["error_code"]), "on describing it")
                if not topic["error_code"]:
                    existing[topic["name"]] = topic["partitions"]
            # All settings: the broker of the tests cannot return some by name.
            requested = [ConfigResource(ConfigResourceType.TOPIC, name) for name in existing]
            configs = self._admin.describe_configs(requested, config_filter=_ALL_SETTINGS)["topic"] if requested else {}
        return {
            name: TopicDescription(
                len(partitions),
                min((len(partition["replica_nodes"]) for partition in partitions), default=0),
                {key: str(setting["value"]) for key, setting in configs.get(name, {}).items() if setting["value"] is not None},
            )
            for name, partitions in existing.items()
        }

    def create(self, name: str, partitions: int, replication: int, settings: Mapping[str, str]) -> None:
        """Create a topic and wait until it can be used. A topic that exists already is not changed.

        Raises
        ------
        TopicRefused
            The broker refuses it; the error holds the broker's message.
        NoBroker, NotAllowed
        """
        topic = {"num_partitions": partitions, "replication_factor": replication, "configs": dict(settings)}
        with self._explain_errors("creating", name):
            try:
                (created,) = self._admin.create_topics({name: topic}, timeout_ms=self._share, raise_errors=False)["topics"]
            except RuntimeError as error:  # the client raises this when each broker refers it to another one
                problem = "creating: the cluster has no controller at the moment; try again after it has elected one"
                raise NoBroker(errno.EAGAIN, problem, f"kafka://{self.servers}/{name}") from error
            if created["error_code"] not in (0, _ALREADY_EXISTS):
                requested = f"{partitions} partitions, {replication} replicas, {dict(settings)}"
                self._refuse(
                    name, failures.for_code(created["error_code"]), f"{created['error_message'] or 'no reason'}; {requested}"
                )
            self._admin.wait_for_topics([name], timeout_ms=self._share)

    def _refuse(self, name: str, error: type[Exception], message: str) -> NoReturn:
        for kind, remedy in _REMEDIES.items():
            if issubclass(error, kind):
                problem = f"the broker refuses the topic {name!r} ({error.__name__}: {message}); {remedy}"
                raise TopicRefused(errno.EINVAL, problem, f"kafka://{self.servers}/{name}")
        raise error(message)

    @contextmanager
    def _explain_errors(self, operation: str, topic: str) -> Iterator[None]:
        try:
            yield
        except failures.KafkaError as error:
            explain(error, operation, self.servers, topic, self.timeout, allow="describe and create")
