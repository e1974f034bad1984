"""Starting a Kafka client, hearing what it only reports, noticing that nobody answers it, and ending it where it fails to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Silence", "poll", "started"]

# The client reports every attempt of every retry, and what matters is raised here. Who wants its reports gives this logger a
# level before the import, other than DEBUG where there is a password: at that level it writes passwords out.
_reports = logging.getLogger("kafka")
if _reports.level == logging.NOTSET:
    _reports.setLevel(logging.WARNING)
    _reports.addHandler(logging.NullHandler())
    _reports.propagate = False


class _Ear(logging.Handler):
    """Hears the errors that the client reports and does not raise."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[Exception] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            # By name, because the client is imported in one file only.
            said = [argument for argument in record.args if isinstance(argument, Exception)]
            said = [error for error in said if type(error).__module__ == "kafka.errors"]
            self.errors += [error for error in said if type(error).__name__ != "KafkaTimeoutError"]


class Silence:
    """How long nobody has answered the consumer that asks for records again and again.

    It tells a broker with nothing new, which answers all the same, from one that is gone.

    Parameters
    ----------
    pause : float
        Seconds between two questions that count as silence at most: after more, it was the one who asks that was away.

    Attributes
    ----------
    seconds : float
        As of the last question.
    heard : (float, float)
        When the last request for records that was answered was sent (monotonic), and when it was answered (Unix seconds).
    """

    def __init__(self, pause: float) -> None:
        self.seconds = 0.0
        self.heard = float("-inf"), 0.0
        self._pause = pause
        self._heard, self._asked_at = True, 0.0

    def answered(self, sent: float, answer: Any) -> None:
        """Hear an answer to whatever the client asked; only records, or that there are none, break the silence."""
        if type(answer).__name__ == "FetchResponse" and not answer.error_code:
            codes = [partition.error_code for topic in answer.responses for partition in topic.partitions]
            if not any(codes):
                self._heard, self.heard = True, (sent, time.time())

    def asked(self, *, received: bool) -> None:
        """Note a question, and whether it brought records at once."""
        now = time.monotonic()
        heard, self._heard = self._heard or received, False
        self.seconds = 0.0 if heard else self.seconds + min(now - self._asked_at, self._pause)
        self._asked_at = now


def started(
    client: Any,
    settings: Mapping[str, Any],
    answered: Callable[[float, Any], None] | None = None,
    *,
    connecting_ms: int | None = None,
) -> Any:
    """Start a client.

    One that is refused tries until the time is over and raises only that: the reason is in its reports. It also leaves its
    thread behind, which is ended here.

    Parameters
    ----------
    client : class
        Of kafka-python.
    settings : mapping
    answered : callable or None
        Given when a request was sent, monotonic, and the answer to it; called on the client's own thread.
    connecting_ms : int or None
        Milliseconds that a broker may take to greet a new connection. None: the client's 10 seconds, whatever else is set.
    """
    if connecting_ms is None:
        patience = {}
    else:
        patience = dict.fromkeys(
            ("socket_connection_setup_timeout_ms", "socket_connection_setup_timeout_max_ms"), connecting_ms
        )
    made: list[Any] = []

    def connections(**keywords: Any) -> Any:
        made.append(client.DEFAULT_CONFIG["kafka_client"](**keywords | patience))
        if answered is not None:
            _overhear(vars(made[-1])["_manager"], answered)
        return made[-1]

    ear = _Ear()
    _reports.addHandler(ear)
    try:
        return client(**settings, kafka_client=connections)
    except BaseException as error:
        for one in made:
            one.close()
        if type(error).__name__ == "KafkaTimeoutError" and ear.errors:
            # The end of the time may have come in the middle of a try.
            refusals = [one for one in ear.errors if type(one).__name__ != "RequestTimedOutError"]
            raise (refusals or ear.errors)[-1] from error
        raise
    finally:
        _reports.removeHandler(ear)


def poll(consumer: Any, seconds: float) -> Mapping[Any, Sequence[Any]]:
    """Poll a consumer, so that partitions which were paused and resumed are read again.

    What was fetched of a partition before it was paused is set aside (KAFKA-7548), and comes back when the place for records
    at hand is empty. After the first records there is always something in that place, if only what is left of records that
    were handed out, and the partition would never be read again (kafka-python 3.0.12, `Fetcher.fetched_records`).

    Parameters
    ----------
    consumer : KafkaConsumer
    seconds : float
        Longest wait.

    Returns
    -------
    mapping of TopicPartition to sequence of messages
    """
    fetcher = vars(consumer)["_fetcher"]
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None
    polled: Mapping[Any, Sequence[Any]] = consumer.poll(timeout_ms=seconds * 1000)
    return polled


def _overhear(manager: Any, answered: Callable[[float, Any], None]) -> None:
    send = manager.send

    def sending(*arguments: Any, **keywords: Any) -> Any:
        return send(*arguments, **keywords).add_callback(answered, time.monotonic())

    manager.send = sending
