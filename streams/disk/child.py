"""Read a file in a child process first: LMDB ends the process that reads some kinds of damaged pages, by SIGABRT or SIGSEGV."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["survives"]


def survives(read: Callable[[], object], path: Path) -> None:
    """Raise if a child process that calls `read` is ended by a signal.

    Errors of `read` are not reported: the caller meets them itself. For programs without threads, because it forks.

    Parameters
    ----------
    read : callable
        It opens the file, and reads what is going to be read.
    path : Path
        The file, for the message.

    Raises
    ------
    OSError
        EIO: the file is damaged.
    """
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # LMDB says which line of its source found the damage
            read()
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(ended):
        name = signal.Signals(os.WTERMSIG(ended)).name
        problem = f"the file is damaged: reading its pages ends a process by {name}"
        raise OSError(errno.EIO, f"{problem}; restore the log from a backup, or name another folder", str(path))
