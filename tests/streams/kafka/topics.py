"""Helpers of the tests of Kafka topics."""

from __future__ import annotations

from collections.abc import Callable

from streams.kafka.log import KafkaLog
from streams.log import Log, Offsets, Record

OpenLog = Callable[..., KafkaLog]


def read_on(log: Log, offsets: Offsets, limit: int = 1000) -> list[Record]:
    found: list[Record] = []
    offsets = dict(offsets)
    while records := log.read(offsets, limit):
        found += records
        offsets |= {record.partition: record.offset + 1 for record in records}
    return found


def numbered(count: int, users: int = 1, size: int = 0) -> list[tuple[bytes, bytes]]:
    return [(b"user-%d" % (n % users), b"%d" % n + b"." * size) for n in range(count)]
