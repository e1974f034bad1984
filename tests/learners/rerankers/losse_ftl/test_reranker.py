"""What Losse-FTL adds to scores, what it learns of a request and when, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from learners.contract.answers import Make
from learners.contract.checks import (
    check_followers_keep_up,
    check_forgetting_and_removing,
    check_save_and_load,
    check_serving_changes_nothing,
    check_strangers_and_empty_batches,
)
from learners.contract.small import bound
from learners.contract.worlds import batch_of, cut
from learners.lookups import UserHistory
from learners.rerankers.losse_ftl.reranker import LosseFtl
from memory.keyed.history import History
from memory.stateful import digest
from tests.learners.rerankers.losse_ftl.shop import CATEGORIES, ITEMS, SCHEMA, catalogues, learner, rows, satiated


def taught(steps: int = 600, **keywords: object) -> LosseFtl:
    made = learner(**keywords)
    made.learn(satiated(steps))
    return made


def every_item(user: int, time: float, base: float = 0.3):
    items = np.arange(1, ITEMS + 1)
    return batch_of(rows([user], items, np.zeros(ITEMS), [time], np.zeros(ITEMS, np.int64), base))


@pytest.mark.parametrize(
    "check",
    [
        check_followers_keep_up,
        check_forgetting_and_removing,
        check_save_and_load,
        check_serving_changes_nothing,
        check_strangers_and_empty_batches,
    ],
)
@pytest.mark.parametrize("encoder", ["losse", "rff"])
def test_other_settings_keep_the_contract(encoder: str, check: Callable[[Make], None]) -> None:
    small = {**LosseFtl.checks_parameters, "encoder": encoder, "grids": 8, "bins": 3, "beta": "learned", "horizon": 3}
    check(bound(lambda: LosseFtl(**small)))  # type: ignore[arg-type]


@pytest.mark.parametrize("encoder", ["rff", "losse"])
def test_satiation_is_found_and_scored_down(encoder: str) -> None:
    made = taught(900, encoder=encoder, horizon=1)
    before = made.rerank(every_item(1, 900.0))
    made.learn(rows([1], [6], [1.0], [901.0]))  # an item of category 0
    after = made.rerank(every_item(1, 902.0))
    own = np.arange(1, ITEMS + 1) % CATEGORIES == 0
    assert after[own].mean() < before[own].mean() - 0.1
    assert after[own].max() < after[~own].mean()
    metrics = made.metrics()
    assert metrics["reward_error"] < 0.7 * metrics["reward_constant"]
    assert metrics["change_error"] < 0.7 * metrics["change_constant"]


def test_with_beta_0_the_scores_stay_to_the_bit() -> None:
    made, batch = taught(beta=0.0), every_item(1, 600.0)
    batch.score = np.random.default_rng(0).random(ITEMS).astype(np.float32)
    scores = made.rerank(batch)
    assert np.array_equal(scores, batch.score) and scores is not batch.score


def test_without_groups_and_without_rows_the_scores_stay() -> None:
    made, batch = learner(known=catalogues(items=CATEGORIES - 1)), every_item(1, 0.0)
    made.learn(satiated(100))
    assert not made.groups.epoch
    assert np.array_equal(made.rerank(batch), batch.score)
    assert made.rerank(batch.take(np.empty(0, np.int64))).size == 0


def test_a_learned_beta_is_large_where_it_helps_and_0_where_it_does_not() -> None:
    assert learner(beta="learned").beta == 0.0, "nothing speaks for it yet"
    assert taught(1000, beta="learned", sample=1.0).beta > 0.5
    noise, rng = satiated(2000), np.random.default_rng(3)
    noise.reward = (rng.random(noise.rows) < 0.3).astype(np.float32)
    idle = learner(beta="learned", sample=1.0)
    idle.learn(noise)
    assert idle.beta == 0.0
    batch = every_item(1, 2000.0)
    assert np.array_equal(idle.rerank(batch), batch.score)


def test_an_item_without_attributes_gets_nothing_added() -> None:
    made = taught()
    batch = batch_of(rows([1], [1000, 6], [0, 0], [600.0], [0, 0]))
    assert made.rerank(batch)[0] == pytest.approx(made.calibration.apply(np.array([0.3]))[0])
    values = made.values(batch)
    assert np.isnan(values["q_2"][0]) and np.isfinite(values["q_2"][1]) and set(values) == {"q_1", "q_2", "beta"}
    before = made.metrics()["ungrouped"]
    made.learn(rows([1], [1000], [1.0], [601.0]))
    assert made.metrics()["ungrouped"] == before + 1


def test_where_the_model_has_no_evidence_it_does_not_look_ahead() -> None:
    ahead, myopic = taught(horizon=2, min_evidence=1e9), taught(horizon=1)
    batch = every_item(1, 600.0)
    made, expected = ahead.values(batch), myopic.values(batch)
    np.testing.assert_array_equal(made["q_1"], expected["q_1"])
    state = ahead.states.current(np.array([1]), np.array([600.0]), ahead.groups)[0]
    groups = np.arange(CATEGORIES)
    np.testing.assert_allclose(ahead._of_groups(state, groups), myopic._of_groups(state, groups), atol=1e-6)
    assert ahead.metrics()["myopic_share"] == 1.0


def test_a_request_is_learned_when_the_next_one_arrives_or_the_session_ends() -> None:
    made = learner(sample=0.001)
    made.learn(satiated(21))
    learned: list[tuple[float, bool]] = []
    made.model.learn = lambda x, outcome, change, weight: learned.append((outcome[1], change is not None))  # type: ignore[method-assign]
    made.learn(rows([50], [1], [1.0], [1000.0]))
    open_sessions = len(learned)
    assert all(outcome == (0.0, False) for outcome in learned), "sessions of the others have ended"
    made.learn(rows([50], [2], [1.0], [1010.0]))
    assert (1.0, True) in learned[open_sessions:], "the user came back: the reward, that it goes on, and the next state"
    del learned[:]
    made.learn(rows([50], [3], [1.0], [2000.0]))
    assert learned[0] == (0.0, False), "after the session, there is no next state"


def test_what_was_not_shown_and_what_is_a_correction_teaches_nothing() -> None:
    made = taught(100)
    state = digest(made.state_dict())
    drawn, corrected, worthless = (rows([1], [3], [1.0], [200.0]) for _ in range(3))
    drawn.kind[:], drawn.position[:], corrected.correction[:], worthless.weight[:] = 0, -1, True, 0.0
    for feedback in (drawn, corrected, worthless):
        made.learn(feedback)
    assert digest(made.state_dict()) == state


def test_the_size_of_micro_batches_does_not_matter() -> None:
    one, many, feedback = learner(beta="learned"), learner(beta="learned"), satiated(300)
    one.learn(feedback)
    for start in range(0, 300, 7):
        many.learn(cut(feedback, start, start + 7))
    assert digest(one.state_dict()) == digest(many.state_dict())


def test_groups_keep_their_numbers_and_new_ones_begin_without_satiation() -> None:
    known = catalogues()
    made = learner(known, first=20, epoch=100)
    made.learn(satiated(90))
    group, vectors = made.groups.of(made.groups.vectors(np.arange(1, ITEMS + 1))), made.groups.centroids.vectors.copy()
    made.learn(satiated(40, seed=1))
    assert made.groups.epoch == 2
    assert np.array_equal(group, made.groups.of(made.groups.vectors(np.arange(1, ITEMS + 1))))
    assert np.array_equal(made.groups.alive, np.arange(CATEGORIES))
    np.testing.assert_allclose(made.groups.centroids.vectors, vectors, atol=1e-6)
    own = made.groups.of(made.groups.vectors(np.array([6])))[0]
    made.learn(rows([1], [6], [1.0], [200.0]))
    state = made.states.current(np.array([1]), np.array([200.0]), made.groups)[0]
    assert state[4 + own] >= 0.2
    made.groups.centroids.born[own] = 99
    assert made.states.current(np.array([1]), np.array([200.0]), made.groups)[0][4 + own] == 0.0


def test_items_need_an_attribute_that_they_can_share() -> None:
    with pytest.raises(ValueError, match="add such an attribute"):
        LosseFtl().bind(replace(SCHEMA, items=SCHEMA.items[1:]), catalogues(), UserHistory(History(8, 5)))
