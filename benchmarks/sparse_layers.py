"""Time of a group-sparse layer beside a dense one of the same size, one thread: forward, and forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from benchmarks import measure
from learners.networks.sparse.group_linear import GroupSparseLinear

__all__ = ["main", "speed"]

REPEATS = 100
"""Calls of which the mean is taken."""


def speed(width: int, density: float, rows: int, rounds: int) -> dict[str, float]:
    """Best microseconds of a call, and the dense layer's time divided by the sparse one's, over interleaved rounds."""
    torch.manual_seed(0)
    x = torch.randn(rows, width)
    layers = {"dense": torch.nn.Linear(width, width), "sparse": GroupSparseLinear(width, width, density)}
    calls: dict[str, Callable[[], Any]] = {}
    for name, layer in layers.items():
        calls[f"forward, {name}"] = lambda layer=layer: _forward(layer, x)  # type: ignore[misc]
        calls[f"both, {name}"] = lambda layer=layer: _both(layer, x)  # type: ignore[misc]
    times = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            start = perf_counter()
            for _ in range(REPEATS):
                call()
            times[name] = min(times[name], (perf_counter() - start) / REPEATS * 1e6)
    ratios = {f"{kind}, dense / sparse": times[f"{kind}, dense"] / times[f"{kind}, sparse"] for kind in ("forward", "both")}
    return times | ratios


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=9)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.2, 0.1])
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 100])
    options = parser.parse_args(arguments)
    measure.pin(options)
    torch.set_num_threads(1)
    before = measure.machine()
    metrics = {
        f"{width} wide, {density:.0%} dense, {rows} rows": speed(width, density, rows, options.rounds)
        for width in options.widths
        for density in options.densities
        for rows in options.rows
    }
    measure.table(
        "Microseconds of a call, and ratios",
        ["layer", *next(iter(metrics.values()))],
        [[name, *found.values()] for name, found in metrics.items()],
    )
    measure.finish("sparse_layers", options, before, metrics)


def _forward(layer: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        layer(x)


def _both(layer: torch.nn.Module, x: torch.Tensor) -> None:
    for parameter in layer.parameters():
        parameter.grad = None
    layer(x.requires_grad_()).sum().backward()
    x.grad = None
    x.requires_grad_(False)


if __name__ == "__main__":
    main()
