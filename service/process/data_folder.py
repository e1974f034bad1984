"""Lock a data folder: it has one writer, and belongs to one log."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from service.config import ConfigError

__all__ = ["FolderBusy", "become_writer", "bind_to_log"]


class FolderBusy(RuntimeError):
    """Another process writes to this data folder."""


def become_writer(folder: Path) -> IO[str]:
    """Lock a data folder for this process. The folder is created when missing; the lock ends with the process.

    Returns
    -------
    file
        Close it to release the lock.

    Raises
    ------
    FolderBusy
        Names the process that holds the lock.
    OSError
        When the folder cannot be created or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "writer.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise FolderBusy(
            f"{folder}: process {holder} already writes here; stop it, or give this process its own folder in [stream] url or"
            " [checkpoint] folder"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def bind_to_log(folder: Path, stream: str) -> float:
    """Bind a data folder to a log: the first log writes its identity there, and logs of another name are refused.

    Parameters
    ----------
    folder : Path
    stream : str
        `Log.identity`.

    Returns
    -------
    float
        Unix time from which the folder belongs to this log; 0, unless the log was recreated under the same name.

    Raises
    ------
    ConfigError
        Names both logs.
    """
    file = folder / "stream"
    written = file.read_text() if file.exists() else ""
    known, _, since = (written or stream).partition("\n")
    if known.split()[0] != stream.split()[0]:
        problem = (
            f"folder = {str(folder)!r}: its checkpoints belong to the topic {known!r}, and this one is {stream!r} (the name, "
            "then an id that changes when a topic is recreated); give this topic its own folder"
        )
        raise ConfigError("checkpoint", problem)
    if known != stream:
        since = str(time.time())
    if known != stream or not written:
        file.write_text(f"{stream}\n{since}")
    return float(since or 0)
