"""What a Kafka client says went wrong, as errors that name the topic and the remedy."""

from __future__ import annotations

import errno
import socket
from typing import NoReturn

__all__ = ["NoBroker", "NoTopic", "NotAllowed", "certain", "explain", "said"]


class NoBroker(ConnectionError):
    """No broker answers, or not in time. What was asked was not done, and can be asked again."""


class NoTopic(FileNotFoundError):
    """The broker has no such topic."""


class NotAllowed(PermissionError):
    """The broker does not accept the credentials, or does not allow what they ask for."""


# By name, because the client is imported in one file only.
_UNKNOWN = {"UnknownTopicOrPartitionError", "InvalidTopicError"}
_ELSEWHERE = {"OffsetOutOfRangeError", "LogTruncationError"}
_CREDENTIALS = {
    "SaslAuthenticationFailedError",
    "UnsupportedSaslMechanismError",
    "IllegalSaslStateError",
    "SecurityDisabledError",
}
_OPTIONS = {"KafkaConfigurationError", "TypeError", "ValueError", "AssertionError", "RuntimeError"}
_RECORDS = {"InvalidRecordError", "InvalidTimestampError", "PolicyViolationError"}
_REFUSED = _RECORDS | {"AuthorizationError", "MessageSizeTooLargeError", "RecordListTooLargeError"}


def certain(error: Exception) -> bool:
    """Whether the broker has said that it did not write the batch."""
    return _is(error, _REFUSED)


def explain(
    error: Exception, doing: str, servers: str, topic: str, timeout: float, allow: str = "describe, read and write"
) -> NoReturn:
    """Raise what a client raised as an error of ours.

    Parameters
    ----------
    error : Exception
    doing : str
        What it was raised at, for the reader.
    servers, topic : str
    timeout : float
        Seconds.
    allow : str
        What the user has to be allowed for it.

    Raises
    ------
    NoTopic, NotAllowed, NoBroker
    LookupError
        For an offset that the topic does not keep.
    ValueError
        For options that the client refuses.
    """
    name = f"kafka://{servers}/{topic}"
    if _is(error, _UNKNOWN):
        tool = f"kafka-topics.sh --bootstrap-server {servers} --create --topic {topic}"
        remedy = "create what a config names: freshet topics create --config FILE. With Kafka's own tool"
        problem = f"there is no topic {topic!r}; {remedy}: {tool} --config message.timestamp.type=LogAppendTime"
        raise NoTopic(errno.ENOENT, problem, name) from error
    if _is(error, _ELSEWHERE):
        problem = f"offset: {name} does not keep what is to be read ({said(error)})"
        remedy = "retention has deleted it, or its tail was lost: start from a checkpoint that fits it, or from its beginning"
        raise LookupError(f"{problem}; {remedy}") from error
    if _is(error, _CREDENTIALS):
        remedy = "check sasl_mechanism, sasl_plain_username and the environment variable of the password in the options"
        raise NotAllowed(
            errno.EACCES, f"{doing}: the broker refuses the credentials ({said(error)}); {remedy}", name
        ) from error
    if _is(error, {"AuthorizationError"}):
        remedy = f"allow this user to {allow} the topic {topic!r}"
        raise NotAllowed(errno.EACCES, f"{doing}: not allowed ({said(error)}); {remedy}", name) from error
    if _is(error, _RECORDS):
        remedy = (
            "see the topic's settings (cleanup.policy has to be delete; message.timestamp limits) and the broker's policies"
        )
        raise NotAllowed(errno.EACCES, f"{doing}: the broker refuses the records ({said(error)}); {remedy}", name) from error
    if _is(error, {"UnsupportedCodecError"}):
        remedy = "install the Python package for it (lz4, python-snappy, zstandard), or have gzip used"
        raise ValueError(f"{name}: {doing}: a compression that is not installed here ({said(error)}); {remedy}") from error
    if _is(error, _OPTIONS):
        raise ValueError(f"{name}: the client refuses the options ({error}); correct them") from error
    raise NoBroker(errno.ETIMEDOUT, f"{doing}: {_why_not(error, servers, timeout)}", name) from error


def said(error: Exception) -> str:
    """Name and words of a client's error."""
    return f"{type(error).__name__}: {error.args[0]}" if error.args and error.args[0] else type(error).__name__


def _is(error: Exception, names: set[str]) -> bool:
    return not names.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _why_not(error: Exception, servers: str, timeout: float) -> str:
    """Try the doors: the client's own error says only that it took too long."""
    closed = []
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(timeout / 20, 0.1)).close()
        except (OSError, ValueError) as problem:
            closed.append(f"{server} ({getattr(problem, 'strerror', None) or problem})")
    if len(closed) == len(servers.split(",")):
        return f"no broker at {', '.join(closed)}; start it, or correct the address"
    remedy = "see whether it is well, whether security_protocol fits, and whether its advertised.listeners can be reached"
    return f"the broker takes connections but did not answer within {timeout:g} s ({said(error)}); {remedy}"
