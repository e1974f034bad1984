"""Checksums of records. A flipped bit is found when the record is read, and so is a record in the place of another."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from crc32c import crc32c

__all__ = ["SIZE", "intact", "seal", "seal_value", "unseal_value"]

_SUM = struct.Struct("<I")
SIZE = _SUM.size
"""Bytes of a checksum."""

_RESIDUE = 0x48674BC7
"""CRC32C of any data followed by its own CRC32C. So a check needs no copy of the data without its checksum."""

_SPREAD = 0x9E3779B1
"""Distance between the first seeds of two partitions; the seed of a record is this times its partition, plus its offset."""


def seal(values: Sequence[bytes], partition: int, start: int) -> list[bytes]:
    """Append its checksum to each value.

    Parameters
    ----------
    values : sequence of bytes
        Consecutive records of a partition.
    partition : int
    start : int
        Offset of the first one. The checksum depends on the offset and the partition, too.
    """
    return [
        value + _SUM.pack(sum_)
        for value, sum_ in zip(values, map(crc32c, values, _seeds(partition, start, values)), strict=True)
    ]


def intact(values: Sequence[bytes | memoryview], partition: int, start: int) -> int:
    """Return how many of these sealed values, from the first on, are as they were sealed."""
    sums = list(map(crc32c, values, _seeds(partition, start, values)))
    if sums.count(_RESIDUE) == len(sums):
        return len(sums)
    return next(n for n, found in enumerate(sums) if found != _RESIDUE)


def seal_value(key: bytes, value: bytes) -> bytes:
    """Append to a single value its checksum, which depends on its key, too."""
    return value + _SUM.pack(crc32c(value, crc32c(key)))


def unseal_value(key: bytes, sealed: bytes) -> bytes | None:
    """Return the value without its checksum; None if the checksum is wrong."""
    return sealed[:-SIZE] if crc32c(sealed, crc32c(key)) == _RESIDUE else None


def _seeds(partition: int, start: int, values: Sequence[bytes | memoryview]) -> range:
    """Seeds of consecutive records. crc32c takes them modulo 2**32."""
    first = partition * _SPREAD + start
    return range(first, first + len(values))
