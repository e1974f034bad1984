"""Errors of the Kafka clients, translated into errors that name the topic and the remedy."""

from __future__ import annotations

import errno
import socket
from typing import NoReturn

__all__ = ["NoBroker", "NoTopic", "NotAllowed", "describe", "explain", "is_rejected", "is_too_large", "is_unknown_topic"]


class NoBroker(ConnectionError):
    """No broker answers in time. The operation was not carried out, and can be tried again."""


class NoTopic(FileNotFoundError):
    """The topic does not exist."""


class NotAllowed(PermissionError):
    """The broker refuses the credentials, or does not allow the operation."""


# By name: this module does not import the client.
_UNKNOWN = {"UnknownTopicOrPartitionError", "InvalidTopicError"}
_OUT_OF_RANGE = {"OffsetOutOfRangeError", "LogTruncationError"}
_CREDENTIALS = {
    "SaslAuthenticationFailedError",
    "UnsupportedSaslMechanismError",
    "IllegalSaslStateError",
    "SecurityDisabledError",
}
_OPTIONS = {"KafkaConfigurationError", "TypeError", "ValueError", "AssertionError", "RuntimeError"}
_RECORDS = {"InvalidRecordError", "InvalidTimestampError", "PolicyViolationError"}
_TOO_LARGE = {"MessageSizeTooLargeError", "RecordListTooLargeError"}
_REFUSED = _RECORDS | _TOO_LARGE | {"AuthorizationError"}


def is_rejected(error: Exception) -> bool:
    """Return whether the error means that the broker did not write the batch."""
    return _is(error, _REFUSED)


def is_unknown_topic(error: Exception) -> bool:
    """Return whether there is no such topic."""
    return _is(error, _UNKNOWN)


def is_too_large(error: Exception) -> bool:
    """Return whether the broker refuses a batch for its size."""
    return _is(error, _TOO_LARGE)


def explain(
    error: Exception, operation: str, servers: str, topic: str, timeout: float, allow: str = "describe, read and write"
) -> NoReturn:
    """Raise an error of a client as one that names topic and remedy.

    Parameters
    ----------
    error : Exception
        Error of the client.
    operation : str
        The operation that failed, such as ``reading``.
    servers, topic : str
    timeout : float
        Seconds.
    allow : str
        Permissions that the operation needs.

    Raises
    ------
    NoTopic, NotAllowed, NoBroker
    LookupError
        The topic does not hold the offset.
    ValueError
        The client refuses the options.
    """
    name = f"kafka://{servers}/{topic}"
    if _is(error, _UNKNOWN):
        tool = f"kafka-topics.sh --bootstrap-server {servers} --create --topic {topic}"
        remedy = "create the topics of a config with: freshet topics create --config FILE. Or use Kafka's own tool"
        problem = f"there is no topic {topic!r}; {remedy}: {tool} --config message.timestamp.type=LogAppendTime"
        raise NoTopic(errno.ENOENT, problem, name) from error
    if _is(error, _OUT_OF_RANGE):
        problem = f"offset: {name} does not hold the offset to read ({describe(error)})"
        remedy = "retention deleted it, or the tail was lost: start from a checkpoint of this topic, or from its beginning"
        raise LookupError(f"{problem}; {remedy}") from error
    if _is(error, _CREDENTIALS):
        remedy = "check sasl_mechanism, sasl_plain_username and the environment variable of the password in the options"
        raise NotAllowed(
            errno.EACCES, f"{operation}: the broker refuses the credentials ({describe(error)}); {remedy}", name
        ) from error
    if _is(error, {"AuthorizationError"}):
        remedy = f"allow this user to {allow} the topic {topic!r}"
        raise NotAllowed(errno.EACCES, f"{operation}: not allowed ({describe(error)}); {remedy}", name) from error
    if _is(error, _RECORDS):
        remedy = (
            "check the topic's settings (cleanup.policy must be delete; message.timestamp limits) and the broker's policies"
        )
        raise NotAllowed(
            errno.EACCES, f"{operation}: the broker refuses the records ({describe(error)}); {remedy}", name
        ) from error
    if _is(error, {"UnsupportedCodecError"}):
        remedy = "install the Python package for it (lz4, python-snappy, zstandard), or use gzip"
        raise ValueError(
            f"{name}: {operation}: a compression that is not installed here ({describe(error)}); {remedy}"
        ) from error
    if _is(error, _OPTIONS):
        raise ValueError(f"{name}: the client refuses the options ({error}); correct them") from error
    raise NoBroker(errno.ETIMEDOUT, f"{operation}: {_diagnose(error, servers, timeout)}", name) from error


def describe(error: Exception) -> str:
    """Return the name and message of a client's error."""
    return f"{type(error).__name__}: {error.args[0]}" if error.args and error.args[0] else type(error).__name__


def _is(error: Exception, names: set[str]) -> bool:
    return not names.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _diagnose(error: Exception, servers: str, timeout: float) -> str:
    """Find out why nobody answers: try to connect, because the client reports only a timeout."""
    closed = []
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(timeout / 20, 0.1)).close()
        except (OSError, ValueError) as problem:
            closed.append(f"{server} ({getattr(problem, 'strerror', None) or problem})")
    if len(closed) == len(servers.split(",")):
        return f"no broker at {', '.join(closed)}; start it, or correct the address"
    remedy = "check its health, security_protocol, and that its advertised.listeners can be reached"
    return f"the broker takes connections but did not answer within {timeout:g} s ({describe(error)}); {remedy}"
