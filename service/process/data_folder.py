"""A data folder has one writer."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from service.config import ConfigError

__all__ = ["FolderBusy", "become_writer", "keep_to"]


class FolderBusy(RuntimeError):
    """Another process writes to this data folder."""


def become_writer(folder: Path) -> IO[str]:
    """Become the one writer of a data folder, made when missing; the lock goes with the process, however it ends.

    Returns
    -------
    file
        Closing it gives the folder up.

    Raises
    ------
    FolderBusy
        Naming the process that writes there.
    OSError
        When the folder cannot be made or written.
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
            f"{folder}: process {holder} already writes here; stop it, or give this one a folder of its own in [stream] url"
            " or [checkpoint] folder"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def keep_to(folder: Path, stream: str) -> float:
    """Refuse a folder that belongs to a log of another name; the first one to come leaves its name there.

    Parameters
    ----------
    folder : Path
    stream : str
        `Log.identity`.

    Returns
    -------
    float
        Unix seconds since when the folder belongs to this log: 0, unless another one was made anew in its place.

    Raises
    ------
    ConfigError
        Naming both logs.
    """
    file = folder / "stream"
    written = file.read_text() if file.exists() else ""
    known, _, since = (written or stream).partition("\n")
    if known.split()[0] != stream.split()[0]:
        problem = (
            f"folder = {str(folder)!r}: its checkpoints belong to the topic {known!r}, and this one is {stream!r} (its name, "
            "and what differs when a topic is made anew); give this one a folder of its own"
        )
        raise ConfigError("checkpoint", problem)
    if known != stream:
        since = str(time.time())
    if known != stream or not written:
        file.write_text(f"{stream}\n{since}")
    return float(since or 0)
