"""Exact search on a GPU, over a copy of an index's vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memory.arrays import Bools, Floats, Ids
from memory.vectors.faiss_package import faiss

__all__ = ["GpuVectors", "Nearest"]

SIMILARITY_BYTES = 1 << 30
"""Most GPU memory for similarities. More queries are searched in parts."""

FAISS_BYTES = 256 << 20
"""Working memory that faiss takes once. Its own default is 1.5 GB."""

MANY_QUERIES, MANY_VECTORS = 500, 20_000
"""From these numbers on, faiss is faster than torch; see decision 0049 for what was measured."""


PART = 4096
"""Most queries searched at once."""

_Find = Callable[[Tensor, int, int, bool], tuple[Tensor, Tensor]]


class Nearest(NamedTuple):
    """Tensors of the k most similar slots to each of q queries, on the device.

    Attributes
    ----------
    slots : (q, k) int64
        The most similar first, ties by slot; -1 where there are no more.
    similarity : (q, k) float32
        -inf where there are no more.
    values : (q, k, values) float32
        Values beside the vectors.
    tied : (q,) bool
        Whether slots that were not compared may be as similar as the last one.
    """

    slots: Tensor
    similarity: Tensor
    values: Tensor
    tied: Tensor


class GpuVectors:
    """Vectors in slots, overwritten in place, and other values beside them.

    Both ways of searching read the tensor where it lies, so they find what was just written. (faiss' own indexes for GPUs can
    neither overwrite nor remove a vector.) torch writes all similarities and then selects the best. faiss selects while it
    compares: it is faster for many queries, slower for few. faiss cannot leave out slots, so torch searches while any are dead.
    For Euclidean distances, both find candidates by norms and inner products.

    Parameters
    ----------
    capacity, width : int
        Number of slots and of dimensions.
    values : int
        Numbers beside each vector.
    device : str
        A torch device.

    Raises
    ------
    ValueError
        If there is no such device.
    """

    def __init__(self, capacity: int, width: int, values: int = 0, device: str = "cuda") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError('device: "cuda", and torch sees no GPU here; give "cpu", or install torch with CUDA')
        self._vectors = torch.zeros((capacity, width), device=device)
        # What is added to inner products: 0, or half the negative squared length for distances; -inf for dead slots.
        self._angular_offset = torch.full((capacity,), -torch.inf, device=device)
        self._distance_offset = torch.full((capacity,), -torch.inf, device=device)
        self._values = torch.zeros((capacity, values), device=device)
        self._device = device
        self._faiss: Any = _resources() if device == "cuda" else None

    def write(self, slots: Ids, vectors: npt.NDArray[Any], alive: Bools, values: Floats | None = None) -> None:
        """Write `vectors` (n, width) and `values` (n, values) into `slots` (n,).

        A search does not find slots that are not `alive` (n,).
        """
        at, rows = torch.from_numpy(slots).to(self._device), torch.from_numpy(vectors.astype(np.float32, copy=False))
        dead = torch.from_numpy(~alive).to(self._device)
        self._vectors[at] = rows = rows.to(self._device)
        offset = torch.zeros(len(rows), device=self._device).masked_fill(dead, -torch.inf)
        self._angular_offset[at], self._distance_offset[at] = offset, offset - rows.square().sum(1) / 2
        if values is not None:
            self._values[at] = torch.from_numpy(values).to(self._device)

    def search(self, queries: Floats, k: int, end: int, angular: bool, full: bool) -> tuple[Floats, Ids]:
        """Find the `k` most similar of the first `end` slots for each query.

        Parameters
        ----------
        queries : (q, width) float32
        k, end : int
        angular : bool
            Whether the similarity is the inner product; else the nearest by Euclidean distance are found.
        full : bool
            Whether none of these slots is dead.

        Returns
        -------
        similarity : (q, k) float32
            A number that falls with the similarity; -inf where there are no more.
        slots : (q, k) int64
            -1 where there are no more.
        """
        find, parts = self._plan(queries, end, full)
        found = [find(part, k, end, angular) for part in parts]
        similarity, slots = (torch.cat(column).cpu().numpy() for column in zip(*found, strict=True))
        return similarity, slots

    def nearest(self, queries: Floats, k: int, slack: int, end: int, angular: bool, full: bool) -> Nearest:
        """Find what `search` finds among ``k + slack`` candidates, compared once more in float64.

        Nothing is copied from the device.
        """
        find, parts = self._plan(queries, end, full)
        found = [self._again(part, k, end, angular, *find(part, min(k + slack, end), end, angular)) for part in parts]
        return Nearest(*(torch.cat(column) for column in zip(*found, strict=True)))

    def _again(self, queries: Tensor, k: int, end: int, angular: bool, rough: Tensor, slots: Tensor) -> Nearest:
        """Compare candidates once more, and keep the `k` best."""
        count = slots.shape[1]
        tied = (rough[:, -1] == rough[:, min(k, count) - 1]) & (slots[:, -1] >= 0) & (count < end)
        slots = slots.sort(dim=1).values
        one, other = queries[:, None].double(), self._vectors[slots.clamp(min=0)].double()
        similarity = ((one * other).sum(2) if angular else -(one - other).square().sum(2)).float()
        similarity = similarity.masked_fill(slots < 0, -torch.inf)
        best, order = torch.sort(similarity, dim=1, descending=True, stable=True)
        slots = slots.gather(1, order)[:, :k]
        return Nearest(slots, best[:, :k], self._values[slots.clamp(min=0)], tied)

    def _plan(self, queries: Floats, end: int, full: bool) -> tuple[_Find, tuple[Tensor, ...]]:
        """Choose how to search, and copy the queries to the device, in parts."""
        if self._faiss is not None and full and len(queries) >= MANY_QUERIES and end >= MANY_VECTORS:
            return self._by_faiss, torch.split(torch.from_numpy(queries).to(self._device), PART)
        size = min(max(SIMILARITY_BYTES // (4 * end), 1), PART)
        return self._by_torch, torch.split(torch.from_numpy(queries).to(self._device), size)

    def _by_faiss(self, queries: Tensor, count: int, end: int, angular: bool) -> tuple[Tensor, Tensor]:
        """Similarity and slots (q, count), best first. None of the slots may be dead."""
        metric = faiss.METRIC_INNER_PRODUCT if angular else faiss.METRIC_L2
        similarity, slots = faiss.knn_gpu(self._faiss, queries, self._vectors[:end], count, metric=metric)
        return similarity if angular else -similarity, slots

    def _by_torch(self, queries: Tensor, count: int, end: int, angular: bool) -> tuple[Tensor, Tensor]:
        offset = (self._angular_offset if angular else self._distance_offset)[:end]
        similarity, slots = torch.topk(torch.addmm(offset, queries, self._vectors[:end].T), count)
        return similarity, slots.masked_fill(similarity == -torch.inf, -1)


def _resources() -> Any:
    """Faiss' working memory on the GPU; None if faiss has no code for GPUs."""
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return None
    # It teaches faiss to take tensors, on torch's stream.
    from faiss.contrib import torch_utils  # noqa: F401

    resources = faiss.StandardGpuResources()
    resources.setTempMemory(FAISS_BYTES)
    return resources
