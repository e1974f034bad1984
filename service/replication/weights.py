"""The weights log: changes of the trainer's state, for replicas.

A change can be larger than the largest record of a broker, so a record is a part of a change: the id of the write attempt, the
number of the part, the number of parts, then the bytes.
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
from streams.log import DamagedRecord, Log, Offsets

__all__ = ["Assembler", "BadChange", "Change", "Publisher", "pack", "unpack"]

PART = 500_000
"""Bytes per record: well below the default limit of a broker (1 MB)."""

HEARTBEAT = 1.0
"""Seconds after which an empty change is published if nothing has changed."""

RETRY = 0.2
"""Seconds before a failed write is retried."""

_HEAD = struct.Struct("<16sHH")
_LENGTH = struct.Struct("<I")
_UNFINISHED = 4
"""Incomplete changes that are kept: more than one only if a broker writes a repeated record late."""

_AT_ONCE = 20
"""Records of earlier changes per read."""

_REMEDY = "give the weights log its own topic or folder"

_log = logging.getLogger(__name__)


class BadChange(ValueError):
    """A record of the weights log that was not written by a trainer of this program."""


class Change(NamedTuple):
    """Changes of a state since the previous change. Rows hold their new values, so it is harmless to apply some twice.

    Attributes
    ----------
    epoch : int
        Identifies the history; a trainer that starts a new history takes a higher number.
    position : int
        Position in the history after the change; see `service.learning.event_reader.EventReader.position`.
    version : int
        Micro-batches learned after the change.
    next : Offsets
        Offsets of the events log after the change.
    as_of : float
        Unix seconds: the state includes everything appended before this time.
    state : State
        From `memory.stateful.Stateful.take_changes`.
    since : int
        Position in the history after the previous change.
    config : str
        Fingerprint of the trainer's config.
    """

    epoch: int
    position: int
    version: int
    next: Offsets
    as_of: float
    state: State
    since: int = 0
    config: str = ""


class _Header(msgspec.Struct, array_like=True):
    epoch: int
    since: int
    position: int
    version: int
    next: dict[int, int]
    as_of: float
    config: str
    arrays: list[tuple[str, str, list[int]]]


def pack(change: Change, part: int = PART) -> list[bytes]:
    """Encode a change as the values of consecutive records, each of at most `part` bytes plus a short header."""
    state = {name: np.require(array, requirements="C") for name, array in change.state.items()}
    header = msgspec.msgpack.encode(
        _Header(
            change.epoch,
            change.since,
            change.position,
            change.version,
            change.next,
            change.as_of,
            change.config,
            [(name, array.dtype.str, list(array.shape)) for name, array in state.items()],
        )
    )
    whole = b"".join([_LENGTH.pack(len(header)), header, *(array.tobytes() for array in state.values())])
    attempt, parts = uuid.uuid4().bytes, -(-len(whole) // part)
    return [_HEAD.pack(attempt, n, parts) + whole[n * part : (n + 1) * part] for n in range(parts)]


def unpack(whole: bytes) -> Change:
    """Decode the concatenated parts of `pack`.

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
            # A copy, because arrays must be aligned and the offset in the record may not be.
            state[name] = np.frombuffer(whole, dtype, count, at).reshape(shape).copy()
            at += count * dtype.itemsize
    except (struct.error, msgspec.MsgspecError, ValueError, TypeError) as error:
        raise BadChange(f"weights: the record is not a change ({error}); {_REMEDY}") from error
    return Change(header.epoch, header.position, header.version, header.next, header.as_of, state, header.since, header.config)


def _epoch(value: bytes) -> int | None:
    """Epoch of the change whose first part is in this record; None for other parts and other records."""
    try:
        _, part, _ = _HEAD.unpack_from(value)
        (length,) = _LENGTH.unpack_from(value, _HEAD.size)
        at = _HEAD.size + _LENGTH.size
        return None if part else msgspec.msgpack.decode(value[at : at + length], type=_Header).epoch
    except (struct.error, msgspec.MsgspecError):
        return None


class Assembler:
    """Assembles changes from their parts, even if a broker writes parts twice or late."""

    def __init__(self) -> None:
        self._parts: dict[bytes, list[bytes | None]] = {}

    def add(self, value: bytes) -> Change | None:
        """Add the next record. Return the change that it completes, if any.

        Raises
        ------
        BadChange
        """
        try:
            attempt, part, parts = _HEAD.unpack_from(value)
        except struct.error as error:
            raise BadChange(f"weights: a record of {len(value)} bytes is not a part of a change; {_REMEDY}") from error
        if part >= parts:
            raise BadChange(f"weights: a record claims to be part {part} of {parts}, counted from 0; {_REMEDY}")
        found = self._parts.setdefault(attempt, [None] * parts)
        found[part] = value[_HEAD.size :]
        if None in found:
            while len(self._parts) > _UNFINISHED:
                del self._parts[next(iter(self._parts))]
            return None
        del self._parts[attempt]
        return unpack(b"".join(piece for piece in found if piece is not None))


class Publisher:
    """Writes changes to the weights log on its own thread, one after the other. It retries each until it is written.

    Parameters
    ----------
    log : Log
        Has one partition.
    every : float
        Seconds between changes.
    config : str
        Fingerprint of the trainer's config.

    Attributes
    ----------
    offset : int
        Offset after the last written change. A replica that loads a checkpoint made now continues from here.
    failures : int
        Failed attempts to write.
    """

    def __init__(self, log: Log, every: float, config: str = "") -> None:
        self._log, self._every, self._config = log, every, config
        self._thread = ThreadPoolExecutor(1, "weights")
        self._writing: Future[None] | None = None
        self._published = 0
        self._at = float("-inf")
        self._closing = threading.Event()
        self.offset = log.end()[0]
        self.failures = 0

    def can_continue_from(self, offset: int, epoch: int) -> bool:
        """Whether the log has every record from `offset` on, and none with a newer epoch.

        A newer epoch means that another config has published since. Replicas that saw it would wait for its checkpoint.

        Raises
        ------
        ConnectionError
            As `Log.read`.
        """
        end = self._log.end()[0]
        if not self._log.begin()[0] <= offset <= end:
            return False
        while offset < end:
            try:
                records = self._log.read({0: offset}, _AT_ONCE)
            except DamagedRecord:
                return False
            if any((_epoch(record.value) or 0) > epoch for record in records):
                return False
            offset = records[-1].offset + 1 if records else offset
        return True

    def start(self, position: int) -> None:
        """Set the position in the history from which changes will be published."""
        self._published = position

    def due(self, position: int) -> bool:
        """Whether a change is due at this position in the history. False while the previous one is being written."""
        if self._writing is not None:
            if not self._writing.done():
                return False
            self._writing.result()
            self._writing = None
        return time.monotonic() - self._at >= (self._every if position != self._published else HEARTBEAT)

    def publish(self, change: Change) -> None:
        """Write a change in the background; only call this when one is `due`."""
        change = change._replace(since=self._published, config=self._config)
        self._at, self._published = time.monotonic(), change.position
        self._writing = self._thread.submit(self._write, change)

    def trim(self, offset: int) -> None:
        """Delete the records before an offset; no checkpoint needs them."""
        self._log.trim({0: offset})

    def close(self) -> None:
        """Try a last time to write the pending change, and close the log."""
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
                    return  # a restart learns the same records again and publishes the change
            else:
                return
            self._closing.wait(RETRY)
