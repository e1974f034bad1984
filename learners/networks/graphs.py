"""Functions of tensors as CUDA graphs, which start one recording instead of many kernels.

A recording has fixed shapes. So rows are padded to the next power of two, and there is a recording for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Function", "Padded", "cuda_graph"]

Function = Callable[..., tuple[Tensor, ...]]
Recorder = Callable[[Function, Sequence[Tensor]], Callable[[], tuple[Tensor, ...]]]

SMALLEST = 16
"""Rows of the smallest recording."""

WARM_UP = 3
"""Calls before a recording, in which libraries choose algorithms and allocate what they need."""


def cuda_graph(function: Function, inputs: Sequence[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Record a function of these tensors. The returned call reads their current content, and writes to the same outputs."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            function(*inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the GPU meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function(*inputs)

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    return replay


class Padded:
    """Calls a function with rows of zeros added, so that it is called with few different numbers of rows.

    Parameters
    ----------
    function : callable of tensors (n, ...) returning a tuple of tensors
        Rows of zeros must not change what it returns for other rows, nor what it returns for all rows together.
    record : callable, optional
        Makes a call without arguments from the function and the tensors that it is to read. By default a CUDA graph.

    Examples
    --------
    >>> import torch
    >>> total = Padded(lambda x: (x.sum(0),), lambda function, inputs: lambda: function(*inputs))
    >>> total(torch.ones(3, 2))
    (tensor([3., 3.]),)
    """

    def __init__(self, function: Function, record: Recorder = cuda_graph) -> None:
        self._function, self._record = function, record
        self._recorded: dict[int, tuple[list[Tensor], Callable[[], tuple[Tensor, ...]]]] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, padded where they are by row. They are valid until the next call."""
        rows = len(inputs[0])
        size = max(1 << max(rows - 1, 0).bit_length(), SMALLEST)
        if size not in self._recorded:
            fixed = [torch.zeros((size, *given.shape[1:]), dtype=given.dtype, device=given.device) for given in inputs]
            self._recorded[size] = fixed, self._record(self._function, fixed)
        fixed, replay = self._recorded[size]
        for mine, given in zip(fixed, inputs, strict=True):
            mine[:rows] = given
            mine[rows:] = 0
        return replay()
