"""Dead letters: bad records, kept with the reason, so that nothing is dropped silently."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from streams.forwarding import Forwarder
from streams.log import DamagedRecord, Log, LogFull, MemoryLog, Offsets, Record

__all__ = ["DeadLetter", "DeadLetters"]

_MAX_VALUE_BYTES, _MAX_REASON_BYTES = 65_536, 1_024
_SHARE = 10
"""One of this many letters is deleted when there is no room for another."""
_MAX_IN_MEMORY, _MAX_BYTES_IN_MEMORY = 1_000, 16 << 20
_READ_ROWS = 500  # about 50 MB of letters of the largest size


_log = logging.getLogger(__name__)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be used.

    Attributes
    ----------
    kind : str
        Short reason for counters and alarms: ``not_json``, ``not_an_event``, ``wrong_fields``, ...
    reason : str
        The problem in words, at most 1 KiB.
    source : str
        The log, file or address that it came from.
    partition, offset : int
        Partition and offset in the source (in a file, the offset is the row number); -1 where there is none.
    value : bytes
        The first 64 KiB of the record; base64 in JSON.
    timestamp : float
        Time at which the letter was written, Unix seconds.
    """

    kind: str
    reason: str
    source: str = ""
    partition: int = -1
    offset: int = -1
    value: bytes = b""
    timestamp: float = 0.0


class _Origin(msgspec.Struct):
    """The fields of a letter that locate its record. Decoding only these is fast."""

    source: str = ""
    partition: int = -1
    offset: int = -1
    timestamp: float = 0.0


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(DeadLetter)
_ORIGIN_DECODER = msgspec.json.Decoder(_Origin)


class DeadLetters:
    """Collects bad records.

    Parameters
    ----------
    log : Log or None
        Log that stores them. When it is full, the oldest tenth is deleted. None: the last 1,000, or 16 MiB of them, are kept in
        memory.
    forwarder : Forwarder or None
        Copies that log to a shared log of dead letters.

    Attributes
    ----------
    counts : Counter of str
        Letters by kind since construction.
    lost : int
        Letters that were not stored because the log failed. They are in `counts`, too.
    rotated : int
        Old letters that were deleted to make room for new ones.
    notify : callable or None
        Called with a message for the operator, from any thread.
    since : float
        Unix seconds. Letters older than this belong to an earlier log in the place of the one that is read now.
    """

    def __init__(self, log: Log | None = None, forwarder: Forwarder | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.lost = self.rotated = 0
        self.since = 0.0
        self.notify: Callable[[str], None] | None = None
        self._count_lock, self._rotating = threading.Lock(), threading.Lock()
        self._log, self._forwarder = log, forwarder
        self._recent: deque[DeadLetter] = deque()
        self._recent_bytes = 0

    def put(
        self, kind: str, reason: str, value: bytes | str, *, source: str = "", partition: int = -1, offset: int = -1
    ) -> None:
        """Count and store a bad record; see `DeadLetter`. An error of the log is counted, not raised."""
        with self._count_lock:
            self.counts[kind] += 1
        data = value.encode("utf-8", "replace") if isinstance(value, str) else bytes(value)
        letter = DeadLetter(
            kind=kind,
            reason=reason.encode("utf-8", "replace")[:_MAX_REASON_BYTES].decode("utf-8", "ignore"),
            source=source,
            partition=partition,
            offset=offset,
            value=data[:_MAX_VALUE_BYTES],
            timestamp=time.time(),
        )
        if self._log is None:
            self._keep(letter)
            return
        try:
            self._append(self._log, [(b"", _ENCODER.encode(letter))])
        except OSError:
            with self._count_lock:
                self.lost += 1
        else:
            if self._forwarder is not None:
                self._forwarder.wake()

    def clear(self) -> None:
        """Reset the counts and the letters in memory. A log keeps its letters."""
        self.counts.clear()
        self._recent.clear()
        self._recent_bytes = 0
        self.lost = self.rotated = 0

    def read(self, limit: int = 100) -> list[DeadLetter]:
        """Return the newest `limit` letters, oldest first."""
        if self._log is None:
            return list(self._recent)[-limit:] if limit > 0 else []
        newest = self._records({partition: end - limit for partition, end in self._log.end().items()})
        letters = sorted((_DECODER.decode(record.value) for record in newest), key=lambda letter: letter.timestamp)
        return letters[-limit:] if limit > 0 else []

    def reported(self, source: str) -> Offsets:
        """Return, for each partition of a source, the highest offset with a letter written after `since`.

        A reader that reads records again after a restart does not report these again.
        """
        found: Offsets = {}
        origins = (
            (_ORIGIN_DECODER.decode(record.value) for record in self._records(self._log.begin()))
            if self._log is not None
            else self._recent
        )
        for origin in origins:
            if origin.source == source and origin.timestamp >= self.since:
                found[origin.partition] = max(found.get(origin.partition, -1), origin.offset)
        return found

    def gauges(self) -> dict[str, Any]:
        """Return the counters for `service.monitoring.monitor.Monitor`."""
        failures = {"dead_letter": self.lost}
        if self._forwarder is not None:
            failures["dead_letter_copy"] = self._forwarder.failures
        return {"dead": dict(self.counts), "failures": failures, "evictions": {"dead_letters": self.rotated}}

    @property
    def nbytes(self) -> int:
        """Memory of the letters that are kept in memory."""
        return self._recent_bytes + (self._log.nbytes if isinstance(self._log, MemoryLog) else 0)

    def close(self) -> None:
        """Close the log after its letters were copied or the copy failed."""
        if self._forwarder is not None:
            self._forwarder.close()
        if self._log is not None:
            self._log.close()

    def _keep(self, letter: DeadLetter) -> None:
        with self._count_lock:
            self._recent.append(letter)
            self._recent_bytes += _size(letter)
            while len(self._recent) > _MAX_IN_MEMORY or self._recent_bytes > _MAX_BYTES_IN_MEMORY:
                self._recent_bytes -= _size(self._recent.popleft())

    def _append(self, log: Log, entry: list[tuple[bytes, bytes]]) -> None:
        """Append a letter, and delete the oldest ones if there is no room for it."""
        while True:
            try:
                log.append(entry)
                return
            except LogFull:
                with self._rotating:
                    deleted = _delete_oldest(log)
                    self.rotated += deleted
                if not deleted:
                    raise
                text = f"dead letters: the {deleted} oldest were deleted, to make room for new ones"
                _log.warning(text)
                if self.notify is not None:
                    self.notify(text)

    def _records(self, offsets: Offsets) -> Iterator[Record]:
        for partition, at in offsets.items():
            while found := self._read_from(partition, at, _READ_ROWS):
                yield from found
                at = found[-1].offset + 1

    def _read_from(self, partition: int, at: int, limit: int) -> Sequence[Record]:
        """Read from an offset on. If it has just been deleted, read from the oldest record on; skip a damaged one."""
        assert self._log is not None
        while True:
            try:
                return self._log.read({partition: at}, limit)
            except LookupError:
                at = self._log.begin()[partition]
            except DamagedRecord as error:
                _log.error("a dead letter is skipped: %s", error)
                at = error.offset + 1


def _delete_oldest(log: Log) -> int:
    """Delete the oldest tenth of a log's records, at least one of each partition that has any. Return their number."""
    begin, end = log.begin(), log.end()
    counts = {partition: -(-(end[partition] - first) // _SHARE) for partition, first in begin.items()}
    log.trim({partition: first + counts[partition] for partition, first in begin.items()})
    return sum(counts.values())


def _size(letter: DeadLetter) -> int:
    return 400 + len(letter.value) + len(letter.reason)
