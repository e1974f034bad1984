"""Starting a Kafka client, hearing what it only reports, and ending it where it fails to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["started"]

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


def started(client: Any, settings: Mapping[str, Any], connecting_ms: int | None = None) -> Any:
    """Start a client.

    One that is refused tries until the time is over and raises only that: the reason is in its reports. It also leaves its
    thread behind, which is ended here.

    Parameters
    ----------
    client : class
        Of kafka-python.
    settings : mapping
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
        return made[-1]

    ear = _Ear()
    _reports.addHandler(ear)
    try:
        return client(**settings, kafka_client=connections)
    except BaseException as error:
        for one in made:
            one.close()
        if type(error).__name__ == "KafkaTimeoutError" and ear.errors:
            raise ear.errors[-1] from error
        raise
    finally:
        _reports.removeHandler(ear)
