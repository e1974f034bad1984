"""Adapters and their weight deltas: which are accepted and which are refused."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import Adapter, LowRank
from learners.contract.checks import check_learner
from learners.contract.small import small
from learners.delta import arrays_of, check_delta
from learners.rankers.fm import FactorizationMachine
from tests.adaptable import Linear, Uniform

SHAPES = {"weight": (3, 2), "scale": (3,)}


def low_rank(u: tuple[int, ...] = (4, 3, 1), v: tuple[int, ...] = (4, 2, 1)) -> LowRank:
    return LowRank(np.ones(u, np.float32), np.ones(v, np.float32))


@pytest.mark.parametrize("module", ["tests.adaptable", "tests.per_user"])
def test_adapters_of_both_forms_pass_the_contract(module):
    assert isinstance(small(Adapter, module).ranker, Linear)
    check_learner(lambda: small(Adapter, module))


def test_a_ranker_without_parameters_is_refused():
    ranker = FactorizationMachine(factors=2, bits=4)
    with pytest.raises(ValueError, match="ranker: FactorizationMachine has no parameters to adapt"):
        Uniform(ranker)
    ranker.name = "fm"
    with pytest.raises(ValueError, match=r"ranker: fm has no parameters to adapt; choose another"):
        Uniform(ranker)


def test_the_state_of_an_adapter_is_its_own():
    ranker = Linear()
    adapter = Uniform(ranker)
    assert set(adapter.state_dict()) == {f"shown.{name}" for name in adapter.shown.state_dict()}
    assert adapter.nbytes == adapter.shown.nbytes
    assert adapter.ranker is ranker


def test_deltas_that_fit():
    check_delta({}, [], SHAPES, 4)
    check_delta({"scale": np.ones(3, np.float32), "weight": low_rank()}, ["scale", "weight"], SHAPES, 4)
    check_delta({"weight": np.ones((3, 2), np.float32)}, ["scale", "weight"], SHAPES, 4)
    check_delta({"weight": low_rank((4, 3, 2), (4, 2, 2))}, ["weight"], SHAPES, 4)
    assert [name for name, _ in arrays_of({"scale": np.ones(3), "weight": low_rank()})] == ["scale", "weight.u", "weight.v"]


@pytest.mark.parametrize(
    ("delta", "complaint"),
    [
        ({"bias": np.ones(3)}, r"bias: the adapter does not declare it; add it to its changes \['scale', 'weight'\]"),
        ({"scale": np.ones(1)}, r"scale: the change has shape \(1,\); return the shape of the parameter, \(3,\)"),
        ({"scale": np.ones((4, 3))}, r"scale: the change has shape \(4, 3\); return the shape of the parameter, \(3,\)"),
        ({"scale": low_rank()}, r"scale: .* LowRank needs a matrix"),
        ({"weight": low_rank((5, 3, 1))}, r"weight: u and v have shapes \(5, 3, 1\) .* return \(4, 3, 1\)"),
        ({"weight": low_rank((4, 2, 1), (4, 3, 1))}, r"weight: u and v have shapes"),
        ({"weight": low_rank((4, 3, 2), (4, 2, 1))}, r"weight: u and v have shapes"),
        ({"weight": low_rank((4, 3), (4, 2))}, r"weight: u and v have shapes"),
    ],
)
def test_deltas_that_do_not_fit_are_refused(delta, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_delta(delta, ["weight", "scale"], SHAPES, 4)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("spoilt", ["scale", "weight.u", "weight.v"])
def test_numbers_that_are_not_finite_are_refused(spoilt, number):
    delta = {"scale": np.ones(3, np.float32), "weight": low_rank()}
    dict(arrays_of(delta))[spoilt].flat[1] = number
    with pytest.raises(FloatingPointError, match=rf"{spoilt}: the change contains NaN or infinity"):
        check_delta(delta, ["weight", "scale"], SHAPES, 4)
