"""Exact search on a GPU, over a copy of an index's vectors."""

from __future__ import annotations

from collections.abc import Iterator
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

DEAD = 1e18
"""What the last column of a dead slot has: it puts the slot behind all others. Its square is a float32, too."""


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

    faiss searches the tensor where it lies, so it finds what was just written. Its own indexes for GPUs can neither overwrite
    nor remove a vector. It selects the best while it compares, torch only after it has written all similarities; but torch uses
    the whole GPU for few queries, too. See `FEW` and `MANY`.

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
        # One more column than dimensions, for dead slots; and more of them, so that rows begin at multiples of 16 bytes.
        self._rows = torch.zeros((capacity, (width // 4 + 1) * 4), device=device)
        self._rows[:, -1] = DEAD
        self._values = torch.zeros((capacity, values), device=device)
        self._width, self._device = width, device
        self._faiss = _resources() if device == "cuda" else None

    def write(self, slots: Ids, vectors: npt.NDArray[Any], alive: Bools, values: Floats | None = None) -> None:
        """Write `vectors` (n, width) and `values` (n, values) into `slots` (n,).

        A search does not find slots that are not `alive` (n,).
        """
        rows = np.zeros((slots.size, self._rows.shape[1]), np.float32)
        rows[:, : self._width], rows[:, -1] = vectors, np.where(alive, 0.0, DEAD)
        at = torch.from_numpy(slots).to(self._device)
        self._rows[at] = torch.from_numpy(rows).to(self._device)
        if values is not None:
            self._values[at] = torch.from_numpy(values).to(self._device)

    def search(self, queries: Floats, k: int, end: int, angular: bool) -> tuple[Floats, Ids]:
        """Find the `k` most similar of the first `end` slots for each query.

        Returns
        -------
        similarity : (q, k) float32
            In descending order; -inf where there are no more.
        slots : (q, k) int64
            -1 where there are no more.
        """
        parts = [self._candidates(part, k, end, angular) for part in self._in_parts(queries, end, angular)]
        similarity, slots = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        return similarity, slots

    def nearest(self, queries: Floats, k: int, slack: int, end: int, angular: bool) -> Nearest:
        """Find the `k` most similar of the first `end` slots, from ``k + slack`` candidates compared once more in float64.

        Nothing is copied from the device.
        """
        parts = [self._nearest(part, k, slack, end, angular) for part in self._in_parts(queries, end, angular)]
        return Nearest(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _nearest(self, queries: Tensor, k: int, slack: int, end: int, angular: bool) -> Nearest:
        count = min(k + slack, end)
        rough, slots = self._candidates(queries, count, end, angular)
        tied = (rough[:, -1] == rough[:, min(k, count) - 1]) & (slots[:, -1] >= 0) & (count < end)
        slots = slots.sort(dim=1).values
        one, other = queries[:, None, : self._width].double(), self._rows[slots.clamp(min=0), : self._width].double()
        similarity = ((one * other).sum(2) if angular else -(one - other).square().sum(2)).float()
        similarity = similarity.masked_fill(slots < 0, -torch.inf)
        best, order = torch.sort(similarity, dim=1, descending=True, stable=True)
        slots = slots.gather(1, order)[:, :k]
        return Nearest(slots, best[:, :k], self._values[slots.clamp(min=0)], tied)

    def _in_parts(self, queries: Floats, end: int, angular: bool) -> Iterator[Tensor]:
        """Copy queries to the device, as rows of which the last column counts against dead slots."""
        wide = np.zeros((len(queries), self._rows.shape[1]), np.float32)
        wide[:, : self._width], wide[:, -1] = queries, -1.0 if angular else 0.0
        size = max(SIMILARITY_BYTES // (4 * end), 1)
        yield from torch.split(torch.from_numpy(wide).to(self._device), size)

    def _candidates(self, queries: Tensor, count: int, end: int, angular: bool) -> tuple[Tensor, Tensor]:
        """Similarity and slots (q, count), best first."""
        rows = self._rows[:end]
        if self._faiss is not None and angular and _faiss_is_faster(len(queries), end):
            similarity, slots = faiss.knn_gpu(self._faiss, queries, rows, count, metric=faiss.METRIC_INNER_PRODUCT)
        else:
            similarity, slots = torch.topk(
                queries @ rows.T
                if angular
                else -torch.cdist(queries, rows, compute_mode="donot_use_mm_for_euclid_dist"),
                count,
            )
        dead = self._rows[slots, -1] > 0
        return similarity.masked_fill(dead, -torch.inf), slots.masked_fill(dead, -1)


FEW, MANY = 16, 200_000
"""With fewer queries than `FEW` among more vectors than `MANY`, torch is faster than faiss. See decision 0049."""


def _faiss_is_faster(queries: int, vectors: int) -> bool:
    return queries >= FEW or vectors <= MANY


def _resources() -> Any:
    """Faiss' working memory on the GPU; None if faiss has no code for GPUs."""
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return None
    # It teaches faiss to take tensors, on torch's stream.
    from faiss.contrib import torch_utils  # noqa: F401

    resources = faiss.StandardGpuResources()
    resources.setTempMemory(FAISS_BYTES)
    return resources
