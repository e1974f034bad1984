"""Encodings against numbers of an independent implementation, and their invariants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from learners.rerankers.losse_ftl.encoders import FourierEncoder, SparseEncoder

GOLDEN = np.load(Path(__file__).parents[3] / "golden" / "losse.npz")


@pytest.mark.parametrize("name", ["e1", "e2", "e3"])
def test_the_golden_encodings(name: str) -> None:
    """The second row saturates a sigmoid, the first is on the middle of every axis."""
    _, grids, axes, bins, features, active = GOLDEN[f"{name}_cfg"].tolist()
    encoder = SparseEncoder(GOLDEN[f"{name}_P"], axes, bins)
    index, value = encoder.encode(GOLDEN[f"{name}_X"])
    assert (encoder.features, encoder.active) == (features, active)
    assert np.array_equal(index, GOLDEN[f"{name}_idx"])
    np.testing.assert_allclose(value, GOLDEN[f"{name}_val"], atol=1e-14)
    np.testing.assert_allclose(value.reshape(len(value), grids, -1).sum(axis=2), 1.0)
    assert (value >= 0).all() and (np.diff(index, axis=1) > 0).all() and index.max() < features


def test_far_inputs_share_nothing_and_near_ones_almost_everything() -> None:
    encoder = SparseEncoder.random(4, 32, 2, 6, 2.0, 0)
    one = np.array([[1.5, -1.0, 0.5, 2.0]])
    index, _ = encoder.encode(np.concatenate([one, one + 1e-3, -one * 2]))
    near, far = (np.intersect1d(index[0], index[n]).size for n in (1, 2))
    assert near > 0.95 * encoder.active and far < 0.15 * encoder.active


def test_the_projection_is_cut_at_two_and_seeded() -> None:
    one, same, other = (SparseEncoder.random(9, 8, 2, 3, 1.0, seed) for seed in (1, 1, 2))
    assert np.abs(one._projection).max() <= 2 / 3
    assert np.array_equal(one._projection, same._projection) and not np.array_equal(one._projection, other._projection)


def test_products_of_waves_approximate_a_gaussian_kernel() -> None:
    encoder, rng = FourierEncoder(5, 4096, 1.5, 0), np.random.default_rng(0)
    x = rng.normal(size=(8, 5)).astype(np.float32)
    waves = encoder.encode(x)[:, :4096]
    distance = ((x[:, None] - x) ** 2).sum(axis=2)
    np.testing.assert_allclose(waves @ waves.T, np.exp(-0.5 * 1.5**2 / 5 * distance), atol=0.06)
