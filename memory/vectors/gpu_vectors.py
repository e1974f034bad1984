"""Exact search on a GPU, over a copy of an index's vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memory.arrays import Bools, Floats, Ids

__all__ = ["GpuVectors"]

SIMILARITY_BYTES = 1 << 30
"""Most GPU memory for similarities. More queries are searched in parts."""


class GpuVectors:
    """Vectors in slots, overwritten in place.

    It uses torch because faiss' GPU indexes can neither overwrite nor remove a vector. Also, the faiss packages for GPU and CPU
    cannot be installed together.

    Parameters
    ----------
    capacity, width : int
        Number of slots and of dimensions.
    device : str
        A torch device.

    Raises
    ------
    ValueError
        If there is no such device.
    """

    def __init__(self, capacity: int, width: int, device: str = "cuda") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError('device: "cuda", and torch sees no GPU here; give "cpu", or install torch with CUDA')
        self._vectors = torch.zeros((capacity, width), device=device)
        self._alive = torch.zeros(capacity, dtype=torch.bool, device=device)
        self._device = device

    def write(self, slots: Ids, vectors: npt.NDArray[Any], alive: Bools) -> None:
        """Write `vectors` (n, width) into `slots` (n,). A search does not find slots that are not `alive` (n,)."""
        rows = torch.from_numpy(slots).to(self._device)
        self._vectors[rows] = torch.from_numpy(vectors.astype(np.float32, copy=False)).to(self._device)
        self._alive[rows] = torch.from_numpy(alive).to(self._device)

    def search(self, queries: Floats, k: int, end: int, angular: bool) -> tuple[Floats, Ids]:
        """Find the `k` most similar of the first `end` slots for each query.

        Returns
        -------
        similarity : (q, k) float32
            In descending order; -inf where there are no more.
        slots : (q, k) int64
            -1 where there are no more.
        """
        found_similarity, found_slots = [], []
        vectors, dead = self._vectors[:end], ~self._alive[:end]
        for part in torch.split(torch.from_numpy(queries).to(self._device), max(SIMILARITY_BYTES // (4 * end), 1)):
            similarity = (
                part @ vectors.T if angular else -torch.cdist(part, vectors, compute_mode="donot_use_mm_for_euclid_dist")
            )
            similarity[:, dead] = -torch.inf
            best, slots = torch.topk(similarity, k)
            slots[best == -torch.inf] = -1
            found_similarity.append(best.cpu().numpy())
            found_slots.append(slots.cpu().numpy())
        return np.concatenate(found_similarity), np.concatenate(found_slots)
