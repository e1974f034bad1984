"""Copying a log to another one that may be away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from streams.log import Log, TooLarge

__all__ = ["Forwarder"]

AT_ONCE = 500
"""Records that are copied at once."""

PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds until a copy that failed is tried again, the first time; twice as long each time after."""

_log = logging.getLogger(__name__)


class Forwarder:
    """Copies what is appended to a log to another one, in order, on a thread of its own.

    Whoever appends never waits for the other log: what it does not take waits in the first one, over restarts too, and is
    copied when it takes records again. Each record gets there at least once; more than once where the other log did not say
    whether it kept a copy, or this process ended before it noted down how far it had come. A record larger than the other
    log takes stays behind, and is counted.

    Parameters
    ----------
    source : Log
        Of one partition. What has been copied is trimmed, but for the last `keep` records.
    open_target : callable returning a Log
        Opens the other log. Called here, and again later where this raises ConnectionError.
    name : str
        Of the other log. Where it is not the one that `progress` knows, copying begins with the oldest record kept.
    progress : Path or None
        File to note down how far copying has come; None: it begins with the oldest record kept.
    keep : int

    Attributes
    ----------
    failures : int
        Copies that failed, and records that stay behind.

    Raises
    ------
    Exception
        What `open_target` raises, but for ConnectionError.
    """

    def __init__(
        self, source: Log, open_target: Callable[[], Log], name: str, progress: Path | None = None, keep: int = 1_000
    ) -> None:
        self._source, self._open, self._name, self._progress, self._keep = source, open_target, name, progress, keep
        self.failures = 0
        self._pause = PAUSE
        self._changed = threading.Condition()
        self._more, self._closing = True, False
        self._target: Log | None = None
        try:
            self._target = open_target()
        except ConnectionError as error:
            self._failed(error)
        self._at = self._begin()
        self._thread = threading.Thread(target=self._run, name="forwarder", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records that have not been copied."""
        return self._source.end()[0] - self._at

    def wake(self) -> None:
        """Say that the source has grown."""
        with self._changed:
            self._more = True
            self._changed.notify()

    def close(self) -> None:
        """Copy what waits, unless the other log is away, and close that one."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._target is not None:
            self._target.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._more or self._closing)
                last, self._more = self._closing, False
            try:
                while self._copy(AT_ONCE):
                    self._pause = PAUSE
            except Exception as error:  # whatever it is: nothing is lost, and nobody else would try again
                self._failed(error)
                with self._changed:
                    if last or self._changed.wait_for(lambda: self._closing, self._pause):
                        return
                    self._more = True
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            if last:
                return

    def _copy(self, limit: int) -> bool:
        """Copy some records; False when there are none."""
        records = self._source.read({0: self._at}, limit)
        if not records:
            return False
        if self._target is None:
            self._target = self._open()
        try:
            self._target.append([(record.key, record.value) for record in records])
        except TooLarge as error:
            if len(records) > 1:
                return self._copy(1)
            self.failures += 1
            _log.error("%s: record %d stays where it is: %s", self._name, self._at, error)
        self._at = records[-1].offset + 1
        if self._progress is not None:
            written = self._progress.with_suffix(".new")
            written.write_text(f"{self._at} {self._name}")
            written.replace(self._progress)
        self._source.trim({0: self._at - self._keep})
        return True

    def _begin(self) -> int:
        begin, end = self._source.begin()[0], self._source.end()[0]
        if self._progress is None or not self._progress.exists():
            return begin
        at, _, name = self._progress.read_text().partition(" ")
        return min(max(int(at), begin), end) if name == self._name else begin

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self._pause == PAUSE:
            _log.warning("%s: copying waits: %s", self._name, error)
