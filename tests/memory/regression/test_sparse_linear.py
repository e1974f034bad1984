"""The sparse follow-the-leader model: numbers of an independent implementation, exactness, and what a step leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from learners.threads import one_thread
from memory.arrays import Floats, Ids
from memory.regression.sparse_linear import SparseLinear

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "losse.npz")
STREAMS = ("cover", "r1", "r2", "r2c", "r2g")


def encoded(name: str) -> tuple[Ids, np.ndarray]:
    """Features of a golden stream, by the definition: corners of cells, one after the other."""
    _, grids, axes, bins, _, _, active = GOLDEN[f"{name}_cfg"].tolist()
    along = 1.0 / (1.0 + np.exp(-GOLDEN[f"{name}_X"] @ GOLDEN[f"{name}_P"] * GOLDEN[f"{name}_gain"])) * bins
    index, value = np.zeros((len(along), active), np.int64), np.ones((len(along), active))
    for n in range(len(along)):
        for g in range(grids):
            for corner in range(2**axes):
                at = 0
                for a in range(axes):
                    place = along[n, a * grids + g]
                    cell, upper = min(int(place), bins - 1), corner >> (axes - 1 - a) & 1
                    at = at * (bins + 1) + cell + upper
                    value[n, g * 2**axes + corner] *= place - cell if upper else 1 - place + cell
                index[n, g * 2**axes + corner] = g * (bins + 1) ** axes + at
    return index, value


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    one_thread()


def of(name: str) -> SparseLinear:
    *_, outputs, features, _ = GOLDEN[f"{name}_cfg"].tolist()
    return SparseLinear(features, outputs, float(GOLDEN[f"{name}_reg"]), str(GOLDEN[f"{name}_mode"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", STREAMS)
def test_the_golden_streams(name: str) -> None:
    model, (index, value) = of(name), encoded(name)
    exact, gram, moment = (model.weights[part] for part in ("exact", "gram", "moment"))
    snapshots = dict(zip(GOLDEN[f"{name}_snaps"].tolist(), GOLDEN[f"{name}_Wsnap"], strict=True))
    targets = GOLDEN[f"{name}_Y"]
    for n in range(len(index)):
        np.testing.assert_allclose(value[n] @ exact[index[n]], GOLDEN[f"{name}_pre"][n], atol=1e-8)
        before = exact.copy()
        ridge = model._ridge * (n + 1 if name == "r2c" else 1)
        model.update(index[n], value[n], targets[n])
        if n + 1 in snapshots:
            np.testing.assert_allclose(exact, snapshots[n + 1], atol=1e-8)
        s = index[n]
        residual = gram[s] @ exact + ridge * exact[s] - moment[s]
        assert np.abs(residual).max() < 1e-9, "the active rows do not solve their equations"
        others = np.setdiff1d(np.arange(len(exact)), s)
        assert np.array_equal(exact[others], before[others]), "weights of features that are not active changed"

        def objective(weight: np.ndarray, ridge: float = ridge) -> float:
            return float(np.sum(weight * (gram @ weight + ridge * weight)) - 2 * np.sum(weight * moment))

        assert objective(exact) <= objective(before) + 1e-9 * abs(objective(before))
        if n % 10 == 9:
            best = np.linalg.solve(gram + ridge * np.eye(len(gram)), moment)
            gap = objective(exact) - objective(best)
            assert gap >= -1e-9 * abs(objective(best))
            assert gap == pytest.approx(GOLDEN[f"{name}_gap"][n], abs=1e-7)
    np.testing.assert_allclose(gram, GOLDEN[f"{name}_A"], atol=1e-12)
    np.testing.assert_allclose(moment, GOLDEN[f"{name}_B"], atol=1e-12)
    assert np.linalg.eigvalsh(gram).min() > -1e-9


def test_one_hot_features_are_ridge_regression() -> None:
    rng, model, sums, counts = np.random.default_rng(0), SparseLinear(5, 1, 0.5), np.zeros(5), np.zeros(5)
    for _ in range(60):
        cell, target = int(rng.integers(5)), rng.normal()
        model.update(np.array([cell]), np.ones(1), np.array([target]))
        sums[cell] += target
        counts[cell] += 1
    np.testing.assert_allclose(model.weights["exact"][:, 0], sums / (counts + 0.5), atol=1e-12)
    np.testing.assert_allclose(model.visits(np.arange(5)[:, None], np.ones((5, 1), np.float32)), counts, rtol=1e-6)


def test_serving_in_single_precision_is_close() -> None:
    model, (index, value) = of("r2"), encoded("r2")
    for n in range(len(index)):
        model.update(index[n], value[n], GOLDEN["r2_Y"][n])
    served: Floats = model.predict(index, value.astype(np.float32))
    exact = np.einsum("nk,nko->no", value, model.weights["exact"][index])
    assert np.abs(served - exact).max() < 1e-3 * np.abs(exact).max()
    np.testing.assert_array_equal(model.predict(index, value.astype(np.float32), slice(1, 2)), served[:, 1:])


def test_only_active_features_are_shipped_and_no_sums() -> None:
    model = SparseLinear(50, 2, 0.1)
    model.take_changes()
    model.update(np.array([3, 40]), np.array([0.5, 0.5]), np.ones(2))
    changes = model.take_changes()
    assert changes["weights.rows"].tolist() == [3, 40]
    assert set(changes) == {"weights.rows", "weights.weight", "weights.visits"}
    assert changes["weights.weight"].dtype == np.float32


def test_forgetting_follows_a_change_and_weights_the_rows_by_age() -> None:
    model = SparseLinear(1, 1, 1e-9, forgetting=0.9)
    targets = [*[0.0] * 500, *[1.0] * 10]
    for target in targets:
        model.update(np.zeros(1, np.int64), np.ones(1), np.array([target]))
    assert model.weights["exact"][0, 0] == pytest.approx(1 - 0.9**10, abs=1e-6)
    assert model.clock["scale"][0] < 1e9
    assert model.weights["visits"][0] == pytest.approx(10.0, rel=1e-3)


@pytest.mark.parametrize("index", [[1, 1], [2, 1], [-1, 2], [3, 9]])
def test_features_must_be_ascending_and_in_range(index: list[int]) -> None:
    model = SparseLinear(9, 1, 0.1)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(ValueError, match="give each active feature once"):
        model.update(np.array(index), np.ones(2), np.ones(1))
    assert all(np.array_equal(before[name], array) for name, array in model.state_dict().items())


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="features: 10000"):
        SparseLinear(10_000, 1, 0.1)
    with pytest.raises(ValueError, match="above 0"):
        SparseLinear(10, 1, 0.0)
