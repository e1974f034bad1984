"""The paired interval on the rest of the stream, and its verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.evaluation.tuning.confirm import Confirmation, confirmed
from service.evaluation.tuning.samples import LOWER_IS_BETTER, Objective, Sample, of_lists, of_rows, of_terms
from streams.batch import Floats

ROWS = 5000
RNG = np.random.default_rng(7)
CHANCE = RNG.choice([0.2, 0.8], ROWS)
LABEL = (RNG.random(ROWS) < CHANCE).astype(np.float32)


def rows(score: object, objective: Objective = Objective.LOG_LOSS, label: Floats = LABEL) -> Sample:
    number = np.arange(label.size)
    scores = np.broadcast_to(np.asarray(score, np.float32), label.shape).copy()
    return of_rows(objective, number % 50, scores, label, np.full(label.size, -1))


def judged(base: Sample, winner: Sample, objective: Objective = Objective.LOG_LOSS) -> Confirmation:
    return confirmed(base, winner, 2000, 0.99, lower_is_better=objective in LOWER_IS_BETTER)


def test_the_gain_is_the_difference_on_the_rest_and_its_interval_that_of_the_paired_differences() -> None:
    base, winner = rows(np.full(ROWS, 0.5)), rows(CHANCE)
    found = judged(base, winner)
    difference = math.log(2) + np.log(np.where(LABEL > 0, CHANCE, 1 - CHANCE))[2000:]
    assert found.units == 3000
    assert found.base == pytest.approx(math.log(2), abs=1e-6)
    assert found.gain == pytest.approx(difference.mean(), abs=1e-6)
    # Student's t with 49 degrees of freedom; the rows are independent here.
    assert found.margin == pytest.approx(2.68 * difference.std() / math.sqrt(3000), rel=0.25)
    assert found.holds
    assert "holds" in found.verdict


def test_the_same_predictions_have_no_gain() -> None:
    found = judged(rows(CHANCE), rows(CHANCE))
    assert (found.gain, found.margin, found.holds) == (0.0, 0.0, False)


def test_a_worse_winner_is_called_worse() -> None:
    found = judged(rows(CHANCE), rows(np.full(ROWS, 0.5)))
    assert not found.holds
    assert "the base is better" in found.verdict


def test_learning_less_from_noise_is_not_a_gain() -> None:
    """With labels that depend on nothing, the mean is the best prediction, and a slower learner is closer to it."""
    label = (RNG.random(ROWS) < 0.5).astype(np.float32)
    wild, tame = RNG.choice([0.2, 0.8], ROWS), RNG.choice([0.49, 0.51], ROWS)
    found = judged(rows(wild, label=label), rows(tame, label=label))
    assert found.gain > found.margin
    assert not found.holds
    assert "noise" in found.verdict


@pytest.mark.parametrize("objective", [Objective.AUC, Objective.GAUC])
def test_auc_is_compared_with_a_half(objective: Objective) -> None:
    blurred = CHANCE + RNG.normal(0, 0.5, ROWS)
    found = judged(rows(blurred, objective), rows(CHANCE, objective), objective)
    assert found.holds
    assert found.winner == pytest.approx(0.8, abs=0.02)
    assert found.ahead == pytest.approx(found.winner - 0.5)
    noise = judged(rows(RNG.random(ROWS), objective), rows(RNG.random(ROWS), objective), objective)
    assert not noise.holds


def test_lists_and_estimates_have_their_own_units() -> None:
    at, reward = np.arange(3000) * 2, np.ones(3000, np.float32)
    gain = (RNG.random(3000) < 0.2).astype(np.float32)
    better = np.maximum(gain, RNG.random(3000) < 0.1).astype(np.float32)
    found = judged(of_lists(Objective.NDCG, at, gain, reward), of_lists(Objective.NDCG, at, better, reward), Objective.NDCG)
    assert found.units == 2000  # tests at 2000 rows or more
    assert found.gain == pytest.approx((better - gain)[1000:].mean())
    assert found.holds
    ids, ones = [str(n) for n in range(ROWS)], np.ones(ROWS)
    estimate = of_terms(ids, LABEL.astype(np.float64), ones)
    assert not judged(estimate, estimate, Objective.OFF_POLICY).holds


def test_few_units_have_no_interval_and_other_units_are_refused() -> None:
    label = LABEL[:2100]
    found = judged(rows(0.5, label=label), rows(CHANCE[:2100], label=label))
    assert math.isnan(found.margin)
    assert not found.holds
    with pytest.raises(ValueError, match="other rows"):
        judged(rows(CHANCE), rows(CHANCE, label=1 - LABEL))
