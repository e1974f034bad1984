"""The LMDB environment of an embedded log: transactions of many threads, in a map that may grow."""

from __future__ import annotations

import errno
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import lmdb

from streams.disk import checksums, file
from streams.log import LogFull

__all__ = ["Environment"]

_DAMAGED = "its file is damaged; restore it from a backup, or name another folder"
_Found = TypeVar("_Found")


class Environment:
    """An open LMDB folder.

    Parameters
    ----------
    path : Path
        Folder; a writer creates it when missing.
    max_bytes : int
        Largest size of the file.
    max_databases : int
    sync : bool
        Whether a commit flushes the disk.
    readonly : bool

    Attributes
    ----------
    map_size : int
        Bytes of the map; more than `max_bytes` only while a full log is trimmed.
    nbytes : int
        Bytes of the file, in use or free for reuse.

    Raises
    ------
    FileNotFoundError
        The folder holds no log, and `readonly` is set.
    OSError
        The folder cannot be opened, or the file is damaged.
    """

    def __init__(self, path: Path, max_bytes: int, max_databases: int, *, sync: bool, readonly: bool) -> None:
        self.path, self.max_bytes, self._readonly = path, max_bytes, readonly
        self._remapping = threading.Condition()
        self._transactions = self._remaps = 0
        self._closed = False
        try:
            if not readonly:
                file.make_folder(path)
            file.check_index(path)
            self._registers = not readonly or file.can_lock(path)
            self._env = lmdb.open(
                os.fspath(path),
                map_size=max_bytes,
                max_dbs=max_databases,
                max_readers=510,
                readonly=readonly,
                sync=sync,
                lock=self._registers,
            )
        except lmdb.Error as error:
            if readonly and not (path / file.DATA).exists():
                raise FileNotFoundError(errno.ENOENT, "no log here; start its writer first", str(path)) from error
            raise OSError(errno.EIO, f"cannot open the log ({error})", str(path)) from error
        try:
            self.pad()
        except BaseException:
            self._env.close()
            raise

    @property
    def map_size(self) -> int:  # noqa: D102  See the class.
        return int(self._env.info()["map_size"])

    @property
    def nbytes(self) -> int:  # noqa: D102  See the class.
        return int((self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"])

    def pad(self) -> None:
        """See `streams.disk.file.pad`."""
        file.pad(self.path, self.nbytes)

    def database(self, name: bytes, transaction: lmdb.Transaction | None = None) -> lmdb._Database:
        """Open a database of the folder; with a transaction, create it when missing."""
        with self._explained():
            return self._env.open_db(name, transaction, create=transaction is not None)

    def get(self, transaction: lmdb.Transaction, key: bytes) -> bytes | None:
        """Read a value of the folder itself, and verify its checksum."""
        sealed = transaction.get(key)
        if sealed is None:
            return None
        value = checksums.unseal_value(key, bytes(sealed))
        if value is None:
            if transaction.get(b"format") is None:
                problem = "the log was written by Freshet 0.1, without checksums"
                raise OSError(errno.EINVAL, f"{problem}: use that version, or name another folder", str(self.path))
            raise lmdb.CorruptedError(f"the checksum of {key.decode()!r} is wrong")
        return value

    def put(self, transaction: lmdb.Transaction, key: bytes, value: bytes) -> None:
        """Write a value of the folder itself, with a checksum."""
        transaction.put(key, checksums.seal_value(key, value))

    def look(self, look: Callable[[lmdb.Transaction], _Found]) -> _Found:
        """Return what `look` finds in a snapshot. Failures become `OSError`.

        Without write permission for the table of readers, this reader is not in it, and a writer may reuse the snapshot's pages
        three commits later. Then `look` is called again.
        """
        while True:
            with self._explained(), self._transaction(write=False) as transaction:
                try:
                    found = look(transaction)
                except (OSError, lmdb.Error, struct.error):
                    if not self._overtaken(transaction):
                        raise
                else:
                    if not self._overtaken(transaction):
                        return found

    @contextmanager
    def writing(self) -> Iterator[lmdb.Transaction]:
        """Open a write transaction: commit at the end, or change nothing. Failures become `OSError`."""
        if self._readonly:
            raise PermissionError(errno.EACCES, "the log was opened with readonly; open it without, to append", str(self.path))
        try:
            with self._transaction(write=True) as transaction:
                yield transaction
        except lmdb.MapFullError as error:
            remedy = "raise max_bytes or trim it ([stream] retain, or `freshet log trim`)"
            raise LogFull(f"the log has reached its {self.max_bytes / 2**20:.0f} MiB; {remedy}", str(self.path)) from error
        except lmdb.CorruptedError as error:
            raise self._damaged(error) from error
        except lmdb.Error as error:
            if self._disk_is_full():
                raise LogFull(f"the disk is full ({error}); free space on it", str(self.path)) from error
            raise OSError(
                errno.EIO, f"the log cannot be written ({error}); check the disk and the system log", str(self.path)
            ) from error

    def copy(self, folder: Path) -> None:
        """Write a compact copy of the folder, as it is now, into an empty one. Appends go on meanwhile.

        Raises
        ------
        OSError
            The folder is not empty, the disk is full, or the file is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(errno.EEXIST, "not empty; name a new folder for the copy", str(folder))
        try:
            with self._using_map():
                self._env.copy(os.fspath(folder), compact=True)
        except lmdb.Error as error:
            raise OSError(errno.EIO, f"the log cannot be copied to {folder} ({error})", str(self.path)) from error

    def remap(self, size: int) -> None:
        """Resize the map; 0: to the size that another process gave it. It may move, so this waits until no thread uses it."""
        with self._remapping:
            self._remaps += 1
            try:
                self._remapping.wait_for(lambda: self._transactions == 0)
                self._env.set_mapsize(size)
            finally:
                self._remaps -= 1
                self._remapping.notify_all()

    def close(self) -> None:
        """Wait until reads and appends of other threads are done, and close the folder."""
        with self._remapping:
            self._closed = True
            self._remapping.wait_for(lambda: self._transactions == 0)
            self._env.close()

    def _overtaken(self, transaction: lmdb.Transaction) -> bool:
        return not self._registers and self._env.info()["last_txnid"] > transaction.id() + 1

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, struct.error) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> OSError:
        return OSError(errno.EIO, f"the log cannot be read ({error}): {_DAMAGED}", str(self.path / file.DATA))

    def _disk_is_full(self) -> bool:
        """Try to allocate space: LMDB reports every short write as an input/output error, whatever the reason."""
        try:
            with tempfile.TemporaryFile(dir=self.path) as probe:
                os.posix_fallocate(probe.fileno(), 0, 2**20)
        except OSError as error:
            return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return False

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[lmdb.Transaction]:
        with self._using_map():
            try:
                transaction = self._env.begin(write=write)
            except lmdb.MapResizedError:
                transaction = None
            if transaction is not None:
                with transaction:
                    yield transaction
                return
        # Another process has grown the map beyond our size: adopt its size.
        self.remap(0)
        with self._using_map(), self._env.begin(write=write) as transaction:
            yield transaction

    @contextmanager
    def _using_map(self) -> Iterator[None]:
        with self._remapping:
            self._remapping.wait_for(lambda: not self._remaps)
            if self._closed:
                raise ValueError(f"{self.path}: the log is closed; open it again")
            self._transactions += 1
        try:
            yield
        finally:
            with self._remapping:
                self._transactions -= 1
                self._remapping.notify_all()
