"""The mixture of factorization machines, against `fm`, its formulas, and worlds in which one of its models must win."""

from __future__ import annotations

import numpy as np
import pytest

from learners.contract.checks import outputs
from learners.contract.worlds import cut, feedback_of, world
from learners.rankers.fm import FactorizationMachine
from learners.rankers.fm_mixture.ranker import FactorizationMachineMixture
from memory.stateful import digest
from streams.batch import Feedback

MACHINE = {"learning_rates": (0.7,), "factor_learning_rates": (0.35,), "keep": (1.0,)}
ONE = {**MACHINE, "linear_learning_rates": ()}


def clicks(rows: int, seed: int, turned: bool = False) -> tuple[Feedback, np.ndarray]:
    """Return clicks and their probabilities. The log-odds are the product of a vector of the user and one of the item."""
    of_user, of_item = np.random.default_rng(1).normal(size=(2, 40, 3))
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 40, (2, rows))
    odds = (of_user[user] * of_item[item]).sum(1) * (-1 if turned else 1)
    chance = 1 / (1 + np.exp(-odds))
    feedback = feedback_of(user=user + 1, item=item + 1, reward=rng.random(rows) < chance)
    feedback.features = np.stack([user + 101, item + 301], 1)
    feedback.values = np.ones((rows, 2), np.float32)
    return feedback, chance


def log_loss(learner: FactorizationMachine | FactorizationMachineMixture, feedback: Feedback, size: int = 20) -> float:
    """Mean log loss of rows that are predicted, then learned."""
    score = np.empty(feedback.rows)
    for start in range(0, feedback.rows, size):
        part = cut(feedback, start, start + size)
        score[start : start + size] = outputs(learner, part)["score"]
        learner.learn(part)
    return float(-np.log(np.where(feedback.reward > 0, score, 1 - score)).mean())


def odds(score: np.ndarray) -> np.ndarray:
    return np.log(score / (1 - score))


def test_one_machine_is_the_factorization_machine() -> None:
    """Initial vectors, weights, values of any size, graded rewards and weight decay included."""
    mixture = FactorizationMachineMixture(factors=7, bits=8, l2=0.01, seed=5, **ONE)
    machine, feedback = FactorizationMachine(factors=7, bits=8, l2=0.01, seed=5), world(3)
    feedback.reward[::7], feedback.weight[::5] = 3.0, 2.5
    for start in range(0, feedback.rows, 30):
        part = cut(feedback, start, start + 30)
        for name, expected in outputs(machine, part).items():
            np.testing.assert_allclose(outputs(mixture, part)[name], expected, atol=2e-5)
        np.testing.assert_allclose(mixture.explain(part), machine.explain(part), atol=2e-5)
        machine.learn(part)
        mixture.learn(part)
    np.testing.assert_allclose(mixture.rows["weights"][:, 0], machine.rows["weights"], atol=1e-4)
    np.testing.assert_allclose(mixture.rows["squares"][:, 0], machine.rows["squares"], rtol=1e-4)
    assert (mixture.rows["scales"] == machine.rows["scales"]).all()
    assert (mixture.rows.dirty == machine.rows.dirty).all()
    assert mixture.metrics()["machine_0"] == pytest.approx(1)


def test_log_odds_are_averaged_and_mixing_weights_learned_as_the_formulas_say() -> None:
    """The single models come from mixtures of one machine each; a linear model has no vectors."""
    rates = {"learning_rates": (0.7, 0.1), "factor_learning_rates": (0.3, 0.2), "keep": (1.0, 0.9)}
    mixture = FactorizationMachineMixture(
        factors=3, bits=9, init=0.0, linear_learning_rates=(0.5,), mixing_rate=0.8, mixing_share=0.01, **rates
    )
    # Vectors that start at 0 stay at 0. So all of these are linear.
    models = [
        FactorizationMachineMixture(
            factors=3,
            bits=9,
            init=0.0,
            learning_rates=(rate,),
            factor_learning_rates=(0.3,),
            keep=(keep,),
            linear_learning_rates=(),
        )
        for rate, keep in ((0.7, 1.0), (0.1, 0.9), (0.5, 1.0))
    ]
    feedback, weights = world(2), np.full(3, 1 / 3)
    feedback.weight[::5] = 2.0
    for n in range(200):
        row = cut(feedback, n, n + 1)
        z = odds(np.array([outputs(model, row)["score"][0] for model in models], np.float64))
        mixed = weights @ z
        score = float(outputs(mixture, row)["score"][0])
        assert score == pytest.approx(1 / (1 + np.exp(-mixed)), abs=1e-4)
        label = float(np.clip(row.reward[0], 0, 1))
        weights *= np.exp(-0.8 * float(row.weight[0]) * (score - label) * (z - mixed))
        weights = 0.99 * weights / weights.sum() + 0.01 / 3
        for model in (mixture, *models):
            model.learn(row)
        assert [mixture.metrics()[name] for name in ("machine_0", "machine_1", "linear_0")] == pytest.approx(weights, abs=1e-3)
    assert abs(weights - 1 / 3).max() > 0.05


@pytest.mark.parametrize("size", [1, 13, 240])
def test_the_state_does_not_depend_on_the_micro_batch_size(size: int) -> None:
    feedback = world(2)
    whole, pieces = FactorizationMachineMixture(bits=12), FactorizationMachineMixture(bits=12)
    whole.learn(feedback)
    for start in range(0, feedback.rows, size):
        pieces.learn(cut(feedback, start, start + size))
    assert digest(pieces.state_dict()) == digest(whole.state_dict())


def test_it_recovers_faster_from_a_shift_and_is_no_worse_before() -> None:
    mixture, machine = FactorizationMachineMixture(bits=12), FactorizationMachine(bits=12)
    before, after = clicks(40_000, seed=2)[0], clicks(4_000, seed=3, turned=True)[0]
    quiet = [log_loss(model, before) for model in (mixture, machine)]
    shifted = [log_loss(model, after) for model in (mixture, machine)]
    assert quiet[0] < quiet[1] + 0.001
    assert shifted[0] < shifted[1] - 0.02


def test_a_machine_that_forgets_takes_over_after_a_shift() -> None:
    """Two machines differ only in `keep`. The one that forgets nothing is better until tastes turn, then the other."""
    mixture = FactorizationMachineMixture(
        bits=12, learning_rates=(0.7, 0.7), factor_learning_rates=(0.35, 0.35), keep=(1.0, 0.98), linear_learning_rates=()
    )
    mixture.learn(clicks(40_000, seed=2)[0])
    assert mixture.metrics()["machine_0"] > 0.8
    mixture.learn(clicks(2_000, seed=3, turned=True)[0])
    assert mixture.metrics()["machine_1"] > 0.6


def test_weights_go_to_the_better_model() -> None:
    """A linear model cannot know clicks that are products of user and item. Where the item alone decides, pairs are noise."""
    feedback = clicks(20_000, seed=2)[0]
    mixture = FactorizationMachineMixture(bits=12, linear_learning_rates=(0.7,), **MACHINE)
    mixture.learn(feedback)
    assert mixture.metrics()["machine_0"] > 0.9
    rng = np.random.default_rng(4)
    feedback.reward = (rng.random(feedback.rows) < 1 / (1 + np.exp(-np.sin(feedback.item)))).astype(np.float32)
    noisy = FactorizationMachineMixture(bits=12, init=1.0, linear_learning_rates=(0.7,), **MACHINE)
    noisy.learn(feedback)
    assert noisy.metrics()["linear_0"] > 0.9


def test_a_weight_never_vanishes() -> None:
    mixture = FactorizationMachineMixture(bits=12, mixing_share=0.02)
    mixture.learn(clicks(20_000, seed=2)[0])
    weights = [value for name, value in mixture.metrics().items() if name != "capped"]
    assert sum(weights) == pytest.approx(1) and len(weights) == 5
    assert min(weights) >= 0.02 / 5


def test_contributions_add_up_to_the_log_odds() -> None:
    mixture, feedback = FactorizationMachineMixture(bits=12), world(3)
    mixture.learn(feedback)
    weights = [value for name, value in mixture.metrics().items() if name != "capped"]
    expected = odds(outputs(mixture, feedback)["score"].astype(np.float64)) - weights @ mixture.intercepts["weights"]
    np.testing.assert_allclose(mixture.explain(feedback).sum(1), expected, atol=2e-4)


def test_hidden_has_the_pairs_of_each_machine() -> None:
    """So without linear parts, the log-odds are those sums, mixed."""
    mixture, feedback = FactorizationMachineMixture(bits=12, factors=5), world(3)
    mixture.learn(feedback)
    mixture.rows["weights"][:, :, 0], mixture.rows["linear"][:], mixture.intercepts["weights"][:] = 0, 0, 0
    told = outputs(mixture, feedback)
    assert told["hidden"].shape == (feedback.rows, mixture.hidden_width) == (feedback.rows, 15)
    weights = [mixture.metrics()[f"machine_{m}"] for m in range(3)]
    np.testing.assert_allclose(
        told["hidden"].reshape(-1, 3, 5).sum(2) @ weights, odds(told["score"].astype(np.float64)), atol=2e-4
    )


def test_each_machine_needs_all_of_its_rates() -> None:
    with pytest.raises(ValueError, match="learning_rates: 3 of them, 2 factor_learning_rates and 3 keep; give one of each"):
        FactorizationMachineMixture(bits=4, factor_learning_rates=(0.1, 0.2))


def test_rows_of_too_much_weight_are_counted() -> None:
    mixture, feedback = FactorizationMachineMixture(bits=4), world(1)
    feedback.weight[:2] = 1_000.0
    mixture.learn(feedback)
    assert mixture.metrics()["capped"] == 2


def test_intercepts_do_not_forget() -> None:
    """Every row touches them. One that forgot would follow the order in which outcomes arrive: clicks first, the rest later."""
    mixture, feedback = FactorizationMachineMixture(bits=12, keep=(1.0, 1.0, 0.5)), clicks(2_000, seed=2)[0]
    by_outcome = np.argsort(-feedback.reward, kind="stable")
    feedback.features, feedback.reward = feedback.features[by_outcome], feedback.reward[by_outcome]
    before = mixture.intercepts["squares"].copy()
    for start in range(0, feedback.rows, 100):
        mixture.learn(cut(feedback, start, start + 100))
        assert (mixture.intercepts["squares"] > before).all()
        before = mixture.intercepts["squares"].copy()


def test_squares_of_a_machine_that_forgets_stay_between_their_bounds() -> None:
    """From their initial value, where no rate exceeds its initial one, to the sum of a geometric series."""
    mixture, feedback = FactorizationMachineMixture(bits=12, keep=(1.0, 1.0, 0.9)), clicks(5_000, seed=2)[0]
    mixture.learn(feedback)
    squares = mixture.rows["squares"][:, 2, 0]
    assert squares.min() >= 0.15 - 1e-6
    assert squares.max() < 0.15 + 1.0 / (1 - 0.9)
