"""Padded calls return what the function returns. A recorder that calls the function stands in for a GPU."""

from __future__ import annotations

import doctest
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.contract import small
from learners.contract.checks import checks_for
from learners.networks import graphs
from learners.networks.graphs import Function, Padded
from learners.networks.ranker import NetworkRanker
from learners.rankers.deep import Deep
from tests.learners.networks.clicks import bound, random_rows

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

recorded: list[int] = []


def replayed(function: Function, inputs: Sequence[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    recorded.append(len(inputs[0]))
    return partial(function, *inputs)


def deep() -> NetworkRanker:
    return bound(Deep(bits=10, factors=4, hidden=8, network_learning_rate=0.01))


def test_the_documented_example() -> None:
    assert doctest.testmod(graphs).failed == 0


def test_a_ranker_with_padded_calls_learns_and_scores_the_same() -> None:
    padded, plain = deep(), deep()
    padded.predict, padded.gradients = Padded(padded._predict, replayed), Padded(padded._gradients, replayed)
    recorded.clear()
    for n in (1, 100, 20, 33, 64):
        for ranker in (padded, plain):
            ranker.learn(random_rows(n, n))
    assert recorded == [16, 64, 32], "one for each power of two, of pieces of 1, 64 + 36, 20, 33 and 64 rows"
    one, other = random_rows(7, 50), random_rows(7, 50)
    padded.score(one)
    plain.score(other)
    np.testing.assert_allclose(one.score, other.score, rtol=1e-4)
    np.testing.assert_allclose(one.hidden, other.hidden, rtol=1e-3, atol=1e-4)


@needs_gpu
@pytest.mark.parametrize("check", checks_for(Deep), ids=lambda check: check.__name__)
def test_contract_on_a_gpu(check: Callable[[Any], None]) -> None:
    check(small.bound(lambda: Deep(**Deep.checks_parameters, device="cuda")))


@needs_gpu
def test_a_graph_on_a_gpu_learns_and_scores_the_same() -> None:
    """Learning amplifies roundings: gradients that differ by 3e-7 on the CPU move scores by .005 within 20 batches."""
    on_gpu, plain = bound(Deep(bits=10, factors=4, hidden=8, device="cuda")), bound(Deep(bits=10, factors=4, hidden=8))
    for seed in range(20):
        for ranker in (on_gpu, plain):
            ranker.learn(random_rows(seed))
        one, other = random_rows(50), random_rows(50)
        on_gpu.score(one)
        plain.score(other)
        np.testing.assert_allclose(one.score, other.score, atol=1e-4 if seed < 3 else 2e-2)
