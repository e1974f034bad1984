"""Dead letters: records that could not be used, kept with the reason, so that nothing is dropped in silence."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque

import msgspec

from streams.log import Log

__all__ = ["DeadLetter", "DeadLetters"]

_MAX_VALUE = 65_536
_IN_MEMORY = 1_000


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


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(DeadLetter)


class DeadLetters:
    """Where bad records go.

    Parameters
    ----------
    log : Log or None
        Keeps them. None: the last 1,000 are kept in memory.

    Attributes
    ----------
    counts : Counter of str
        Letters put, by kind, since construction.
    lost : int
        Letters that could not be kept because the log was full or failed; they are in `counts` all the same.
    """

    def __init__(self, log: Log | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.lost = 0
        self._counting = threading.Lock()
        self._log = log
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
            self.lost += 1

    def clear(self) -> None:
        """Forget counts and the letters in memory; a log keeps its own."""
        self.counts.clear()
        self._recent.clear()
        self.lost = 0

    def read(self, limit: int = 100) -> list[DeadLetter]:
        """The newest `limit` letters, oldest of them first."""
        if self._log is None:
            return list(self._recent)[-limit:] if limit > 0 else []
        begin, end = self._log.begin(), self._log.end()
        offsets = {partition: max(begin[partition], stop - limit) for partition, stop in end.items()}
        records = self._log.read(offsets, limit * len(end))
        letters = sorted((_DECODER.decode(record.value) for record in records), key=lambda letter: letter.timestamp)
        return letters[-limit:] if limit > 0 else []
