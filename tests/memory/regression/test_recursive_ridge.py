"""Recursive ridge regression: the exact solution after each row, weights of rows, and forgetting within bounds."""

from __future__ import annotations

import numpy as np
import pytest

from memory.regression.recursive_ridge import RecursiveRidge


def test_it_is_the_exact_solution_after_each_row() -> None:
    rng, model = np.random.default_rng(0), RecursiveRidge(6, 2, 0.3)
    rows, targets, weights = rng.normal(size=(40, 6)), rng.normal(size=(40, 2)), rng.uniform(0.1, 5.0, 40)
    for n in range(40):
        model.update(rows[n], targets[n], weights[n])
        seen = rows[: n + 1]
        weighted = seen.T * weights[: n + 1]
        exact = np.linalg.solve(weighted @ seen + 0.3 * np.eye(6), weighted @ targets[: n + 1])
        np.testing.assert_allclose(model.weights["exact"], exact, atol=1e-10)
    np.testing.assert_array_equal(model.predict(rows.astype(np.float32), slice(1, 2)).shape, (40, 1))
    np.testing.assert_allclose(model.predict(rows.astype(np.float32)), rows @ exact, atol=1e-5)


def test_a_row_without_weight_changes_nothing() -> None:
    model = RecursiveRidge(3, 1, 1.0, forgetting=0.99)
    model.update(np.ones(3), np.ones(1), 0.0)
    np.testing.assert_array_equal(model.weights["inverse"], np.eye(3))
    assert not model.weights["exact"].any()


def test_forgetting_follows_a_change_and_the_inverse_stays_bounded() -> None:
    model, one, other = RecursiveRidge(4, 1, 0.1, forgetting=0.95), *np.eye(4)[:2]
    model.update(other, np.ones(1))
    for n in range(5000):
        model.update(one, np.array([float(n >= 4900)]))
    assert model.weights["exact"][0, 0] == pytest.approx(1.0, abs=0.01)
    assert model.weights["exact"][1, 0] == pytest.approx(1 / 1.095), "what no new row tells anything about has faded"
    np.testing.assert_allclose(np.diag(model.weights["inverse"]), [0.05, 1 / 1.095, 10, 10], rtol=0.01)
    np.testing.assert_allclose(model.weights["inverse"] @ model.weights["gram"], np.eye(4), atol=1e-9)


def test_only_the_weights_are_shipped() -> None:
    model = RecursiveRidge(4, 2, 0.1)
    model.update(np.ones(4), np.ones(2))
    assert set(model.take_changes()) == {"weights.rows", "weights.weight"}
