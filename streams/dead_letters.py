"""Dead letters: records that could not be used, kept with the reason, so that nothing is dropped in silence."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from streams.forwarding import Forwarder
from streams.log import Log, Offsets, Record

__all__ = ["DeadLetter", "DeadLetters"]

_MAX_VALUE = 65_536
_IN_MEMORY = 1_000
_AT_ONCE = 500  # of a letter's largest size, some 50 MB


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be used.

    Attributes
    ----------
    kind : str
        Short stable reason, for counters and alarms: ``not_json``, ``not_an_event``, ``wrong_fields``, ...
    reason : str
        What is wrong, in words.
    source : str
        Where it came from: a log, a file, an address.
    partition, offset : int
        Its place there (of a file: the row number as offset); -1 where there is none.
    value : bytes
        The record itself, its first 64 KiB; base64 in JSON.
    timestamp : float
        When it was put here, Unix seconds.
    """

    kind: str
    reason: str
    source: str = ""
    partition: int = -1
    offset: int = -1
    value: bytes = b""
    timestamp: float = 0.0


class _Place(msgspec.Struct):
    """Where a letter's record was; reading only this is fast."""

    source: str = ""
    partition: int = -1
    offset: int = -1
    timestamp: float = 0.0


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(DeadLetter)
_PLACES = msgspec.json.Decoder(_Place)


class DeadLetters:
    """Where bad records go.

    Parameters
    ----------
    log : Log or None
        Keeps them. None: the last 1,000 are kept in memory.
    forwarder : Forwarder or None
        Copies that log to where others look for dead letters.

    Attributes
    ----------
    counts : Counter of str
        Letters put, by kind, since construction.
    lost : int
        Letters that could not be kept because the log was full or failed; they are in `counts` all the same.
    since : float
        Unix seconds: letters put before tell of records of another log than the one that is read now.
    """

    def __init__(self, log: Log | None = None, forwarder: Forwarder | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.lost = 0
        self.since = 0.0
        self._counting = threading.Lock()
        self._log, self._forwarder = log, forwarder
        self._recent: deque[DeadLetter] = deque(maxlen=_IN_MEMORY)

    def put(
        self, kind: str, reason: str, value: bytes | str, *, source: str = "", partition: int = -1, offset: int = -1
    ) -> None:
        """Count and keep a bad record; see `DeadLetter`. Never raises because of the log."""
        with self._counting:
            self.counts[kind] += 1
        data = value.encode("utf-8", "replace") if isinstance(value, str) else bytes(value)
        letter = DeadLetter(
            kind=kind,
            reason=reason.encode("utf-8", "replace").decode(),
            source=source,
            partition=partition,
            offset=offset,
            value=data[:_MAX_VALUE],
            timestamp=time.time(),
        )
        if self._log is None:
            self._recent.append(letter)
            return
        try:
            self._log.append([(b"", _ENCODER.encode(letter))])
        except OSError:
            with self._counting:
                self.lost += 1
        else:
            if self._forwarder is not None:
                self._forwarder.wake()

    def clear(self) -> None:
        """Forget counts and the letters in memory; a log keeps its own."""
        self.counts.clear()
        self._recent.clear()
        self.lost = 0

    def read(self, limit: int = 100) -> list[DeadLetter]:
        """The newest `limit` letters, oldest of them first."""
        if self._log is None:
            return list(self._recent)[-limit:] if limit > 0 else []
        newest = (self._from(partition, end - limit, limit) for partition, end in self._log.end().items())
        letters = sorted(
            (_DECODER.decode(record.value) for records in newest for record in records), key=lambda letter: letter.timestamp
        )
        return letters[-limit:] if limit > 0 else []

    def reported(self, source: str) -> Offsets:
        """Highest offset of each partition of a source that there is a letter for, put after `since`.

        A reader that passes records again, after a restart, need not put them again.
        """
        found: Offsets = {}
        places = (_PLACES.decode(record.value) for record in self._records()) if self._log is not None else self._recent
        for place in places:
            if place.source == source and place.timestamp >= self.since:
                found[place.partition] = max(found.get(place.partition, -1), place.offset)
        return found

    def gauges(self) -> dict[str, Any]:
        """Numbers for `service.monitoring.monitor.Monitor`."""
        failures = {"dead_letter": self.lost}
        if self._forwarder is not None:
            failures["dead_letter_copy"] = self._forwarder.failures
        return {"dead": dict(self.counts), "failures": failures}

    def close(self) -> None:
        """Close the log, once what waits in it has been copied, or that has failed."""
        if self._forwarder is not None:
            self._forwarder.close()
        if self._log is not None:
            self._log.close()

    def _records(self) -> Iterator[Record]:
        assert self._log is not None
        for partition, at in self._log.begin().items():
            while found := self._from(partition, at, _AT_ONCE):
                yield from found
                at = found[-1].offset + 1

    def _from(self, partition: int, at: int, limit: int) -> Sequence[Record]:
        """Records from an offset on, or from the oldest that is kept; a forwarder may be trimming them meanwhile."""
        assert self._log is not None
        while True:
            try:
                return self._log.read({partition: at}, limit)
            except LookupError:
                at = self._log.begin()[partition]
