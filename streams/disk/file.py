"""The file of an embedded log: what has to be right before LMDB may map it into memory."""

from __future__ import annotations

import errno
import os
import struct
import time
from pathlib import Path

from streams.log import LogFull

__all__ = ["DATA", "LOCK", "can_lock", "check_index", "make_folder", "pad"]

DATA, LOCK = "data.mdb", "lock.mdb"
"""Files of an LMDB folder: the records, and the table of its readers."""

_META = struct.Struct("<Q2xH4xIIQQ I44x 40xQ QQ")
"""Of a meta page: page number, flags, magic number, version, address, map size, page size, root, last page, transaction."""

_IS_META, _MAGIC, _VERSION, _NO_PAGE = 0x08, 0xBEEFC0DE, 1, 2**64 - 1

_PATIENCE, _TORN, _POLL = 2.0, 0.2, 0.05
"""Seconds that a reader waits for a writer to extend the file, or to finish the index, and between two looks."""

_RESTORE = "restore the log from a backup, or name another folder"


def check_index(folder: Path) -> None:
    """Raise unless the two meta pages at the start of the file, LMDB's index, are whole. A missing file is all right.

    LMDB takes an empty file for a new log, and may crash on an index with wrong numbers.

    Raises
    ------
    OSError
        Names the file, what is wrong with it, and the remedy.
    """
    until = time.monotonic() + _TORN
    # A writer may be about to write these pages, so only a problem that stays is one.
    while (problem := _index_problem(folder / DATA)) and time.monotonic() < until:
        time.sleep(_POLL)
    if problem:
        raise OSError(errno.EIO, f"{problem}, so its records cannot be found: {_RESTORE}", str(folder / DATA))


def _index_problem(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            first = file.read(_META.size)
            page = _META.unpack(first)[6] if len(first) == _META.size else 0
            file.seek(page)
            second, size = file.read(_META.size), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    if size == 0:
        return "the file is empty, and was not when it was last used"
    return _problem(0, first, page, size) or _problem(1, second, page, size)


def _problem(number: int, data: bytes, page: int, size: int) -> str | None:
    where = f"the file is damaged: its meta page {number}"
    if len(data) < _META.size:
        return f"the file was cut to {size} bytes"
    if not any(data):
        return f"{where} holds only zeros"
    at, flags, magic, version, _, map_size, page_size, root, last, _ = _META.unpack(data)
    if magic != _MAGIC or version != _VERSION:
        return f"{where} is not LMDB's"
    wrong = at != number or not flags & _IS_META or page_size != page or page & (page - 1) or not 512 <= page <= 65_536
    if wrong or not 1 <= last < max(map_size, size) // page or (root > last and root != _NO_PAGE):
        return f"{where} has wrong numbers"
    return None


def can_lock(folder: Path) -> bool:
    """Whether this process may write to the table of readers, or create it."""
    lock = folder / LOCK
    return os.access(lock if lock.exists() else folder, os.W_OK)


def make_folder(folder: Path) -> None:
    """Create the folder of a log, with room for its table of readers.

    LMDB writes that table into a memory-mapped sparse file. On a full disk that would kill the process, so the space is
    allocated first. Only for a new file: closing an existing one would drop the locks of its users.

    Raises
    ------
    LogFull
        The disk has no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return
    try:
        os.posix_fallocate(handle, 0, 2**16)
    except OSError as error:
        (folder / LOCK).unlink()
        raise LogFull(f"no room for a log ({error.strerror}); free space on the disk", str(folder)) from error
    finally:
        os.close(handle)


def pad(folder: Path, needed: int) -> None:
    """Extend the file with zeros to the length that its index states.

    LMDB maps the file into memory, and reading past its end would kill the process. A power loss or an incomplete copy
    leaves such a file; with zeros, reading the missing pages is an error instead. A transaction can leave one too, without
    any loss: its last pages were freed before they were written. So a writer pads after each trim.

    Raises
    ------
    OSError
        This process may not write to the file, and nobody else extended it.
    """
    path, until = folder / DATA, time.monotonic() + _PATIENCE
    while (size := path.stat().st_size) < needed:
        try:
            with path.open("r+b") as file:
                # One byte, because the index may be wrong and a disk has an end; unlike truncate, it never shortens the file.
                os.posix_fallocate(file.fileno(), needed - 1, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise
            if time.monotonic() > until:
                problem = f"the file was cut: {needed - size} bytes are missing; {_RESTORE}, or open it with write permission"
                raise OSError(errno.EIO, f"{problem} to read what is left", str(path)) from error
            time.sleep(_POLL)
