"""Lets the processes that torchrun started exchange bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as torch_distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from service.sharding.world import Buffer, rank, world_size

__all__ = ["Ranks"]

PATIENCE = timedelta(minutes=10)
"""Time after which a process that says nothing counts as dead. A start can compile for minutes, and a checkpoint is copied
within seconds."""

_SIZE = 8
"""Bytes of a message's length."""

_FIRST_ROOM = 1 << 16
_LARGEST_ROOM = 1 << 22
"""Bytes that every message may be filled up to. A larger one is sent a second time, in full."""

_PAGE = 4096


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
        self._rooms: dict[str, int] = {}
        if self.size > 1:
            try:
                torch_distributed.init_process_group(
                    "gloo", store=_store(), rank=self.rank, world_size=self.size, timeout=PATIENCE
                )
            except RuntimeError as error:
                raise ConnectionError(
                    f"torchrun: the processes did not meet: {error}; start all with the same rendezvous"
                ) from error

    def gather(self, message: bytes, kind: str) -> Sequence[Buffer]:
        """See `service.sharding.world.Peers`."""
        if self.size == 1:
            return [message]
        # Their sizes differ, and a collective call needs equal ones. Most fit into what the last of the kind needed.
        room = self._rooms.get(kind, _FIRST_ROOM)
        heads = self._all(len(message), message, room)
        lengths = [int.from_bytes(one[:_SIZE], "little") for one in heads]
        longest = max(lengths)
        self._rooms[kind] = min(-(-(longest + longest // 8) // _PAGE) * _PAGE, _LARGEST_ROOM)
        if longest > room:
            heads = self._all(len(message), message, longest)
        return [one[_SIZE : _SIZE + length] for one, length in zip(heads, lengths, strict=True)]

    def broadcast(self, message: bytes) -> Buffer:
        """See `service.sharding.world.Peers`."""
        if self.size == 1:
            return message
        length = int.from_bytes(self.gather(len(message).to_bytes(_SIZE, "little"), "length")[0], "little")
        sent = torch.empty(length, dtype=torch.uint8)
        if self.rank == 0:
            sent.numpy()[:] = np.frombuffer(message, np.uint8)
        self._call(lambda: torch_distributed.broadcast(sent, 0))
        return sent.numpy().data

    def _all(self, length: int, message: bytes, room: int) -> list[memoryview]:
        """Exchange a length and as much of each message as there is room for."""
        sent = torch.zeros(_SIZE + room, dtype=torch.uint8)
        filled = sent.numpy()
        filled[:_SIZE] = np.frombuffer(length.to_bytes(_SIZE, "little"), np.uint8)
        part = np.frombuffer(message, np.uint8, min(length, room))
        filled[_SIZE : _SIZE + part.size] = part
        received = [torch.empty_like(sent) for _ in range(self.size)]
        self._call(lambda: torch_distributed.all_gather(received, sent))
        return [one.numpy().data for one in received]

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


def _store() -> Any:
    """The store in which the processes find each other: torchrun's, or process 0's.

    torchrun may keep its store when it restarts the processes, with the addresses of those that have ended. So each attempt has
    names of its own.
    """
    environment, of_torchrun = os.environ, os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host, port = environment.get("MASTER_ADDR", "127.0.0.1"), int(environment.get("MASTER_PORT", "29500"))
    store = TCPStore(host, port, world_size(), is_master=rank() == 0 and not of_torchrun, timeout=PATIENCE, multi_tenant=True)
    return PrefixStore(environment.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
