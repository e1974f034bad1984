"""Copying of a log to another log that may be unavailable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from streams.log import DamagedRecord, Log, PartlyRefused, Record, RecordTooLarge

__all__ = ["Forwarder"]

MAX_RECORDS = 500
"""Records in one copy."""

PAUSE, MAX_PAUSE = 0.5, 30.0
"""Seconds before the first retry of a failed copy, and the longest pause. The pause doubles with each retry."""

_log = logging.getLogger(__name__)


class Forwarder:
    """Copies the records of one log to another, in order, on its own thread.

    Appends to the source never wait for the target. While the target is unavailable, records stay in the source, also over
    restarts, and are copied later. Each record is copied at least once. It is copied more than once where the target did not
    confirm a copy, or where this process ended before it saved its progress. A record over the target's limit is not copied;
    it is counted.

    Parameters
    ----------
    source : Log
        A log of one partition. Copied records are trimmed, except for the last `keep`.
    open_target : callable returning a Log
        Opens the target. Called here, and again later if this raises ConnectionError.
    name : str
        Name of the target. If `progress` has another name, copying starts at the oldest record.
    progress : Path or None
        File that stores the next offset to copy. None: copying starts at the oldest record.
    keep : int
        Number of copied records that stay in the source.

    Attributes
    ----------
    failures : int
        Number of failed copies and of records that were not copied: too large, damaged, or deleted before their turn came.

    Raises
    ------
    Exception
        Any error of `open_target` except ConnectionError.
    """

    def __init__(
        self, source: Log, open_target: Callable[[], Log], name: str, progress: Path | None = None, keep: int = 1_000
    ) -> None:
        self._source, self._open, self._name, self._progress, self._keep = source, open_target, name, progress, keep
        self.failures = 0
        self._pause = PAUSE
        self._changed = threading.Condition()
        self._has_more, self._closing = True, False
        self._target: Log | None = None
        try:
            self._target = open_target()
        except ConnectionError as error:
            self._failed(error)
        self._next = self._first_offset()
        self._thread = threading.Thread(target=self._run, name="forwarder", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of records that are not copied yet."""
        return self._source.end()[0] - self._next

    def wake(self) -> None:
        """Tell the thread that the source has new records."""
        with self._changed:
            self._has_more = True
            self._changed.notify()

    def close(self) -> None:
        """Copy the waiting records, unless the target is unavailable, and close the target."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._target is not None:
            self._target.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_more or self._closing)
                last, self._has_more = self._closing, False
            try:
                while self._copy(MAX_RECORDS):
                    self._pause = PAUSE
            except (
                Exception
            ) as error:  # whatever the error: the records are still in the source, and only this loop tries again
                self._failed(error)
                with self._changed:
                    if last or self._changed.wait_for(lambda: self._closing, self._pause):
                        return
                    self._has_more = True
                self._pause = min(2 * self._pause, MAX_PAUSE)
            if last:
                return

    def _copy(self, limit: int) -> bool:
        """Copy at most `limit` records. Return whether there were any."""
        records = self._read(limit)
        if not records:
            return False
        if self._target is None:
            self._target = self._open()
        try:
            self._target.append([(record.key, record.value) for record in records])
        except RecordTooLarge as error:
            if len(records) > 1:
                return self._copy(1)
            self.failures += 1
            _log.error("%s: record %d is not copied: %s", self._name, self._next, error)
        except PartlyRefused as error:
            self.failures += len(error.refused)
            _log.error("%s: %d records are not copied: %s", self._name, len(error.refused), error)
        self._next = records[-1].offset + 1
        if self._progress is not None:
            written = self._progress.with_suffix(".new")
            written.write_text(f"{self._next} {self._name}")
            written.replace(self._progress)
        self._source.trim({0: self._next - self._keep})
        return True

    def _read(self, limit: int) -> Sequence[Record]:
        """Read the next records. What cannot be read is skipped and counted."""
        while True:
            try:
                return self._source.read({0: self._next}, limit)
            except DamagedRecord as error:
                skipped, reason = error.offset + 1, str(error)
            except LookupError as error:
                skipped, reason = self._source.begin()[0], str(error)
                if skipped <= self._next:
                    raise
            self.failures += skipped - self._next
            _log.error("%s: %d records are not copied: %s", self._name, skipped - self._next, reason)
            self._next = skipped

    def _first_offset(self) -> int:
        begin, end = self._source.begin()[0], self._source.end()[0]
        if self._progress is None or not self._progress.exists():
            return begin
        at, _, name = self._progress.read_text().partition(" ")
        return min(max(int(at), begin), end) if name == self._name else begin

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self._pause == PAUSE:
            _log.warning("%s: copying failed and will be retried: %s", self._name, error)
