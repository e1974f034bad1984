"""Crosses of the factorization machines: pairs of columns with weights of their own, against a plain numpy implementation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from learners.contract.checks import checks_for, outputs
from learners.contract.small import SCHEMA, bind_to_world, bound
from learners.contract.worlds import cut, world
from learners.features import mix
from learners.rankers.fm import FactorizationMachine
from learners.rankers.fm_mixture.ranker import FactorizationMachineMixture

Model = FactorizationMachine | FactorizationMachineMixture
ONE = {"learning_rates": (0.7,), "factor_learning_rates": (0.35,), "keep": (1.0,), "linear_learning_rates": ()}
SIDES = ("user * item",)


def fm(**keywords: object) -> FactorizationMachine:
    return FactorizationMachine(bits=12, crosses=SIDES, cross_bits=12, **keywords)  # type: ignore[arg-type]


def mixture(**keywords: object) -> FactorizationMachineMixture:
    return FactorizationMachineMixture(bits=12, crosses=SIDES, cross_bits=12, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [fm, mixture])
def test_a_ranker_with_crosses_keeps_the_contract(make: Callable[[], Model]) -> None:
    for check in checks_for(type(make())):
        check(bound(make))


def test_weights_of_pairs_are_learned_as_the_formulas_say() -> None:
    feedback, pairs = world(2, rows=120), SCHEMA.pairs(SIDES)
    model = bind_to_world(fm(init=0.0, cross_scale=0.8))  # Its vectors stay zero.
    rate, weights, squares = model.learning_rate, np.zeros(4096), np.full(4096, 0.15)
    linear, sums, w0, s0 = np.zeros(4096), np.full(4096, 0.15), 0.0, 0.15
    feedback.weight[::3] = 2.0
    for n in range(feedback.rows):
        keys = feedback.features[n]
        model.score(part := cut(feedback, n, n + 1))
        model.learn(part)
        scale = model.rows["scales"][keys & 4095]
        x = np.where(scale > 0, feedback.values[n] / np.where(scale > 0, scale, 1), 0.0)
        x /= np.sqrt((x**2).sum())
        z = x[pairs[:, 0]] * x[pairs[:, 1]]
        z *= 0.8 / np.sqrt((z**2).sum())
        low, high = np.minimum(*keys[pairs].T), np.maximum(*keys[pairs].T)
        at = np.array([mix(one, other) & 4095 for one, other in zip(low, high * 3, strict=True)])
        chance = 1 / (1 + np.exp(-(w0 + linear[keys & 4095] @ x + weights[at] @ z)))
        assert part.score[0] == pytest.approx(chance, abs=1e-4), n
        miss, weight = chance - feedback.reward[n], feedback.weight[n]
        speed = (
            rate / np.sqrt(s0) + (rate * x**2 / np.sqrt(sums[keys & 4095])).sum() + (rate * z**2 / np.sqrt(squares[at])).sum()
        )
        slope = weight * miss / (1 + weight * speed / 4)
        for one, value in zip(at[z != 0], z[z != 0], strict=True):
            squares[one] += weight * miss**2 * value**2
            weights[one] -= rate * slope * value / np.sqrt(squares[one])
        for one, value in zip(keys[x != 0] & 4095, x[x != 0], strict=True):
            sums[one] += weight * miss**2 * value**2
            linear[one] -= rate * slope * value / np.sqrt(sums[one])
        s0 += weight * miss**2
        w0 -= rate * slope / np.sqrt(s0)
    assert model.crosses is not None
    np.testing.assert_allclose(model.crosses["weights"][:, 0], weights, atol=2e-4)
    np.testing.assert_allclose(model.crosses["squares"][:, 0], squares, rtol=1e-3)
    assert (weights != 0).sum() > 200


def test_they_solve_a_world_of_pairs_without_vectors() -> None:
    """Users like the items of their own group. A model without pairs cannot learn it."""
    lesson, exam = world(1, rows=6000), world(2, rows=2000, first=6000)
    loss = []
    for crosses in ((), ("user.group * item.group",)):
        model = bind_to_world(FactorizationMachine(bits=12, init=0.0, crosses=crosses))
        model.learn(lesson)
        score = outputs(model, exam)["score"]
        loss.append(float(-np.log(np.where(exam.reward > 0, score, 1 - score)).mean()))
    assert loss[1] < loss[0] - 0.1


def test_one_machine_of_a_mixture_is_the_factorization_machine() -> None:
    machine, one, feedback = bind_to_world(fm(factors=7, seed=5)), bind_to_world(mixture(factors=7, seed=5, **ONE)), world(3)
    feedback.reward[::7], feedback.weight[::5] = 3.0, 2.5
    for start in range(0, feedback.rows, 30):
        part = cut(feedback, start, start + 30)
        np.testing.assert_allclose(outputs(one, part)["score"], outputs(machine, part)["score"], atol=2e-5)
        np.testing.assert_allclose(one.explain(part), machine.explain(part), atol=2e-5)
        machine.learn(part)
        one.learn(part)
    assert machine.crosses is not None and one.crosses is not None
    np.testing.assert_allclose(one.crosses["weights"], machine.crosses["weights"], atol=1e-4)


def test_all_models_of_a_mixture_learn_them() -> None:
    model = bind_to_world(mixture())
    model.learn(world(4, rows=500))
    assert model.crosses is not None
    changed = (model.crosses["weights"] != 0).sum(0)
    assert changed.size == 5
    assert (changed == changed[0]).all() and changed[0] > 100


@pytest.mark.parametrize("make", [fm, mixture])
def test_contributions_add_up_to_the_log_odds(make: Callable[[], Model]) -> None:
    model, feedback = bind_to_world(make()), world(5)
    model.learn(feedback)
    score = outputs(model, feedback)["score"]
    rest = model.explain(feedback).sum(1) - np.log(score / (1 - score))
    np.testing.assert_allclose(rest, rest[0], atol=1e-3)


@pytest.mark.parametrize("make", [FactorizationMachine, FactorizationMachineMixture])
def test_without_crosses_there_is_no_store_for_them(make: type[Model]) -> None:
    assert not any("crosses" in name for name in make(bits=8).state_dict())


def test_a_cross_without_such_a_column_is_refused_when_the_columns_are_known() -> None:
    model = FactorizationMachine(bits=8, crosses=("user.id * item.brand",), cross_bits=8)
    with pytest.raises(ValueError, match=r"'user.id \* item.brand' is no cross \(unknown: 'item.brand'\).*item.group"):
        bind_to_world(model)
