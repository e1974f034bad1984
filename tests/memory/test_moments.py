"""Numeric columns are standardized, whatever their scale."""

from __future__ import annotations

import numpy as np
import pytest

from memory.keyed.catalog import Catalog
from memory.moments import LARGEST, MAX_COUNT, Moments


def table(*numbers: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a category and a number."""
    keys, values = np.full((len(numbers), 2), 7), np.ones((len(numbers), 2), np.float32)
    values[:, 1] = numbers
    return keys, values


def standardized(moments: Moments, *numbers: float) -> list[float]:
    keys, values = table(*numbers)
    moments.standardize(keys, values)
    assert (values[:, 0] == 1).all(), "the category is left alone"
    return values[:, 1].tolist()


def test_mean_and_variance_do_not_depend_on_the_batches() -> None:
    numbers = np.random.default_rng(0).normal(1990.0, 14.0, 1000).astype(np.float32)
    whole, parts = Moments([1]), Moments([1])
    whole.add(*table(*numbers))
    for number in numbers:
        parts.add(*table(number))
    mean, variance = whole.known
    np.testing.assert_allclose([mean[0], variance[0]], [numbers.mean(dtype=float), numbers.var(dtype=float)], rtol=1e-9)
    assert [known.tobytes() for known in parts.known] == [known.tobytes() for known in whole.known]
    assert standardized(whole, mean[0], mean[0] + np.sqrt(variance[0])) == pytest.approx([0.0, 1.0], abs=1e-5)


@pytest.mark.parametrize("numbers", [(), (5.0,), (1995.1,) * 50])
def test_a_column_without_variance_becomes_zero(numbers: tuple[float, ...]) -> None:
    moments = Moments([1])
    moments.add(*table(*numbers))
    assert standardized(moments, 3e38, -3e38, 1995.1) == [0.0, 0.0, 0.0]


def test_absent_numbers_are_ignored() -> None:
    moments = Moments([1])
    keys, values = table(1.0, 2.0, 0.0)
    keys[2, 1] = 0
    moments.add(keys, values)
    assert moments.known[0].tolist() == [1.5]
    moments.standardize(keys, values)
    assert values[:, 1].tolist() == [-1.0, 1.0, 0.0]


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1.0, 3e38])
def test_every_float32_can_be_standardized(scale: float) -> None:
    moments = Moments([1])
    moments.add(*table(scale, -scale, scale, -scale))
    assert standardized(moments, scale, -scale) == pytest.approx([1.0, -1.0])
    assert standardized(moments, 3e38, -3e38)[0] <= LARGEST


def test_one_outlier_has_no_effect_and_a_new_scale_is_followed() -> None:
    moments = Moments([1])
    moments.add(*table(*np.random.default_rng(0).normal(0.0, 1.0, 1000)))
    moments.add(*table(3e38))
    assert standardized(moments, 3e38, 1.0) == [LARGEST, pytest.approx(1.0, abs=0.15)]
    moments.add(*table(*np.random.default_rng(1).normal(0.0, 1e6, 5 * MAX_COUNT)))
    assert standardized(moments, 1e6) == [pytest.approx(1.0, abs=0.1)]


def test_a_catalogue_standardizes_by_its_items() -> None:
    catalog = Catalog(4, 2, [1])
    for key, price in ((1, 10.0), (2, 30.0)):
        keys, values = table(price)
        catalog.put(key, str(key), {}, keys[0], values[0])
    catalog.ensure(np.array([3]), ["3"])
    keys, values = catalog.encoded_at(catalog.find(np.array([1, 2, 3, 4])))
    assert values[:, 1].tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert keys[2:].tolist() == [[0, 0], [0, 0]]
    other = Catalog(4, 2, [1])
    other.load_state_dict(catalog.state_dict())
    assert other.encoded_at(other.find(np.array([1])))[1][0, 1] == -1.0
    assert catalog.encoded[1][0, 1] == 10.0, "it keeps the raw number"
