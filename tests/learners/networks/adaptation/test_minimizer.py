"""The step of SAR: what it changes and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learners.networks.adaptation.minimizer import PAPER, EntropyMinimizer, Method
from learners.networks.adaptation.slates import Slates
from tests.learners.networks.adaptation.nets import Net, logits_of, slates_of

CLASSES, WIDTH = 6, 8


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    made = Net(5, WIDTH, 2, CLASSES).double()
    made.head.weight.data *= 4
    return made


def minimizer(method: Method = Method()) -> EntropyMinimizer:  # noqa: B008
    return EntropyMinimizer(4 * WIDTH, method, np.float64)


def inputs(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, 5)))


def step(one: EntropyMinimizer, net: Net, x: torch.Tensor, rate: float = 0.01, threshold: float = 2.0):
    return one.step(logits_of(net, net.lower(), x), slates_of(len(x), CLASSES), rate=rate, threshold=threshold)


def bytes_of(one: EntropyMinimizer) -> list[bytes]:
    return [array.tobytes() for array in one.state_dict().values()]


def test_a_batch_without_a_reliable_slate_changes_nothing(net):
    one, reference = minimizer(), minimizer(PAPER)
    for each in (one, reference):
        step(each, net, inputs(8), threshold=2.0)
    before, moved = bytes_of(one), reference.delta.copy()
    report = step(one, net, inputs(8, 1), threshold=1e-6)
    assert not report.first.any() and not report.reset
    assert bytes_of(one) == before
    step(reference, net, inputs(8, 1), threshold=1e-6)
    assert not np.array_equal(reference.delta, moved), "the public code goes on by momentum"


def test_there_is_a_reset_exactly_when_the_average_is_below_the_bound(net):
    def averages(bound: float) -> tuple[list[float], list[str]]:
        one, seen, resets = minimizer(Method(min_entropy=bound)), [], []
        for seed in range(30):
            resets.append(step(one, net, inputs(8, seed), rate=0.3).reset)
            seen.append(float(one.progress["ema"][0]))
            if resets[-1]:
                assert not one.delta.any() and not one.progress["momentum"].any() and np.isnan(seen[-1])
                break
        return seen, resets

    free, _ = averages(0.0)
    assert min(free) < 0.9 * free[0]
    bound = (min(free) + free[0]) / 2
    first = next(n for n, average in enumerate(free) if average < bound)
    seen, resets = averages(bound)
    assert resets == [""] * first + ["entropy"]
    assert seen[:first] == free[:first]


@pytest.mark.parametrize("spoilt", ["logits", "parameters"])
def test_numbers_that_are_not_finite_lead_to_the_base(net, spoilt):
    one = minimizer()
    step(one, net, inputs(8))
    x, rate = inputs(8), 0.01
    if spoilt == "logits":
        x[3, 2] = torch.nan
    else:
        rate = np.inf
    assert step(one, net, x, rate=rate).reset == "non_finite"
    assert not one.delta.any() and not one.progress["momentum"].any() and np.isnan(one.progress["ema"][0])
    assert not step(one, net, inputs(8)).reset and one.delta.any(), "it goes on"


def test_64_steps_of_one_slate_go_the_way_of_one_step_of_64(net):
    x, whole, single = inputs(64), minimizer(), minimizer()
    step(whole, net, x, rate=0.01)
    for row in x:
        step(single, net, row[None], rate=0.01 / 64)
    cosine = whole.delta @ single.delta / np.linalg.norm(whole.delta) / np.linalg.norm(single.delta)
    assert cosine > 0.9, cosine


def test_the_second_pass_is_uphill_and_the_step_downhill(net):
    x, slates = inputs(16), slates_of(16, CLASSES)
    logits = logits_of(net, net.lower(), x)

    def loss(delta: np.ndarray) -> float:
        return float(slates.entropy(slates.log_shares(logits(torch.from_numpy(delta)))).mean())

    asked, one = [], minimizer(Method(radius=0.5))

    def watched(delta: torch.Tensor) -> torch.Tensor:
        asked.append(delta.detach().numpy().copy())
        return logits(delta)

    one.step(watched, slates, rate=0.05, threshold=2.0)
    assert len(asked) == 2
    np.testing.assert_allclose(np.linalg.norm(asked[1] - asked[0]), 0.5, rtol=1e-9)
    assert loss(asked[1]) > loss(asked[0]) > loss(one.delta)


def test_floor_and_divergence_hold_certainty_back(net):
    x = inputs(16)
    logits, slates = logits_of(net, net.lower(), x), slates_of(16, CLASSES)
    source = logits(torch.zeros(4 * WIDTH, dtype=torch.float64)).detach()

    def entropy_after(floor: float, kl: float) -> float:
        one = minimizer(Method(kl=kl, momentum=0.0, radius=0.0))
        for _ in range(100):
            one.step(logits, slates, rate=0.02, threshold=2.0, floor=floor, source=source)
        return float(slates.entropy(slates.log_shares(logits(torch.from_numpy(one.delta)))).mean())

    start = float(slates.entropy(slates.log_shares(source)).mean())
    free = entropy_after(0.0, 0.0)
    assert free < start
    assert entropy_after(1.0, 0.0) == start, "no entropy is above ln C"
    assert free < entropy_after(0.0, 1.0) < start


def test_slates_of_different_sizes():
    slates = Slates.of(np.array([0, 0, 1, 1, 1, 1, 3, 3, 3]), 4)
    logits = torch.tensor([0.0, 0.0, 1e9, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    shares = slates.log_shares(logits)
    entropy = slates.entropy(shares)
    p = np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    expected = [np.log(2), 0.0, np.nan, -(p * np.log(p)).sum()]
    np.testing.assert_allclose(entropy.detach().numpy()[[0, 1, 3]], np.array(expected)[[0, 1, 3]], atol=1e-12)
    (gradient,) = torch.autograd.grad(entropy[[0, 1, 3]].sum(), logits)
    assert gradient.isfinite().all()
    assert torch.equal(slates.divergence(shares, shares)[[0, 1, 3]], torch.zeros(3, dtype=torch.float64))
