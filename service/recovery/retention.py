"""Deletes the records of the logs that are no longer needed: by the kept checkpoints, or, in a full log, by the newest one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from memory import checkpoint as checkpoints
from service.recovery.ledger import Ledger
from streams.lmdb_log import LmdbLog
from streams.log import Log, Offsets

__all__ = ["WORTH_SAVING", "Retention"]

ROOM_CHECK = 0.5
"""Seconds between two looks at whether the log is nearly full."""

WORTH_SAVING = 0.1
"""Share of a nearly full log that must become free for a checkpoint to be saved before it is due."""


class ChangeLog(Protocol):
    """The log of changes that replicas read."""

    def trim(self, offset: int) -> None:
        """Delete the records before an offset."""


class Retention:
    """Knows what the kept checkpoints need of the events log, the weights log and the ledger.

    Parameters
    ----------
    log : Log
        Events log.
    folder : Path or None
        Folder of the checkpoints.
    keep : int
        Checkpoints kept.
    retain : int or None
        Records of a partition to keep before the position of the oldest checkpoint. None: all.
    publisher : ChangeLog or None
    ledger : Ledger or None
    """

    def __init__(
        self,
        log: Log,
        folder: Path | None,
        keep: int,
        retain: int | None,
        publisher: ChangeLog | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._log, self._folder, self._keep, self._retain = log, folder, keep, retain
        self._publisher, self._ledger = publisher, ledger
        self._kept = deque[dict[str, Any]](maxlen=keep)
        self._checked = 0.0

    def load(self) -> None:
        """Learn from the files in the folder what they need, so that nothing has to be saved anew before a trim."""
        self._kept.clear()
        if self._folder is not None:
            found = checkpoints.metadata(self._folder).items()
            self._kept += [{"version": version} | meta for version, meta in found if meta.get("log") == self._log.identity]

    def saved(self, version: int, meta: Mapping[str, Any], next: Offsets) -> None:
        """Note that a checkpoint is on disk, and delete what none of the kept ones needs."""
        if self._kept and self._kept[-1]["version"] == version:
            self._kept.pop()  # the same file
        self._kept.append({"version": version} | dict(meta))
        if len(self._kept) < self._keep:
            return
        oldest = self._kept[0]
        self._trim(oldest, next)
        if self._publisher is not None:
            self._publisher.trim(oldest["weights"])
        if self._ledger is not None:
            self._ledger.needed = oldest["ledger"]

    def needs_room(self) -> bool:
        """Whether records should be deleted before the log refuses events, and may be; looked at twice a second."""
        now = time.monotonic()
        if self._retain is None or now < self._checked + ROOM_CHECK:
            return False
        self._checked = now
        return isinstance(self._log, LmdbLog) and self._log.nearly_full

    def make_room(self, next: Offsets) -> int:
        """Delete what the newest checkpoint does not need, even if older ones do. Return the number of deleted records.

        The older checkpoints can still be loaded, but then records are missing.
        """
        return self._trim(self._kept[-1], next) if self._kept else 0

    def excess(self, rewinds: Mapping[int, int], next: Offsets) -> float:
        """Share of the records that could be deleted after a checkpoint that needs the records from `rewinds` on."""
        if self._retain is None:
            return 0.0
        begin = self._log.begin()
        deleted = sum(max(min(rewind, next[p] - self._retain) - begin[p], 0) for p, rewind in rewinds.items())
        return deleted / max(sum(next.values()) - sum(begin.values()), 1)

    def _trim(self, checkpoint: Mapping[str, Any], next: Offsets) -> int:
        if self._retain is None:
            return 0
        rewinds = {int(partition): position["rewind"] for partition, position in checkpoint["positions"].items()}
        offsets = {p: min(rewind, next[p] - self._retain) for p, rewind in rewinds.items() if p in next}
        begin = self._log.begin()
        self._log.trim(offsets)
        return sum(max(offset - begin[p], 0) for p, offset in offsets.items())
