"""World models in small worlds, learned in one pass, beside an online network: nothing is forgotten.

`recommender_world` is the world of the recommender; the others are those of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from learners.rerankers.losse_ftl.encoders import SparseEncoder
from learners.rerankers.losse_ftl.models import FourierModel, SparseModel, WorldModel
from learners.threads import one_thread
from memory.regression.sparse_linear import SparseLinear
from tests.learners.rerankers.losse_ftl.network import OnlineNetwork
from tests.learners.rerankers.losse_ftl.recommender_world import GROUPS, SIZE, User, logged

SHAPE = (3 * SIZE, 1, 2 * SIZE)
MODELS: dict[str, Callable[[], WorldModel]] = {
    "rff": lambda: FourierModel(*SHAPE),
    "losse": lambda: SparseModel(*SHAPE),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    one_thread()


def one_pass(encoder: SparseEncoder, model: SparseLinear, x: np.ndarray, y: np.ndarray) -> None:
    index, value = encoder.encode(x[:, None])
    for n in range(x.size):
        model.update(index[n], value[n], y[n : n + 1])


def root_error(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted.ravel() - true) ** 2)))


def test_ten_points_of_a_sine_in_sorted_order() -> None:
    x, grid = np.linspace(-np.pi, np.pi, 10), np.linspace(-np.pi, np.pi, 200)
    errors = []
    for seed in range(10):
        encoder = SparseEncoder.random(1, 50, 2, 5, 1.0, seed)
        model = SparseLinear(encoder.features, 1, 1e-5, "count")
        one_pass(encoder, model, x, np.sin(x))
        index, value = encoder.encode(grid[:, None])
        errors.append(root_error(model.predict(index, value.astype(np.float32)), np.sin(grid)))
    assert np.median(errors) < 0.03


def test_a_sorted_sweep_of_a_sine_is_not_forgotten_as_a_network_does() -> None:
    x = np.linspace(-np.pi, np.pi, 2000)
    encoder = SparseEncoder.random(1, 50, 2, 5, 1.0, 0)
    model, network = SparseLinear(encoder.features, 1, 1e-3), OnlineNetwork(1, 1, 1e-2)
    one_pass(encoder, model, x[::2], np.sin(x[::2]))
    for point in x:
        network.learn(np.array([[point]]), np.array([[np.sin(point)]]))
    index, value = encoder.encode(x[:, None])
    assert root_error(model.predict(index, value.astype(np.float32)), np.sin(x)) < 0.005
    assert root_error(network.predict(x[:, None]), np.sin(x)) > 0.3


@cache
def after_each_kind(name: str) -> tuple[float, float, float, float, float]:
    """Errors of the reward: of kind A after A, of A after B, of B after B; of the change of A after A; and A's variance."""
    parts = [logged(0, 1200, 10), logged(1, 1200, 13)]
    tests = [logged(0, 600, 15), logged(1, 600, 17)]
    network = OnlineNetwork(SHAPE[0], SHAPE[1] + SHAPE[2], 1e-3)
    model = None if name == "network" else MODELS[name]()

    def errors(kind: int) -> tuple[float, float]:
        x, reward, change = tests[kind]
        if model is None:
            made = network.predict(x)
            outcome, changed = made[:, :1], made[:, 1:]
        else:
            outcome, predicted = model.predict(x, changes=True)
            assert predicted is not None
            changed = predicted
        return float(((outcome - reward) ** 2).mean()), float(((changed - change) ** 2).mean())

    found = []
    for kind, (xs, rewards, changes) in enumerate(parts):
        for x, reward, change in zip(xs, rewards, changes, strict=True):
            if model is None:
                network.learn(x[None].astype(np.float64), np.concatenate([reward, change])[None])
            else:
                model.learn(x, reward, change, 1.0)
        found += [errors(0)] if kind == 0 else [errors(0), errors(1)]
    return found[0][0], found[1][0], found[2][0], found[0][1], float(tests[0][1].var())


@pytest.mark.parametrize("name", MODELS)
def test_another_kind_of_users_does_not_make_it_forget_the_first(name: str) -> None:
    a, a_later, b, change, variance = after_each_kind(name)
    assert a_later <= 1.1 * a
    assert max(a, b) < 0.4 * variance
    network_a, network_later, network_b, network_change, _ = after_each_kind("network")
    assert a < network_a and b < network_b and change < network_change
    assert network_later > 1.1 * network_a, "the network should forget; is the world too easy?"


def test_random_waves_are_more_accurate_here_than_the_sparse_encoding() -> None:
    assert after_each_kind("rff")[2] < 0.8 * after_each_kind("losse")[2]


@pytest.mark.parametrize("name", MODELS)
def test_it_counts_rows_like_an_input(name: str) -> None:
    model = MODELS[name]()
    rng = np.random.default_rng(0)
    known, strange = rng.normal(size=(2, 1, 3 * SIZE)).astype(np.float32)
    for _ in range(50):
        model.learn(known[0], np.ones(1), np.zeros(2 * SIZE), 1.0)
    assert model.evidence(known)[0] > 5
    assert model.evidence(strange)[0] < 0.1


@pytest.mark.parametrize("name", MODELS)
def test_the_end_of_a_session_teaches_nothing_about_the_next_state(name: str) -> None:
    model, x = MODELS[name](), np.ones((1, 3 * SIZE), np.float32)
    for n in range(60):
        model.learn(x[0], np.zeros(1), np.ones(2 * SIZE) if n % 2 else None, 1.0)
    _, change = model.predict(x, changes=True)
    assert change is not None
    np.testing.assert_allclose(change, 1.0, atol=0.1)


def test_acting_on_what_it_predicts_it_earns_more_than_at_random() -> None:
    """The model learns while it acts, from one pass, with an exploration of a tenth."""
    rewards = {}
    for name in ("rff", "random"):
        user, model, rng = User(0, 3), MODELS["rff"](), np.random.default_rng(4)
        earned = []
        for _ in range(900):
            x = user.inputs(np.repeat(user.state[None], GROUPS, axis=0), np.arange(GROUPS))
            best = int(np.argmax(model.predict(x, changes=False)[0][:, 0]))
            group = best if name == "rff" and rng.random() > 0.1 else int(rng.integers(GROUPS))
            reward, change = user.act(group)
            model.learn(x[group], np.array([reward]), change, 1.0)
            earned.append(reward)
        rewards[name] = np.mean(earned[-300:])
    assert rewards["rff"] > rewards["random"] + 0.1


def test_old_inputs_are_not_forgotten_while_inputs_drift() -> None:
    """y = sin(2 pi x^2), where x stays near one place for 200 steps, then moves: error on all inputs so far."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(0, 0.5 * 0.99**0.5, 15), 200) + rng.normal(0, 0.05, 3000)
    y = np.sin(2 * np.pi * x**2)
    encoder = SparseEncoder.random(1, 20, 1, 30, 3.0, 0)
    model, network = SparseLinear(encoder.features, 1, 1e-3), OnlineNetwork(1, 1, 1e-3)
    one_pass(encoder, model, x, y)
    for n in range(x.size):
        network.learn(x[n : n + 1, None], y[n : n + 1, None])
    index, value = encoder.encode(x[:, None])
    assert root_error(model.predict(index, value.astype(np.float32)), y) < 0.0018
    assert root_error(network.predict(x[:, None]), y) > 0.2
