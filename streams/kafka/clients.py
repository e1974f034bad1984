"""Helpers around kafka-python's clients: start, poll, collect errors that are only logged, and detect a silent broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streams.kafka.handshakes import bound_handshakes

__all__ = ["ResponseTracker", "poll", "start_client"]

# The client logs every attempt of every retry. What matters is raised here, so its log is silenced by default. To see it, set
# the level of this logger before the import. Not DEBUG where there is a password: at that level it logs passwords.
_log = logging.getLogger("kafka")
if _log.level == logging.NOTSET:
    _log.setLevel(logging.WARNING)
    _log.addHandler(logging.NullHandler())
    _log.propagate = False


_UNKNOWN_TOPIC = 3, 100
"""Kafka's error codes for a topic, and for an id of a topic, that a broker does not know."""


class _ErrorCollector(logging.Handler):
    """Collects errors that the client logs and does not raise."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[Exception] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            # By name: only a few other modules may import the client.
            errors = [argument for argument in record.args if isinstance(argument, Exception)]
            errors = [error for error in errors if type(error).__module__ == "kafka.errors"]
            self.errors += [error for error in errors if type(error).__name__ != "KafkaTimeoutError"]


class ResponseTracker:
    """Measures how long a consumer has polled without an answer.

    A broker without new records still answers. So silence means that the broker is gone.

    Parameters
    ----------
    max_gap : float
        Longest gap between two polls, seconds, that counts as silence. In a longer gap it was the caller who was away.

    Attributes
    ----------
    silent_seconds : float
        Seconds without an answer, as of the last poll.
    last_response : (float, float)
        Of the last request for records that was answered: when it was sent (monotonic), and when it was answered (Unix
        seconds).
    unknown : bool
        Whether a broker answered that it does not know the topic. The caller resets it.
    stable : dict of int to int
        By partition, the offset before which every transaction has ended, from the last response that named it.
    """

    def __init__(self, max_gap: float) -> None:
        self.silent_seconds = 0.0
        self.last_response = float("-inf"), 0.0
        self.unknown = False
        self.stable: dict[int, int] = {}
        self._max_gap = max_gap
        self._heard, self._polled_at = True, 0.0

    def on_response(self, sent: float, response: Any) -> None:
        """Note a response to the client. Only responses to requests for records end the silence."""
        if type(response).__name__ == "FetchResponse" and not response.error_code:
            partitions = [partition for topic in response.responses for partition in topic.partitions]
            self.stable |= {one.partition_index: one.last_stable_offset for one in partitions if one.last_stable_offset >= 0}
            self.unknown = self.unknown or any(partition.error_code in _UNKNOWN_TOPIC for partition in partitions)
            if not any(partition.error_code for partition in partitions):
                self._heard, self.last_response = True, (sent, time.time())

    def on_poll(self, *, received: bool) -> None:
        """Note a poll, and whether it returned records."""
        now = time.monotonic()
        heard, self._heard = self._heard or received, False
        self.silent_seconds = 0.0 if heard else self.silent_seconds + min(now - self._polled_at, self._max_gap)
        self._polled_at = now


def start_client(
    client: Any,
    settings: Mapping[str, Any],
    on_response: Callable[[float, Any], None] | None = None,
    *,
    connect_timeout_ms: int | None = None,
) -> Any:
    """Start a client.

    A client that is refused retries until its timeout and then raises only the timeout. The reason is in its log, so that error
    is raised instead. Such a client also leaves its thread running; the thread is stopped here.

    Parameters
    ----------
    client : class
        Client class of kafka-python.
    settings : mapping
        Its keywords.
    on_response : callable or None
        Called with the time at which a request was sent (monotonic), and its response; on the client's own thread.
    connect_timeout_ms : int or None
        Milliseconds to wait for a new connection to be set up. None: the client's default, 10 seconds.
    """
    if connect_timeout_ms is None:
        timeouts = {}
    else:
        timeouts = dict.fromkeys(
            ("socket_connection_setup_timeout_ms", "socket_connection_setup_timeout_max_ms"), connect_timeout_ms
        )
    opened: list[Any] = []

    def connections(**keywords: Any) -> Any:
        opened.append(client.DEFAULT_CONFIG["kafka_client"](**keywords | timeouts))
        if on_response is not None:
            _hook_responses(vars(opened[-1])["_manager"], on_response)
        return opened[-1]

    bound_handshakes()
    collector = _ErrorCollector()
    _log.addHandler(collector)
    try:
        return client(**settings, kafka_client=connections)
    except BaseException as error:
        for connection in opened:
            connection.close()
        if type(error).__name__ == "KafkaTimeoutError" and collector.errors:
            # The timeout may have ended an attempt, which is then logged as a timeout too.
            refusals = [reported for reported in collector.errors if type(reported).__name__ != "RequestTimedOutError"]
            raise (refusals or collector.errors)[-1] from error
        raise
    finally:
        _log.removeHandler(collector)


def poll(consumer: Any, seconds: float) -> Mapping[Any, Sequence[Any]]:
    """Poll a consumer; partitions that were paused and resumed are read, too.

    The consumer sets aside what it fetched of a partition before a pause (KAFKA-7548). It takes this up again only when its
    field for the current records is empty. After the first records that field holds a used-up rest, so such a partition would
    never be read again (kafka-python 3.0.12, `Fetcher.fetched_records`). So the rest is removed here.

    Parameters
    ----------
    consumer : KafkaConsumer
    seconds : float
        Longest time to wait.

    Returns
    -------
    mapping of TopicPartition to sequence of messages
    """
    fetcher = vars(consumer)["_fetcher"]
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None
    polled: Mapping[Any, Sequence[Any]] = consumer.poll(timeout_ms=seconds * 1000)
    return polled


def _hook_responses(manager: Any, on_response: Callable[[float, Any], None]) -> None:
    send = manager.send

    def send_and_observe(*arguments: Any, **keywords: Any) -> Any:
        return send(*arguments, **keywords).add_callback(on_response, time.monotonic())

    manager.send = send_and_observe
