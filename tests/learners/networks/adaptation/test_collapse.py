"""A stream of one class after the other: TENT collapses, SAR gains. Classes are a slate, and 16 samples a step."""

from __future__ import annotations

import numpy as np

from learners.networks.adaptation.minimizer import PAPER, EntropyMinimizer, Method
from tests.learners.networks.adaptation.nets import World, accuracy, largest_share

SEEDS = range(4)
TENT = PAPER._replace(radius=0.0, min_entropy=-1.0)


def tent(world: World, rate: float) -> np.ndarray:
    """The predictions of TENT, which adapts all normalisations, whatever the entropy."""
    names = world.net.every()
    size = sum(dict(world.net.named_parameters())[name].numel() for name in names)
    return world.run(EntropyMinimizer(size, TENT), names, 16, rate, threshold=2.0)[0]


def sar(world: World, rate: float) -> np.ndarray:
    names = world.net.lower()
    size = sum(dict(world.net.named_parameters())[name].numel() for name in names)
    return world.run(EntropyMinimizer(size, Method()), names, 16, rate, threshold=0.4)[0]


def unchanged(world: World) -> np.ndarray:
    return world.run(None, [], 16, 0.0, threshold=0.0)[0]


def test_at_a_high_rate_tent_predicts_one_class_and_sar_does_not() -> None:
    worlds = [World(seed, spread=0.68) for seed in SEEDS]
    shares = [largest_share(tent(world, 0.2)) for world in worlds]
    assert min(shares) > 0.5 and np.mean(shares) > 0.8, shares
    assert np.mean([accuracy(world, sar(world, 0.2), last=0.25) for world in worlds]) > 0.45


def test_at_a_lower_rate_sar_is_better_than_nothing_and_than_tent() -> None:
    worlds = [World(seed, spread=0.7) for seed in SEEDS]
    nothing, by_tent, by_sar = (
        np.mean([accuracy(world, said) for world, said in zip(worlds, predictions, strict=True)])
        for predictions in (
            [unchanged(world) for world in worlds],
            [tent(world, 0.06) for world in worlds],
            [sar(world, 0.06) for world in worlds],
        )
    )
    assert by_sar >= nothing + 0.01
    assert by_sar >= by_tent + 0.10
