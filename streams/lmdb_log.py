"""The embedded log: one LMDB file, many readers and one writer at a time across processes, nothing to install or start."""

from __future__ import annotations

import errno
import os
import struct
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import lmdb

from streams.log import LogFull, Offsets, Record, partition_of, shares

__all__ = ["LmdbLog", "LogFull"]

_OFFSET = struct.Struct(">Q")  # big-endian, so that LMDB's order of bytes is the order of offsets
_HEAD = struct.Struct("<dH")  # time of the append, length of the key; then the key, then the value
_COUNT = struct.Struct(">H")
_MAX_PARTITIONS = 1024
_TRIM_ROWS = 10_000


class LmdbLog:
    """A `Log` in a folder of the local disk.

    An append is one transaction: it is there whole or not at all, also after ``kill -9``, and readers in other processes see
    it as soon as it returns. One process opens a folder once and shares the object between its threads; a child made by
    ``fork`` opens its own.

    Parameters
    ----------
    path : path
        Folder, made when missing.
    max_bytes : int
        Size that the file can grow to; disk is used as records arrive. About 20 % more than the records themselves.
    sync : bool
        False: an append survives the death of the process, but a power loss can cost the log. True: it survives that too, at
        the price of a disk flush for each append: 0.35 ms for one record and 0.9 ms for 1,000 of 200 bytes where this was
        measured, against 0.02 ms and 0.37 ms without.
    partitions : int
        Number of partitions, fixed when the folder is made. A reader takes the number that it finds.
    readonly : bool
        Read what another process writes.

    Attributes
    ----------
    identity : str or None
        See `Log.identity`; kept in the log. None where a writer has not given it one yet.

    Raises
    ------
    FileNotFoundError
        `readonly`, and no log there.
    ValueError
        Another number of partitions than the folder was made with, or a folder that holds something else.
    OSError
        Where the folder cannot be opened, or the file was cut.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 16 * 2**30,
        sync: bool = False,
        partitions: int = 1,
        readonly: bool = False,
    ) -> None:
        if not 1 <= partitions <= _MAX_PARTITIONS:
            raise ValueError(f"partitions: {partitions} is not between 1 and {_MAX_PARTITIONS}; choose a number in between")
        if max_bytes < 2**20:
            raise ValueError(f"max_bytes: {max_bytes} is less than 1 MiB; give the log more room")
        self.path = Path(path)
        self.max_bytes = -(-max_bytes // 65536) * 65536
        try:
            if not readonly:
                self._make_folder()
            self._env = lmdb.open(
                os.fspath(self.path),
                map_size=self.max_bytes,
                max_dbs=_MAX_PARTITIONS,
                max_readers=510,
                readonly=readonly,
                sync=sync,
            )
        except lmdb.InvalidError as error:
            raise ValueError(f"{self.path}: holds a data.mdb that is no LMDB file ({error}); give another folder") from error
        except lmdb.Error as error:
            if readonly and not (self.path / "data.mdb").exists():
                raise FileNotFoundError(errno.ENOENT, "no log here; start its writer first", str(self.path)) from error
            raise OSError(errno.EIO, f"cannot open the log ({error})", str(self.path)) from error
        self._remapping = threading.Condition()
        self._transactions = 0
        self._remaps = 0
        self._closed = False
        self._readonly = readonly
        try:
            self._fill_up()
            self._partitions = self._open_partitions(partitions, readonly)
            self.identity = self._identify()
        except BaseException:
            self._env.close()
            raise

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        """See `Log.append`."""
        now, count = time.time(), len(self._partitions)
        head = _HEAD.pack
        values: list[list[bytes]] = [[] for _ in range(count)]
        try:
            if count == 1:
                values[0] = [head(now, len(key)) + key + value for key, value in records]
            else:
                for key, value in records:
                    values[partition_of(key, count)].append(head(now, len(key)) + key + value)
        except struct.error as error:
            raise ValueError("key: longer than 65,535 bytes; use a shorter one") from error
        with self._writing() as transaction:
            ends: Offsets = {}
            for partition, added in enumerate(values):
                end = self._bounds(transaction, partition)[1]
                if added:
                    keys = map(_OFFSET.pack, range(end, end + len(added)))
                    with transaction.cursor(db=self._partitions[partition]) as cursor:
                        cursor.putmulti(zip(keys, added, strict=True), append=True)
                ends[partition] = end + len(added)
        return ends

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        """See `Log.read`."""
        found: list[Record] = []
        unpack, record, width = _HEAD.unpack_from, tuple.__new__, _HEAD.size
        with self._reading() as transaction:
            bounds = {p: self._bounds(transaction, p) for p in offsets if p in range(len(self._partitions))}
            begin, end = ({partition: bound[side] for partition, bound in bounds.items()} for side in (0, 1))
            for partition, (start, stop) in shares(offsets, begin, end, limit).items():
                if start == stop:
                    continue
                with transaction.cursor(db=self._partitions[partition]) as cursor:
                    cursor.set_key(_OFFSET.pack(start))
                    values = list(islice(cursor.iternext(keys=False, values=True), stop - start))
                    # The tuple is made directly: a Record's own constructor costs a fifth of the reading.
                    found += [
                        record(Record, (partition, offset, value[width : (at := width + key)], value[at:], timestamp))
                        for offset, value, (timestamp, key) in zip(range(start, stop), values, map(unpack, values), strict=True)
                    ]
        return found

    def begin(self) -> Offsets:
        """See `Log.begin`."""
        with self._reading() as transaction:
            return {partition: self._bounds(transaction, partition)[0] for partition in range(len(self._partitions))}

    def end(self) -> Offsets:
        """See `Log.end`."""
        with self._reading() as transaction:
            return {partition: self._bounds(transaction, partition)[1] for partition in range(len(self._partitions))}

    def known_at(self, partition: int) -> float:
        """See `Log.known_at`: now."""
        return time.time()

    def trim(self, offsets: Offsets) -> None:
        """See `Log.trim`. Room comes back for later appends; the file does not shrink."""
        for partition, offset in offsets.items():
            # In short transactions, so that appends of other processes need not wait for all of it.
            while self._trim_some(partition, offset):
                pass
        # A commit that changes next to nothing: LMDB reuses pages from the second commit after they were freed.
        with self._writing() as transaction:
            transaction.put(b"trimmed", _OFFSET.pack(transaction.id()))
        if self._env.info()["map_size"] > self.max_bytes:
            self._remap(self.max_bytes)

    def close(self) -> None:
        """See `Log.close`. Waits for reads and appends of other threads."""
        with self._remapping:
            self._closed = True
            self._remapping.wait_for(lambda: self._transactions == 0)
            self._env.close()

    @property
    def nbytes(self) -> int:
        """Bytes of the file in use or free for reuse after a trim."""
        return int((self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"])

    def _trim_some(self, partition: int, offset: int) -> bool:
        """Delete at most `_TRIM_ROWS` records; whether there are more to delete."""
        try:
            with self._writing() as transaction:
                begin, end = self._bounds(transaction, partition)
                stop = min(offset, end)
                rows = min(stop - begin, _TRIM_ROWS)
                if rows <= 0:
                    return False
                with transaction.cursor(db=self._partitions[partition]) as cursor:
                    cursor.first()
                    for _ in range(rows):
                        cursor.delete()
                transaction.put(_begin_key(partition), _OFFSET.pack(begin + rows))
                return begin + rows < stop
        except LogFull as full:
            if not isinstance(full.__cause__, lmdb.MapFullError):
                raise
            # Deleting writes new pages before it frees the old ones, and in a full file there are none.
            self._remap(self._env.info()["map_size"] + 2**20)
            return True

    def _bounds(self, transaction: lmdb.Transaction, partition: int) -> tuple[int, int]:
        """First offset kept and next offset of a partition."""
        with transaction.cursor(db=self._partitions[partition]) as cursor:
            if cursor.first():
                first = _OFFSET.unpack(cursor.key())[0]
                cursor.last()
                return first, _OFFSET.unpack(cursor.key())[0] + 1
        empty = transaction.get(_begin_key(partition))
        begin = _OFFSET.unpack(empty)[0] if empty else 0
        return begin, begin

    def _open_partitions(self, partitions: int, readonly: bool) -> list[lmdb._Database]:
        with self._reading() as transaction:
            stored = transaction.get(b"partitions")
            empty = transaction.stat()["entries"] == 0
        if stored is None and not empty:
            raise ValueError(f"{self.path}: an LMDB database of something else; give another folder")
        if readonly and stored is None:
            raise FileNotFoundError(errno.ENOENT, "the log is still empty; start its writer first", str(self.path))
        found = _COUNT.unpack(stored)[0] if stored else partitions
        if found != partitions and not readonly:
            problem = f"{partitions}, but the log at {self.path} was made with {found}"
            raise ValueError(f"partitions: {problem}; say {found}, or give another folder")
        if stored is None:
            with self._writing() as transaction:
                for partition in range(partitions):
                    self._env.open_db(b"partition-%d" % partition, transaction)
                transaction.put(b"partitions", _COUNT.pack(partitions))
        return [self._env.open_db(b"partition-%d" % partition, create=False) for partition in range(found)]

    def _identify(self) -> str | None:
        """Read the log's identity; a writer gives one to a log that has none."""
        with self._reading() as transaction:
            found = transaction.get(b"identity")
        if found is None and not self._readonly:
            # A full log is to open all the same; it gets its identity at an opening at which there is room.
            with suppress(LogFull), self._writing() as transaction:
                transaction.put(b"identity", uuid.uuid4().hex.encode(), overwrite=False)
                found = transaction.get(b"identity")
        return f"lmdb {bytes(found).decode()}" if found else None

    def _make_folder(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        # LMDB writes its table of readers through a map of a sparse file: on a full disk that ends the process without a
        # word, so the room is taken beforehand. Only when the file is new: closing it would drop the locks of its users.
        try:
            handle = os.open(self.path / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return
        try:
            os.posix_fallocate(handle, 0, 2**16)
        except OSError as error:
            (self.path / "lock.mdb").unlink()
            raise LogFull(f"no room for a log ({error.strerror}); free some on the disk", str(self.path)) from error
        finally:
            os.close(handle)

    def _fill_up(self) -> None:
        """Make the file as long as its own index says.

        LMDB maps the file, and reading past its end would end the process without a word. A power loss or a copy cut short
        leaves such a file, and zeros in the missing pages turn that into an error; a trim leaves one too, where nothing is
        missing, because the last pages were free again before they were written.
        """
        with (self.path / "data.mdb").open("rb") as file:
            size = os.fstat(file.fileno()).st_size
        if size < self.nbytes:
            with (self.path / "data.mdb").open("r+b") as file:
                os.posix_fallocate(file.fileno(), size, self.nbytes - size)

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        """One snapshot; failures as `OSError`."""
        try:
            with self._transaction(write=False) as transaction:
                yield transaction
        except lmdb.Error as error:
            problem = f"the log cannot be read ({error}): its file is damaged; restore it, or start with a new folder"
            raise OSError(errno.EIO, problem, str(self.path)) from error

    @contextmanager
    def _writing(self) -> Iterator[lmdb.Transaction]:
        """Commit at the end, or leave the log as it was; failures as `OSError`."""
        if self._readonly:
            raise PermissionError(errno.EACCES, "the log was opened to be read; open it without readonly", str(self.path))
        try:
            with self._transaction(write=True) as transaction:
                yield transaction
        except lmdb.MapFullError as error:
            problem = f"the log has reached its {self.max_bytes / 2**20:.0f} MiB; raise max_bytes or trim it"
            raise LogFull(problem, str(self.path)) from error
        except lmdb.Error as error:
            if self._disk_is_full():
                raise LogFull(f"the disk is full ({error}); free some room on it", str(self.path)) from error
            raise OSError(errno.EIO, f"the log cannot be written ({error}); see the disk's messages", str(self.path)) from error

    def _disk_is_full(self) -> bool:
        """Try to take some room: LMDB reports a write that was cut short as an input/output error, whatever the reason."""
        try:
            with tempfile.TemporaryFile(dir=self.path) as file:
                os.posix_fallocate(file.fileno(), 0, 2**20)
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
        # Another process opened the log with more room and has used it: take its size.
        self._remap(0)
        with self._using_map(), self._env.begin(write=write) as transaction:
            yield transaction

    @contextmanager
    def _using_map(self) -> Iterator[None]:
        with self._remapping:
            self._remapping.wait_for(lambda: not self._remaps)
            if self._closed:
                raise ValueError(f"{self.path}: the log is closed; open it anew")
            self._transactions += 1
        try:
            yield
        finally:
            with self._remapping:
                self._transactions -= 1
                self._remapping.notify_all()

    def _remap(self, size: int) -> None:
        """Change the size of the map, which may move: only while no thread looks at it."""
        with self._remapping:
            self._remaps += 1
            try:
                self._remapping.wait_for(lambda: self._transactions == 0)
                self._env.set_mapsize(size)
            finally:
                self._remaps -= 1
                self._remapping.notify_all()


def _begin_key(partition: int) -> bytes:
    return b"begin-%d" % partition
