"""Lets the processes that torchrun started exchange bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as torch_distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from service.sharding.world import rank, world_size

__all__ = ["Ranks"]

PATIENCE = timedelta(minutes=10)
"""Time after which a process that says nothing counts as dead. A start can compile for minutes, and a checkpoint is copied
within seconds."""

_SIZE = 8
"""Bytes of a message's length."""

_LARGEST_ROOM = 1 << 22
"""Bytes that every message may be filled up to. A larger one is sent a second time, in full."""


class Ranks:
    """The processes that torchrun started; see `service.sharding.world.Peers`.

    Messages go through the memory of the machines (gloo), also where learners are on GPUs: they are rows, and changes that are
    added up in a fixed order, so that all processes get the same bits. A sum on GPUs has no fixed order.

    Raises
    ------
    ConnectionError
        If the processes do not meet.
    """

    def __init__(self) -> None:
        self.rank, self.size = rank(), world_size() or 1
        self._room = 1 << 16
        if self.size > 1:
            try:
                torch_distributed.init_process_group(
                    "gloo", store=_store(), rank=self.rank, world_size=self.size, timeout=PATIENCE
                )
            except RuntimeError as error:
                raise ConnectionError(
                    f"torchrun: the processes did not meet: {error}; start all with the same rendezvous"
                ) from error

    def gather(self, message: bytes) -> list[bytes]:
        """Return the messages of all processes, in the order of their numbers."""
        if self.size == 1:
            return [message]
        # Their sizes differ, and a collective call needs equal ones. Most fit into the room that the last ones needed.
        heads = self._all(len(message).to_bytes(_SIZE, "little") + message[: self._room], _SIZE + self._room)
        lengths = [int.from_bytes(one[:_SIZE], "little") for one in heads]
        longest, room = max(lengths), self._room
        self._room = min(1 << max(longest - 1, 1023).bit_length(), _LARGEST_ROOM)
        if longest > room:
            heads = self._all(bytes(_SIZE) + message, _SIZE + longest)
        return [one[_SIZE : _SIZE + length] for one, length in zip(heads, lengths, strict=True)]

    def broadcast(self, message: bytes) -> bytes:
        """Return the message of process 0; those of the others are ignored."""
        if self.size == 1:
            return message
        length = int.from_bytes(self.gather(len(message).to_bytes(_SIZE, "little"))[0], "little")
        sent = _tensor(message, length) if self.rank == 0 else torch.empty(length, dtype=torch.uint8)
        self._call(lambda: torch_distributed.broadcast(sent, 0))
        return sent.numpy().tobytes()

    def _all(self, message: bytes, size: int) -> list[bytes]:
        sent = _tensor(message, size)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        self._call(lambda: torch_distributed.all_gather(received, sent))
        return [one.numpy().tobytes() for one in received]

    def _call(self, call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as error:
            raise ConnectionError(
                f"process {self.rank} of {self.size} lost another one: {error}; torchrun restarts all"
            ) from error

    def close(self) -> None:
        """Leave the others."""
        if self.size > 1 and torch_distributed.is_initialized():
            torch_distributed.destroy_process_group()


def _tensor(message: bytes, size: int) -> torch.Tensor:
    """The bytes of a message and zeros, (size,) uint8."""
    tensor = torch.zeros(size, dtype=torch.uint8)
    if message:
        tensor[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    return tensor


def _store() -> Any:
    """The store in which the processes find each other: torchrun's, or process 0's.

    torchrun may keep its store when it restarts the processes, with the addresses of those that have ended. So each attempt has
    names of its own.
    """
    environment, of_torchrun = os.environ, os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host, port = environment.get("MASTER_ADDR", "127.0.0.1"), int(environment.get("MASTER_PORT", "29500"))
    store = TCPStore(host, port, world_size(), is_master=rank() == 0 and not of_torchrun, timeout=PATIENCE, multi_tenant=True)
    return PrefixStore(environment.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
