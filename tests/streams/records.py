"""Helpers of the tests of logs."""

from __future__ import annotations

from streams.log import Log, Record


def pairs(*numbers: int) -> list[tuple[bytes, bytes]]:
    return [(b"user-%d" % number, b"value %d" % number) for number in numbers]


def read_all(log: Log, limit: int) -> list[Record]:
    offsets, found = log.begin(), []
    while records := log.read(offsets, limit):
        assert len(records) <= limit
        found += records
        offsets |= {record.partition: record.offset + 1 for record in records}
    assert offsets == log.end()
    return found
