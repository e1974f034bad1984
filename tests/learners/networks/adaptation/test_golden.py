"""SAR and TENT against the recorded steps of the public code, in float64: within 1e-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from learners.networks.adaptation.minimizer import PAPER, EntropyMinimizer, Method
from tests.learners.networks.adaptation.nets import Net, logits_of, slates_of

GOLDEN = np.load(Path(__file__).parents[3] / "golden" / "sar.npz")
CLASSES = 10


def golden_net(stream: str) -> Net:
    net = Net(12, 16, 2, CLASSES).double()
    prefix = f"{stream}/w0/"
    net.load_state_dict({name[len(prefix) :]: torch.from_numpy(GOLDEN[name]) for name in GOLDEN if name.startswith(prefix)})
    return net


def start_of(net: Net, names: list[str]) -> np.ndarray:
    values = dict(net.named_parameters())
    return np.concatenate([values[name].detach().numpy().ravel() for name in names])


def close(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


def follow(stream: str, method: Method, names: list[str], threshold: float):
    """Yield each step's number, report and minimizer."""
    net, x = golden_net(stream), torch.from_numpy(GOLDEN[f"{stream}/x"])
    minimizer = EntropyMinimizer(start_of(net, names).size, method, np.float64)
    for t, batch in enumerate(x):
        rate = float(GOLDEN[f"{stream}/lr"])
        report = minimizer.step(logits_of(net, names, batch), slates_of(len(batch), CLASSES), rate=rate, threshold=threshold)
        yield t, report, minimizer


@pytest.mark.parametrize("stream", ["A", "B", "C", "D"])
def test_every_step_is_that_of_the_public_code(stream):
    def stored(name):
        return GOLDEN[f"{stream}/{name}"]

    net = golden_net(stream)
    method = PAPER._replace(radius=float(stored("rho")), min_entropy=float(stored("e_m")))
    start, threshold = start_of(net, net.lower()), float(stored("margin_e0")) / np.log(CLASSES)
    resets = []
    for t, report, minimizer in follow(stream, method, net.lower(), threshold):
        close(report.logits.numpy().reshape(stored("logits1")[t].shape), stored("logits1")[t])
        np.testing.assert_array_equal(report.first, stored("mask1")[t])
        np.testing.assert_array_equal(report.second, stored("mask2")[t])
        close(start + minimizer.delta, stored("adapted_after")[t])
        close(minimizer.progress["momentum"][0], stored("momentum_after")[t])
        close(minimizer.progress["ema"], stored("ema_attr")[t : t + 1])
        resets.append(report.reset == "entropy")
    np.testing.assert_array_equal(resets, stored("reset"))
    assert any(resets) == (stream == "D")


def test_a_reset_clears_the_average_and_the_momentum():
    net = golden_net("D")
    method = PAPER._replace(min_entropy=float(GOLDEN["D/e_m"]), clear_ema=True, clear_momentum=True)
    start, threshold = start_of(net, net.lower()), float(GOLDEN["D/margin_e0"]) / np.log(CLASSES)
    resets = []
    for t, report, minimizer in follow("D", method, net.lower(), threshold):
        close(start + minimizer.delta, GOLDEN["clear/adapted_after"][t])
        close(minimizer.progress["ema"], GOLDEN["clear/ema_after"][t : t + 1])
        resets.append(report.reset == "entropy")
        if report.reset:
            assert not minimizer.delta.any() and not minimizer.progress["momentum"].any()
    np.testing.assert_array_equal(resets, GOLDEN["clear/reset"])
    assert sum(resets) == 2


def test_tent_is_the_special_case_without_filter_second_place_and_reset():
    net = golden_net("A")
    names = GOLDEN["tent/adapted_names"].tolist()
    assert names == net.every()
    method, start = PAPER._replace(radius=0.0, min_entropy=-1.0), start_of(net, names)
    for t, report, minimizer in follow("A", method, names, 2.0):
        close(report.logits.numpy().reshape(GOLDEN["tent/logits1"][t].shape), GOLDEN["tent/logits1"][t])
        close(start + minimizer.delta, GOLDEN["tent/adapted_after"][t])
