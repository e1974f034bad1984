"""A data folder has one writer."""

from __future__ import annotations

import fcntl
import os
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


def keep_to(folder: Path, stream: str) -> None:
    """Refuse a folder whose checkpoints count the records of another stream; the first one to come leaves its name there.

    Raises
    ------
    ConfigError
        Naming both streams.
    """
    file = folder / "stream"
    if not file.exists():
        file.write_text(stream)
    elif (known := file.read_text()) != stream:
        problem = (
            f"folder = {str(folder)!r}: its checkpoints belong to the topic {known!r}, and this one is {stream!r} (its name, "
            "and what differs when a topic is made anew); give this one a folder of its own"
        )
        raise ConfigError("checkpoint", problem)
