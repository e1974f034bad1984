"""Options of a Kafka log: who takes which, what Freshet keeps for itself, and secrets from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

__all__ = ["KEPT", "Settings", "resolve", "split"]

BATCH = 900_000
"""Bytes of a batch: below what a broker accepts unless it was told otherwise (1 MiB)."""

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SECRETS = frozenset({"sasl_plain_password", "ssl_password"})
_FROM_ENVIRONMENT = "env:"

KEPT = {
    "acks": "an append is acknowledged when all in-sync replicas have it",
    "allow_auto_create_topics": "a mistyped topic must not come into being",
    "auto_offset_reset": "reading starts where the checkpoint says",
    "bootstrap_servers": "the url names them",
    "consumer_timeout_ms": "reads have a timeout of their own",
    "delivery_timeout_ms": "appends have a timeout of their own",
    "enable_auto_commit": "the checkpoint holds the offsets",
    "enable_idempotence": "what the client sends again by itself is in the topic once",
    "group_id": "[stream] group names it, and without one offsets come from the checkpoint",
    "group_instance_id": "a member that starts again is a new one, so that what it sent before is refused",
    "kafka_client": "connections that fail are closed",
    "key_deserializer": "records are bytes",
    "key_serializer": "records are bytes",
    "linger_ms": "an append is one batch, sent at once",
    "max_block_ms": "appends have a timeout of their own",
    "partition_assignment_strategy": "a partition must not have two owners",
    "partitioner": "a key has the same partition in every log",
    "transactional_id": "an append is one batch, which needs no transaction",
    "value_deserializer": "records are bytes",
    "value_serializer": "records are bytes",
}
"""Settings that the promises of `streams.kafka.log.KafkaLog` rest on, with the reason why they cannot be changed."""


def resolve(options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Replace ``env:NAME`` by the value of that environment variable; refuse secrets that are written out.

    Raises
    ------
    ValueError
        Naming the option, never its value.
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
    """Give each client the options that it accepts.

    Parameters
    ----------
    options : mapping
    *accepted : iterable of str
        Names that one client accepts, client by client.

    Returns
    -------
    tuple of dict
        In the order of `accepted`.

    Raises
    ------
    ValueError
        For an option that no client knows, with the nearest that one does, or that is not to be set.
    """
    protocol = options.get("security_protocol", PROTOCOLS[0])
    if protocol not in PROTOCOLS:  # the client takes any other word for "no encryption"
        raise ValueError(f"security_protocol: {protocol!r} is none of {', '.join(PROTOCOLS)}; choose one")
    names = [frozenset(some) for some in accepted]
    known = frozenset().union(*names) - KEPT.keys()
    for key in options:
        if key in KEPT:
            raise ValueError(f"{key}: not to be set, because {KEPT[key]}; leave it out")
        if key not in known:
            close = get_close_matches(key, sorted(known), 1)
            remedy = f"did you mean {close[0]}?" if close else "see docs/kafka.md, and kafka-python for the names"
            raise ValueError(f"{key}: neither consumer nor producer has such an option; {remedy}")
    return tuple({key: value for key, value in options.items() if key in some} for some in names)


class Settings:
    """Settings of the three clients, from a user's options and what Freshet keeps for itself.

    Parameters
    ----------
    servers : str
    options : mapping
        As a user gives them.
    timeout : float
        Seconds until a broker that does not answer is an error; each client's own times are shares of it.
    consumer, producer, admin : mapping
        The clients' defaults, which tell what each accepts.

    Attributes
    ----------
    consumer, producer, admin : dict
    largest : int
        Bytes of the largest request, and so of a record.
    batch : int
        Bytes of the largest batch.
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
            "reconnect_backoff_max_ms": 1000,  # a broker that comes back is found within a second, not within 30
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
            "batch_size": BATCH,
            "enable_idempotence": True,
            # The sender waits until it is told that the records of a call are all there: that makes them one batch.
            "linger_ms": ms // 4,
            "max_block_ms": share,
        } | given[1]  # fmt: skip
        self.producer["delivery_timeout_ms"] = max(ms, self.producer["linger_ms"] + self.producer["request_timeout_ms"])
        self.admin = {key: value for key, value in (common | given[2]).items() if key in admin}
        self.largest: int = self.producer.get("max_request_size", producer["max_request_size"])
        self.batch: int = min(self.producer["batch_size"], self.largest)
