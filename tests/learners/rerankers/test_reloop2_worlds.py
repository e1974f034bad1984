"""ReLoop2 on simulated streams: it must help after a shift, and must not harm without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learners.rerankers.reloop2.reranker import ReLoop2
from service.monitoring.quality import auc
from tests.learners.categories import HIDDEN, SHIFT, Outcome, base_scores, log_loss, run

SEEDS = range(3)


def reloop2(**keywords: Any) -> ReLoop2:
    """Build ReLoop2 with a fixed weight, as in the paper."""
    return ReLoop2(HIDDEN, **({"capacity": 5000, "index": "flat", "weight": 0.4} | keywords))


def loss_after(outcome: Outcome) -> float:
    """Return the difference of the mean log loss from the base model after the shift; negative is better."""
    return float((log_loss(outcome.score, outcome.label) - log_loss(outcome.base, outcome.label))[SHIFT:].mean())


def auc_after(outcome: Outcome, score: np.ndarray) -> float:
    return auc(score[SHIFT:], outcome.label[SHIFT:] > 0)


def behind_until(outcome: Outcome) -> int:
    """Return the number of rows after the shift until the cumulative gain stays positive."""
    gain = np.cumsum((log_loss(outcome.base, outcome.label) - log_loss(outcome.score, outcome.label))[SHIFT:])
    behind = np.flatnonzero(gain <= 0)
    return int(behind[-1]) + 1 if behind.size else 0


@pytest.mark.parametrize("seed", SEEDS)
def test_drift(seed: int) -> None:
    outcome = run(reloop2(weight=0.9), seed, "drift")
    assert loss_after(outcome) <= -0.04
    assert auc_after(outcome, outcome.score) >= auc_after(outcome, outcome.base) + 0.10
    assert behind_until(outcome) < 2000
    assert loss_after(run(reloop2(), seed, "drift")) <= -0.025


@pytest.mark.parametrize("seed", SEEDS)
def test_with_a_base_that_learns_it_is_better_than_either_alone(seed: int) -> None:
    both, memory = (run(reloop2(weight=0.9), seed, "drift", learning=learning) for learning in (True, False))
    loss = [log_loss(score, both.label)[SHIFT:].mean() for score in (both.score, both.base, memory.score)]
    assert loss[0] < loss[1] - 0.007
    assert loss[0] < loss[2] - 0.003
    assert auc_after(both, both.score) > max(auc_after(both, both.base), auc_after(memory, memory.score))


@pytest.mark.parametrize("seed", SEEDS)
def test_label_shift(seed: int) -> None:
    outcome = run(reloop2(), seed, "label")
    assert loss_after(outcome) <= -0.05
    assert behind_until(outcome) < 2000
    assert loss_after(run(reloop2(weight=0.9), seed, "label")) < loss_after(outcome)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_harm_where_nothing_changes(seed: int) -> None:
    outcome = run(reloop2(), seed, "none")
    change = log_loss(outcome.score, outcome.label) - log_loss(outcome.base, outcome.label)
    assert abs(change[:SHIFT].mean()) <= 0.003
    assert abs(change[SHIFT:].mean()) <= 0.003


@pytest.mark.parametrize("seed", SEEDS)
def test_a_learned_weight_harms_less_and_helps_more(seed: int) -> None:
    still, drift = (
        run(reloop2(weight="learned", half_life=1000), seed, "none"),
        run(reloop2(weight="learned", half_life=1000), seed, "drift"),
    )
    assert loss_after(still) <= 0.001
    assert loss_after(drift) <= loss_after(run(reloop2(), seed, "drift"))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sketch_of_relu_keys_must_be_centred(seed: int) -> None:
    kept = {
        centred: run(reloop2(memory="sketch", weight=0.9, gamma=0.0, centred=centred), seed, "drift")
        for centred in (True, False)
    }
    assert auc_after(kept[True], kept[True].score) > auc_after(kept[False], kept[False].score) + 0.01
    assert loss_after(kept[True]) < loss_after(kept[False])


def test_scores_are_those_of_the_base_before_the_first_label() -> None:
    """Before any label arrives, the scores are those of the base, bit for bit."""
    outcome = run(reloop2(), 0, "drift", delay=10)
    assert np.array_equal(outcome.score[:1000], outcome.base[:1000])
    assert not np.array_equal(outcome.score[1100:1200], outcome.base[1100:1200])


def test_a_poisoned_label_changes_nothing_before_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = run(reloop2(), 0, "none")
    hidden, base, label = base_scores(0, "none")
    poisoned = label.copy()
    poisoned[5000:5100] = 1 - poisoned[5000:5100]
    monkeypatch.setattr("tests.learners.categories.base_scores", lambda seed, shift: (hidden, base, poisoned))
    other = run(reloop2(), 0, "none")
    assert np.array_equal(other.score[:5200], clean.score[:5200]), "labels arrive one batch later, after that batch was served"
    assert not np.array_equal(other.score[5200:5300], clean.score[5200:5300])


def test_weight_and_neighbours_have_an_optimum_in_the_middle() -> None:
    """As in figures 5 and 6 of the paper: small values correct too little, large values override the base model."""
    losses = [loss_after(run(reloop2(weight=weight), 0, "drift")) for weight in (0.1, 0.9, 1.0)]
    assert losses[1] < min(losses[0], losses[2])
    losses = [loss_after(run(reloop2(neighbours=k, weight=0.9), 0, "drift")) for k in (1, 70, 1000)]
    assert losses[1] < min(losses[0], losses[2])
