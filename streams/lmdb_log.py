"""The embedded log: one LMDB file, shared by many readers and one writer at a time. It needs no server."""

from __future__ import annotations

import errno
import os
import struct
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb

from streams.disk import checksums
from streams.disk.environment import Environment
from streams.disk.file import DATA
from streams.log import DamagedRecord, LogFull, Offsets, Record, partition_of, read_ranges

__all__ = ["LmdbLog", "LogFull"]

_OFFSET = struct.Struct(">Q")  # big-endian: LMDB sorts keys by bytes, so offsets are in order
_HEAD = struct.Struct("<dH")  # time of the append, length of the key; key, value and checksum follow
_COUNT = struct.Struct(">H")
_FORMAT = 2  # records have checksums
_MAX_PARTITIONS = 1024
_TRIM_ROWS = 10_000
_LARGE_APPEND, _RESERVE = 8 << 20, 1 << 20
_READ_BYTES, _READ_ROWS = 16 << 20, 16
"""Bytes after which a read ends, and the records after which it looks."""


class LmdbLog:
    """A `Log` in a folder of the local disk.

    An append is one transaction: all of it is written or nothing, even after ``kill -9``. Readers in other processes see it as
    soon as it returns. Open a folder once per process and share the object between threads; a child made by ``fork`` opens its
    own. Each record has a checksum, which is verified whenever it is read.

    Parameters
    ----------
    path : path
        Folder; created when missing.
    max_bytes : int
        Largest size of the file, but for a few pages that the trim of a full one may take. It grows as records arrive, to about
        20 % more than the records themselves.
    sync : bool
        False: appends survive the death of the process, but a power loss can destroy the log. True: they survive a power loss
        too. Each append then flushes the disk. Measured once: 0.35 ms for one record and 0.9 ms for 1,000 records of 200
        bytes, against 0.02 ms and 0.37 ms without.
    partitions : int
        Number of partitions, fixed when the log is created. A reader uses the number in the file.
    readonly : bool
        Only read; another process writes. It needs no write permission. With write permission for ``lock.mdb`` a reader is
        registered, so that the writer keeps what it reads; without, a read that the writer has overtaken is repeated.

    Attributes
    ----------
    identity : str or None
        See `Log.identity`; stored in the log. None until a writer has set it.

    Raises
    ------
    FileNotFoundError
        The log does not exist, and `readonly` is set.
    ValueError
        The log has another number of partitions, or the folder holds something else.
    OSError
        The folder cannot be opened, the file is damaged, or the log has another format.
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
        self._readonly = readonly
        self._env = Environment(self.path, self.max_bytes, _MAX_PARTITIONS, sync=sync, readonly=readonly)
        try:
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
        with self._env.writing() as transaction:
            ends: Offsets = {}
            for partition, added in enumerate(values):
                end = self._bounds(transaction, partition)[1]
                if added:
                    keys = map(_OFFSET.pack, range(end, end + len(added)))
                    sealed = checksums.seal(added, partition, end)
                    with transaction.cursor(db=self._partitions[partition]) as cursor:
                        cursor.putmulti(zip(keys, sealed, strict=True), append=True)
                ends[partition] = end + len(added)
        return ends

    def append_to_full(self, records: Sequence[tuple[bytes, bytes]]) -> Offsets:
        """Append a few small records even if the log is full: there is a reserve for what lets it be trimmed."""
        try:
            return self.append(records)
        except LogFull as full:
            if not isinstance(full.__cause__, lmdb.MapFullError):
                raise
        self._env.remap(self.max_bytes + _RESERVE)
        try:
            return self.append(records)
        finally:
            self._env.remap(self.max_bytes)

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        """See `Log.read`. At about 16 MiB of a partition it ends, also below the limit."""
        return self._env.look(lambda transaction: self._read(transaction, offsets, limit))

    def begin(self) -> Offsets:
        """See `Log.begin`."""
        return {partition: begin for partition, (begin, _) in enumerate(self._env.look(self._all_bounds))}

    def end(self) -> Offsets:
        """See `Log.end`."""
        return {partition: end for partition, (_, end) in enumerate(self._env.look(self._all_bounds))}

    def end_known_at(self, partition: int) -> float:
        """See `Log.end_known_at`: now."""
        return time.time()

    def trim(self, offsets: Offsets) -> None:
        """See `Log.trim`. Later appends use the freed space; the file does not shrink."""
        for partition, offset in offsets.items():
            # In short transactions, so that appends of other processes do not wait long.
            while self._trim_some(partition, offset):
                pass
        # One more small commit: LMDB reuses freed pages only from the second commit after they were freed.
        with self._env.writing() as transaction:
            self._env.put(transaction, b"trimmed", _OFFSET.pack(transaction.id()))
        self._env.pad()
        if self._env.map_size > self.max_bytes:
            self._env.remap(self.max_bytes)

    def close(self) -> None:
        """See `Log.close`. Waits until reads and appends of other threads are done."""
        self._env.close()

    @property
    def nbytes(self) -> int:
        """Bytes of the file, in use or free for reuse after a trim."""
        return self._env.nbytes

    @property
    def used(self) -> int:
        """Bytes of the file that hold records; the rest is free for reuse."""
        return self._env.look(self._used)

    @property
    def nearly_full(self) -> bool:
        """Whether less than a tenth of the file is free, or less than the largest appends take."""
        return self.used > self.max_bytes - max(self.max_bytes // 10, min(_LARGE_APPEND, self.max_bytes // 2))

    def copy(self, folder: Path) -> None:
        """Write a compact copy of the log, as it is now, into an empty folder. Appends go on meanwhile.

        Raises
        ------
        OSError
            The folder is not empty, the disk is full, or the log is damaged.
        """
        self._env.copy(folder)

    def blank(self, partition: int, offset: int) -> None:
        """Put an empty record in the place of a damaged one, so that those after it keep their offsets."""
        (sealed,) = checksums.seal([_HEAD.pack(0.0, 0)], partition, offset)
        with self._env.writing() as transaction:
            transaction.put(_OFFSET.pack(offset), sealed, db=self._partitions[partition])

    def _used(self, transaction: lmdb.Transaction) -> int:
        stats = [transaction.stat(), *(transaction.stat(database) for database in self._partitions)]
        pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return int(pages * stats[0]["psize"])

    def _read(self, transaction: lmdb.Transaction, offsets: Offsets, limit: int) -> list[Record]:
        found: list[Record] = []
        unpack, record, width, end_of_value = _HEAD.unpack_from, tuple.__new__, _HEAD.size, -checksums.SIZE
        bounds = {p: self._bounds(transaction, p) for p in offsets if p in range(len(self._partitions))}
        begin, end = ({partition: bound[side] for partition, bound in bounds.items()} for side in (0, 1))
        for partition, (start, stop) in read_ranges(offsets, begin, end, limit).items():
            if start == stop:
                continue
            with transaction.cursor(db=self._partitions[partition]) as cursor:
                there = cursor.set_key(_OFFSET.pack(start))
                values = _some(islice(cursor.iternext(keys=False, values=True), stop - start)) if there else []
            right = checksums.intact(values, partition, start)
            if not right:
                raise DamagedRecord(partition, start, str(self.path / DATA))
            del values[right:]
            # The tuple is created directly: the constructor of Record would take a fifth of the reading time.
            found += [
                record(Record, (partition, offset, value[width : (at := width + key)], value[at:end_of_value], timestamp))
                for offset, value, (timestamp, key) in zip(
                    range(start, start + right), values, map(unpack, values), strict=True
                )
            ]
        return found

    def _trim_some(self, partition: int, offset: int) -> bool:
        """Delete at most `_TRIM_ROWS` records. Return whether more are left to delete."""
        try:
            with self._env.writing() as transaction:
                begin, end = self._bounds(transaction, partition)
                stop = min(offset, end)
                rows = min(stop - begin, _TRIM_ROWS)
                if rows <= 0:
                    return False
                with transaction.cursor(db=self._partitions[partition]) as cursor:
                    cursor.first()
                    for _ in range(rows):
                        cursor.delete()
                self._env.put(transaction, _begin_key(partition), _OFFSET.pack(begin + rows))
                return begin + rows < stop
        except LogFull as full:
            if not isinstance(full.__cause__, lmdb.MapFullError):
                raise
            # A deletion writes new pages before it frees old ones. A full file has no room for them.
            self._env.remap(self._env.map_size + 2**20)
            return True

    def _all_bounds(self, transaction: lmdb.Transaction) -> list[tuple[int, int]]:
        return [self._bounds(transaction, partition) for partition in range(len(self._partitions))]

    def _bounds(self, transaction: lmdb.Transaction, partition: int) -> tuple[int, int]:
        """Return the oldest offset and the next offset of a partition."""
        entries = transaction.stat(self._partitions[partition])["entries"]
        if not entries:
            begin = _OFFSET.unpack(self._env.get(transaction, _begin_key(partition)) or b"")[0]
            return begin, begin
        with transaction.cursor(db=self._partitions[partition]) as cursor:
            first = _OFFSET.unpack(cursor.key())[0] if cursor.first() else 0
            last = _OFFSET.unpack(cursor.key())[0] if cursor.last() else 0
        if last + 1 - first != entries:
            raise lmdb.CorruptedError(f"partition {partition} has {entries} records from offset {first} to {last}")
        return first, last + 1

    def _open_partitions(self, partitions: int, readonly: bool) -> list[lmdb._Database]:
        stored, format_, empty = self._env.look(self._describe)
        if stored is None and not empty:
            raise ValueError(f"{self.path}: an LMDB database of something else; choose another folder")
        if readonly and stored is None:
            raise FileNotFoundError(errno.ENOENT, "the log is still empty; start its writer first", str(self.path))
        written = _COUNT.unpack(format_)[0] if format_ else _FORMAT
        if written != _FORMAT:
            problem = f"the log has format {written}, and this version of Freshet reads {_FORMAT}"
            raise OSError(errno.EINVAL, f"{problem}: use the version that wrote it, or name another folder", str(self.path))
        found = _COUNT.unpack(stored)[0] if stored else partitions
        if found != partitions and not readonly:
            problem = f"{partitions}, but the log at {self.path} was created with {found}"
            raise ValueError(f"partitions: {problem}; set {found}, or choose another folder")
        if stored is None:
            with self._env.writing() as transaction:
                for partition in range(partitions):
                    self._env.database(b"partition-%d" % partition, transaction)
                    self._env.put(transaction, _begin_key(partition), _OFFSET.pack(0))
                self._env.put(transaction, b"partitions", _COUNT.pack(partitions))
                self._env.put(transaction, b"format", _COUNT.pack(_FORMAT))
        return [self._env.database(b"partition-%d" % partition) for partition in range(found)]

    def _describe(self, transaction: lmdb.Transaction) -> tuple[bytes | None, bytes | None, bool]:
        get = self._env.get
        return get(transaction, b"partitions"), get(transaction, b"format"), transaction.stat()["entries"] == 0

    def _identify(self) -> str | None:
        """Read the identity of the log; a writer sets it where it is missing."""
        found = self._env.look(lambda transaction: self._env.get(transaction, b"identity"))
        if found is None and not self._readonly:
            # A full log must still open. It gets its identity when it is opened with room to spare.
            with suppress(LogFull), self._env.writing() as transaction:
                found = uuid.uuid4().hex.encode()
                self._env.put(transaction, b"identity", found)
        return f"lmdb {found.decode()}" if found else None


def _begin_key(partition: int) -> bytes:
    return b"begin-%d" % partition


def _some(values: Iterator[Any]) -> list[bytes]:
    """Values of up to about `_READ_BYTES` bytes: records may be large, and a reader holds all that it has read."""
    found: list[bytes] = []
    size = 0
    while size < _READ_BYTES and (part := list(islice(values, _READ_ROWS))):
        found += part
        size += sum(map(len, part))
    return found
