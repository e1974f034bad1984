"""Options of a Kafka log: which client takes which option, options that Freshet sets itself, and secrets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

__all__ = ["RESERVED", "Settings", "resolve", "split"]

BATCH_BYTES = 900_000
"""Bytes in a batch: below the broker's default limit of 1 MiB."""

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SECRETS = frozenset({"sasl_plain_password", "ssl_password"})
_FROM_ENVIRONMENT = "env:"

RESERVED = {
    "acks": "an append is acknowledged when all in-sync replicas have it",
    "allow_auto_create_topics": "a mistyped topic must not be created",
    "auto_offset_reset": "reading starts at the offsets of the checkpoint",
    "bootstrap_servers": "the url names them",
    "consumer_timeout_ms": "reads have a timeout of their own",
    "delivery_timeout_ms": "appends have a timeout of their own",
    "enable_auto_commit": "the checkpoint holds the offsets",
    "enable_idempotence": "a record that the client retries must be in the topic once",
    "group_id": "[stream] group names it; without a group, offsets come from the checkpoint",
    "group_instance_id": "a member that restarts is a new one, so that its older commits are refused",
    "kafka_client": "Freshet closes failed connections",
    "key_deserializer": "records are bytes",
    "key_serializer": "records are bytes",
    "linger_ms": "an append is one batch, sent at once",
    "max_block_ms": "appends have a timeout of their own",
    "partition_assignment_strategy": "a partition must not have two owners",
    "partitioner": "a key has the same partition in every log",
    "transactional_id": "an append is one batch and needs no transaction",
    "value_deserializer": "records are bytes",
    "value_serializer": "records are bytes",
}
"""Options that users cannot set, each with the reason: the guarantees of `streams.kafka.log.KafkaLog` depend on them."""


def resolve(options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Replace ``env:NAME`` by the value of that environment variable. Refuse secrets in plain text.

    Raises
    ------
    ValueError
        Names the option, never its value.
    """
    resolved: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, str) and value.startswith(_FROM_ENVIRONMENT):
            name = value.removeprefix(_FROM_ENVIRONMENT)
            if name not in environment:
                raise ValueError(f"{key}: the environment has no variable {name!r}; set it before the start")
            value = environment[name]
        elif value and (key in SECRETS or (key in ("proxy_url", "socks5_proxy") and "@" in str(value))):
            remedy = f'put it into an environment variable and write {key} = "env:NAME_OF_THE_VARIABLE"'
            raise ValueError(f"{key}: a secret does not belong in a config; {remedy}")
        resolved[key] = value
    return resolved


def split(options: Mapping[str, Any], *accepted: Iterable[str]) -> tuple[dict[str, Any], ...]:
    """Divide the options among the clients that accept them.

    Parameters
    ----------
    options : mapping
    *accepted : iterable of str
        For each client, the names that it accepts.

    Returns
    -------
    tuple of dict
        Options of each client, in the order of `accepted`.

    Raises
    ------
    ValueError
        No client knows an option, or Freshet sets it itself.
    """
    protocol = options.get("security_protocol", PROTOCOLS[0])
    if protocol not in PROTOCOLS:  # the client treats any other value as "no encryption"
        raise ValueError(f"security_protocol: {protocol!r} is none of {', '.join(PROTOCOLS)}; choose one")
    names = [frozenset(client) for client in accepted]
    known = frozenset().union(*names) - RESERVED.keys()
    for key in options:
        if key in RESERVED:
            raise ValueError(f"{key}: cannot be set, because {RESERVED[key]}; leave it out")
        if key not in known:
            close = get_close_matches(key, sorted(known), 1)
            remedy = f"did you mean {close[0]}?" if close else "see docs/kafka.md, and the documentation of kafka-python"
            raise ValueError(f"{key}: neither the consumer nor the producer has this option; {remedy}")
    return tuple({key: value for key, value in options.items() if key in client} for client in names)


class Settings:
    """Settings of the three clients: the user's options, and those that Freshet sets itself.

    Parameters
    ----------
    servers : str
    options : mapping
        The user's options.
    timeout : float
        Seconds to wait for a broker. The timeouts of the clients are fractions of it.
    consumer, producer, admin : mapping
        The clients' defaults. Their keys are the options that each client accepts.

    Attributes
    ----------
    consumer, producer, admin : dict
    max_request_bytes : int
        Bytes in the largest request, and so in the largest record.
    max_batch_bytes : int
        Bytes in the largest batch.
    """

    def __init__(
        self,
        servers: str,
        options: Mapping[str, Any],
        timeout: float,
        *,
        consumer: Mapping[str, Any],
        producer: Mapping[str, Any],
        admin: Mapping[str, Any],
    ) -> None:
        given = split(resolve(options), consumer, producer, admin)
        ms = int(timeout * 1000)
        share = 2 * ms // 5
        common: dict[str, Any] = {
            "bootstrap_servers": servers.split(","),
            "bootstrap_timeout_ms": share,
            "client_id": "freshet",
            "metrics_enabled": False,
            "reconnect_backoff_max_ms": 1000,  # find a broker that is back within 1 s, not 30 s
            "request_timeout_ms": share,
        }
        self.consumer: dict[str, Any] = common | {
            "allow_auto_create_topics": False,
            "auto_offset_reset": "none",
            "enable_auto_commit": False,
            "fetch_max_wait_ms": min(250, ms // 5),
            "group_id": None,
            "max_poll_records": 2000,
        } | given[0]  # fmt: skip
        self.producer: dict[str, Any] = common | {
            "acks": "all",
            "allow_auto_create_topics": False,
            "batch_size": BATCH_BYTES,
            "enable_idempotence": True,
            # The producer waits for the flush at the end of a call, so that its records make one batch.
            "linger_ms": ms // 4,
            "max_block_ms": share,
        } | given[1]  # fmt: skip
        self.producer["delivery_timeout_ms"] = max(ms, self.producer["linger_ms"] + self.producer["request_timeout_ms"])
        self.admin = {key: value for key, value in (common | given[2]).items() if key in admin}
        self.max_request_bytes: int = self.producer.get("max_request_size", producer["max_request_size"])
        self.max_batch_bytes: int = min(self.producer["batch_size"], self.max_request_bytes)
