"""The weights log: what changes in the state of the one who learns, for those who follow.

A record is a part of a change: an id of the attempt to write it, the number of the part and how many there are, then the bytes.
A broker takes no records as large as a change can be.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import msgspec
import numpy as np

from memory.stateful import State
from streams.log import Log, Offsets

__all__ = ["Assembler", "BadChange", "Change", "Publisher", "pack", "unpack"]

PART = 500_000
"""Bytes of a record: well below what a broker takes (1 MB) unless it was told otherwise."""

HEARTBEAT = 1.0
"""Seconds after which a change is published that says only that there is none."""

RETRY = 0.2
"""Seconds before a change that could not be written is tried again."""

_HEAD = struct.Struct("<16sHH")
_LENGTH = struct.Struct("<I")
_UNFINISHED = 4
"""Changes that are put together at a time: more than one only where a broker writes late what it was sent twice."""

_AT_ONCE = 20
"""Records read at once that are of changes made before."""

_log = logging.getLogger(__name__)


class BadChange(ValueError):
    """A record of the weights log that no trainer of this program wrote."""


class Change(NamedTuple):
    """What changed in a state since the change before; rows with their values, so that having some of it already does no harm.

    Attributes
    ----------
    epoch : int
        Which history it belongs to: a higher number when a trainer begins from nothing.
    position : int
        Place in the history up to which the change leads; see `service.learning.event_reader.EventReader.position`.
    version : int
        Micro-batches learned by then.
    next : Offsets
        Offsets of the events log by then.
    as_of : float
        Unix seconds: everything appended before is in the state.
    state : State
        From `memory.stateful.Stateful.take_changes`.
    since : int
        Place in the history from which on the changes are all there.
    """

    epoch: int
    position: int
    version: int
    next: Offsets
    as_of: float
    state: State
    since: int = 0


class _Header(msgspec.Struct, array_like=True):
    epoch: int
    since: int
    position: int
    version: int
    next: dict[int, int]
    as_of: float
    arrays: list[tuple[str, str, list[int]]]


def pack(change: Change, part: int = PART) -> list[bytes]:
    """Write a change as values of records, in their order, each of at most `part` bytes and a few."""
    state = {name: np.require(array, requirements="C") for name, array in change.state.items()}
    header = msgspec.msgpack.encode(
        _Header(
            change.epoch,
            change.since,
            change.position,
            change.version,
            change.next,
            change.as_of,
            [(name, array.dtype.str, list(array.shape)) for name, array in state.items()],
        )
    )
    whole = b"".join([_LENGTH.pack(len(header)), header, *(array.tobytes() for array in state.values())])
    attempt, parts = uuid.uuid4().bytes, -(-len(whole) // part)
    return [_HEAD.pack(attempt, n, parts) + whole[n * part : (n + 1) * part] for n in range(parts)]


def unpack(whole: bytes) -> Change:
    """Read what `pack` wrote, put together again.

    Raises
    ------
    BadChange
    """
    try:
        (length,) = _LENGTH.unpack_from(whole)
        at = _LENGTH.size + length
        header = msgspec.msgpack.decode(whole[_LENGTH.size : at], type=_Header)
        state: State = {}
        for name, kind, shape in header.arrays:
            dtype, count = np.dtype(kind), int(np.prod(shape))
            # A copy, because the place in the record is any number of bytes, and numbers want to be aligned.
            state[name] = np.frombuffer(whole, dtype, count, at).reshape(shape).copy()
            at += count * dtype.itemsize
    except (struct.error, msgspec.MsgspecError, ValueError, TypeError) as error:
        raise BadChange(
            f"weights: a record that is no change ({error}); give the weights log a topic or folder of its own"
        ) from error
    return Change(header.epoch, header.position, header.version, header.next, header.as_of, state, header.since)


def _epoch(value: bytes) -> int | None:
    """Epoch of the change that a record is the first part of; None of other parts, and of what is no change."""
    try:
        _, part, _ = _HEAD.unpack_from(value)
        (length,) = _LENGTH.unpack_from(value, _HEAD.size)
        at = _HEAD.size + _LENGTH.size
        return None if part else msgspec.msgpack.decode(value[at : at + length], type=_Header).epoch
    except (struct.error, msgspec.MsgspecError):
        return None


class Assembler:
    """Puts changes together from their parts, whatever a broker has written twice or late."""

    def __init__(self) -> None:
        self._parts: dict[bytes, list[bytes | None]] = {}

    def add(self, value: bytes) -> Change | None:
        """Take the next record; return the change that it completes.

        Raises
        ------
        BadChange
        """
        try:
            attempt, part, parts = _HEAD.unpack_from(value)
        except struct.error as error:
            raise BadChange(f"weights: a record of {len(value)} bytes is no part of a change") from error
        if part >= parts:
            raise BadChange(f"weights: part {part} of {parts}")
        found = self._parts.setdefault(attempt, [None] * parts)
        found[part] = value[_HEAD.size :]
        if None in found:
            while len(self._parts) > _UNFINISHED:
                del self._parts[next(iter(self._parts))]
            return None
        del self._parts[attempt]
        return unpack(b"".join(piece for piece in found if piece is not None))


class Publisher:
    """Writes changes to the weights log on a thread of its own, one after the other, each until it is there.

    Parameters
    ----------
    log : Log
        Of one partition.
    every : float
        Seconds between changes.

    Attributes
    ----------
    offset : int
        Offset in the log after the last change that is there: a checkpoint made now is continued from here.
    failures : int
        Attempts to write that failed.
    """

    def __init__(self, log: Log, every: float) -> None:
        self._log, self._every = log, every
        self._thread = ThreadPoolExecutor(1, "weights")
        self._writing: Future[None] | None = None
        self._published = 0
        self._at = float("-inf")
        self._closing = threading.Event()
        self.offset = log.end()[0]
        self.failures = 0

    def goes_on(self, offset: int, epoch: int) -> bool:
        """Whether the log keeps what follows a checkpoint with this `offset`, and nothing of it is of a newer history.

        It is where another config has published since: its followers know of the newer one, and would wait for it.

        Raises
        ------
        ConnectionError
            As `Log.read`.
        """
        end = self._log.end()[0]
        if not self._log.begin()[0] <= offset <= end:
            return False
        while offset < end:
            records = self._log.read({0: offset}, _AT_ONCE)
            if any((_epoch(record.value) or 0) > epoch for record in records):
                return False
            offset = records[-1].offset + 1 if records else offset
        return True

    def start(self, position: int) -> None:
        """Say from which place in the history on there will be changes."""
        self._published = position

    def due(self, position: int) -> bool:
        """Whether it is time for a change, given the place in the history; not while the one before is being written."""
        if self._writing is not None:
            if not self._writing.done():
                return False
            self._writing.result()
            self._writing = None
        return time.monotonic() - self._at >= (self._every if position != self._published else HEARTBEAT)

    def publish(self, change: Change) -> None:
        """Write a change in the background. It must be `due`."""
        change = change._replace(since=self._published)
        self._at, self._published = time.monotonic(), change.position
        self._writing = self._thread.submit(self._write, change)

    def trim(self, offset: int) -> None:
        """Delete what lies before an offset: no checkpoint needs it."""
        self._log.trim({0: offset})

    def close(self) -> None:
        """Give the change that is being written a last try, and close the log."""
        self._closing.set()
        self._thread.shutdown()
        self._log.close()

    def _write(self, change: Change) -> None:
        while True:
            last = self._closing.is_set()
            try:
                self.offset = self._log.append([(b"", value) for value in pack(change)])[0]
            except OSError as error:
                self.failures += 1
                _log.warning("weights: %s", error)
                if last:
                    return  # a restart folds again what this change came from, and publishes that
            else:
                return
            self._closing.wait(RETRY)
