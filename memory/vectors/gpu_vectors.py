"""A copy of an index's vectors on a GPU, compared there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memory.arrays import Bools, Floats, Ids

__all__ = ["GpuVectors"]

SIMILARITY_BYTES = 1 << 30
"""Most memory for the similarity of queries to vectors: more queries are compared in parts."""


class GpuVectors:
    """Vectors in slots, overwritten in place.

    torch, not faiss: its GPU indexes can neither overwrite a vector nor remove one, and the package that has them cannot be
    installed beside the one that does not.

    Parameters
    ----------
    capacity, width : int
        Slots, and numbers in a vector.
    device : str
        As torch names it.

    Raises
    ------
    ValueError
        When there is no such device.
    """

    def __init__(self, capacity: int, width: int, device: str = "cuda") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError('device: "cuda", and torch sees no GPU here; give "cpu", or install torch with CUDA')
        self._vectors = torch.zeros((capacity, width), device=device)
        self._alive = torch.zeros(capacity, dtype=torch.bool, device=device)
        self._device = device

    def write(self, slots: Ids, vectors: npt.NDArray[Any], alive: Bools) -> None:
        """Put `vectors` (n, width) into `slots` (n,); those that are not `alive` (n,) will not be found."""
        at = torch.from_numpy(slots).to(self._device)
        self._vectors[at] = torch.from_numpy(vectors.astype(np.float32, copy=False)).to(self._device)
        self._alive[at] = torch.from_numpy(alive).to(self._device)

    def search(self, queries: Floats, k: int, end: int, angular: bool) -> tuple[Floats, Ids]:
        """Closeness and slots (q, k) of the closest of the first `end` slots, best first; slot -1 where there are no more."""
        found_close, found_slots = [], []
        vectors, dead = self._vectors[:end], ~self._alive[:end]
        for part in torch.split(torch.from_numpy(queries).to(self._device), max(SIMILARITY_BYTES // (4 * end), 1)):
            close = part @ vectors.T if angular else -torch.cdist(part, vectors, compute_mode="donot_use_mm_for_euclid_dist")
            close[:, dead] = -torch.inf
            best, slots = torch.topk(close, k)
            slots[best == -torch.inf] = -1
            found_close.append(best.cpu().numpy())
            found_slots.append(slots.cpu().numpy())
        return np.concatenate(found_close), np.concatenate(found_slots)
