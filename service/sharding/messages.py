"""What the processes of one training tell each other in a round."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from learners.base import Choices
from service.sharding.world import Buffer
from streams.batch import Batch, Feedback
from streams.joined import Position, Snapshot

__all__ = ["Array", "Beginning", "Contexts", "Entry", "Met", "Progress", "Rows", "Saved", "Turn", "Update", "decode", "encode"]

Array = npt.NDArray[Any]


class Update(msgspec.Struct, tag="update"):
    """An event that deletes an item or erases a user, encoded."""

    event: bytes


class Contexts(msgspec.Struct, tag="contexts"):
    """Contexts of requests, as the featurizer encodes them: keys and values (n, C)."""

    keys: Array
    values: Array


class Met(msgspec.Struct):
    """Users and items with an interaction: their keys, and their ids."""

    user: Array
    users: list[str]
    item: Array
    items: list[str]


class Rows(msgspec.Struct, tag="rows"):
    """What all processes learn from joined rows. Its owner has prepared it.

    Attributes
    ----------
    shown : Batch or None
        Rows of impressions whose outcome is not known, if a learner observes them.
    met : list of Met
    dense : list of ((n, F) int64, (n, D) float32)
        Features and dense numbers of rows; see `service.learning.feedback.Effects.follow`.
    feedback, extended : Feedback or None
        See `service.ranking.pipeline.Pipeline.learn`.
    listed : Choices or None
        As there.
    """

    shown: Batch | None
    met: list[Met]
    dense: list[tuple[Array, Array]]
    feedback: Feedback | None
    extended: Feedback | None
    listed: Choices | None


Entry = Update | Contexts | Rows


class Progress(msgspec.Struct):
    """Where a process is after its part of a round.

    Attributes
    ----------
    next : dict of int to int
        Offsets of its partitions after the round.
    as_of : float
        See `service.learning.event_reader.EventReader.as_of`.
    behind : bool
        Whether its partitions hold more records.
    stops : bool
        Whether it was told to stop.
    saves : bool
        Whether a checkpoint is due after this round. Process 0 decides.
    """

    next: dict[int, int]
    as_of: float
    behind: bool
    stops: bool
    saves: bool


class Turn(msgspec.Struct):
    """The part of one process in a round: by partition, what it read, in order."""

    progress: Progress
    entries: dict[int, list[Entry]]


class Saved(msgspec.Struct):
    """What only one process knows of a checkpoint.

    Attributes
    ----------
    positions : dict of int to Position
        Of its partitions.
    snapshots : dict
        Of their waiting impressions; see `service.recovery.snapshots`.
    digest : str
        Of its state, which has to be that of the others.
    """

    positions: dict[int, Position]
    snapshots: dict[int, dict[str, Snapshot]]
    digest: str


class Beginning(msgspec.Struct):
    """Where all processes start: what process 0 found in its folder; see `service.recovery.recovery.Start`.

    Attributes
    ----------
    version : int
        Micro-batches learned.
    publishes : bool
        Whether replicas need a checkpoint now.
    rounds : list of dict of int to int
        Recorded rounds that follow: the offsets after each, by partition.
    """

    version: int
    publishes: bool
    positions: dict[int, Position]
    snapshots: dict[int, dict[str, Snapshot]]
    state: dict[str, Array]
    rounds: list[dict[int, int]]


def encode(message: msgspec.Struct | dict[Any, Any]) -> bytes:
    """Encode a message; its arrays go in as they are in memory."""
    return _ENCODER.encode(message)


def decode(encoded: Buffer, kind: Any) -> Any:
    """Decode a message of this type."""
    if kind not in _DECODERS:
        _DECODERS[kind] = msgspec.msgpack.Decoder(kind, ext_hook=_array, dec_hook=_as_it_is)
    return _DECODERS[kind].decode(encoded)


def _packed(value: Any) -> msgspec.msgpack.Ext:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} is no array")
    value = np.asarray(value, order="C")
    given = None
    if value.nbytes >= _WORTH_LEAVING_OUT and value.dtype.kind in "iuf":
        # Histories are mostly padding. A number is left out if all its bits are 0, so that -0.0 is kept.
        bits = value.reshape(-1).view(f"u{value.itemsize}")
        given = bits != 0 if 2 * np.count_nonzero(bits) < bits.size else None
    head = msgspec.msgpack.encode((value.dtype.str, value.shape, given is not None))
    parts = (value,) if given is None else (np.packbits(given), bits[given])
    return msgspec.msgpack.Ext(len(head), b"".join((head, *(part.tobytes() for part in parts))))


def _array(size: int, data: memoryview) -> Array:
    kind, shape, sparse = msgspec.msgpack.decode(data[:size])
    if not sparse:
        # A copy is aligned and can be written to, like the arrays of the owner: numba compiles once for both.
        return np.frombuffer(data, np.dtype(kind), offset=size).reshape(shape).copy()
    value = np.zeros(shape, np.dtype(kind))
    flags = -(-value.size // 8)
    given = np.unpackbits(np.frombuffer(data, np.uint8, flags, size), count=value.size).view(np.bool_)
    value.reshape(-1)[given] = np.frombuffer(data, value.dtype, offset=size + flags)
    return value


def _as_it_is(kind: type, value: Any) -> Any:
    return value


_WORTH_LEAVING_OUT = 4096
"""Bytes of an array from which on its zeros are left out, if they are more than half."""

_ENCODER = msgspec.msgpack.Encoder(enc_hook=_packed)
_DECODERS: dict[Any, msgspec.msgpack.Decoder[Any]] = {}
