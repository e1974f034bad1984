"""Labels and weights from rewards: a table of known answers, and every logistic learner follows it."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import Ranker
from learners.bounds import graded
from learners.contract.checks import outputs
from learners.contract.small import bind_to_world, small
from learners.contract.worlds import feedback_of, world
from learners.rankers.river_model import RiverModel

TABLE = [(0.0, 0, 1), (0.3, 0.3, 1), (1.0, 1, 1), (5.0, 1, 5), (-0.5, 0, 1.5), (-2.0, 0, 3), (100.0, 1, 100)]


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(("reward", "label", "weight"), TABLE)
def test_known_answers(reward, label, weight):
    assert graded(floats(reward), floats(1)) == (pytest.approx([label]), pytest.approx([weight]), 0)
    assert graded(floats(reward), floats(0.5)) == (pytest.approx([label]), pytest.approx([weight / 2]), 0)


def test_the_gradient_falls_with_the_reward():
    rewards = np.linspace(-4, 4, 81).astype(np.float32)
    label, weight, _ = graded(rewards, np.ones_like(rewards))
    for p in (0.01, 0.5, 0.99):
        assert (np.diff(weight * (p - label)) < 0).all()


def test_what_is_limited_is_counted():
    reward = floats(1, 3600, -3600, np.nan, 5, 1, 1e30)
    weight = floats(1, 1, 1, 1, 50, 1e30, 0.01)
    label, limited, capped = graded(reward, weight)
    assert capped == 6
    assert label.tolist() == [1, 1, 0, 0, 1, 1, 1]
    assert limited.tolist() == [1, 100, 100, 0, 100, 100, 100]


def test_rewards_from_0_to_1_are_the_labels_themselves():
    reward, weight = floats(0, 0.5, 1), floats(1, 2, 100)
    label, same, _ = graded(reward, weight)
    assert label is reward and same is weight


@pytest.mark.parametrize("name", ["fm", "bias", "river_model"])
def test_a_reward_of_5_is_a_click_of_weight_5(name):
    graded_rows, weighted = world(5), world(5)
    good = weighted.reward > 0
    graded_rows.reward[good] = 5.0
    weighted.weight[good] = 5.0
    graded_rows.reward[~good], weighted.weight[~good] = -2.0, 3.0
    one, other, plain = (bind_to_world(small(Ranker, name)) for _ in range(3))
    one.learn(graded_rows)
    other.learn(weighted)
    plain.learn(world(5))
    assert np.array_equal(outputs(one, world(1))["score"], outputs(other, world(1))["score"])
    assert not np.array_equal(outputs(one, world(1))["score"], outputs(plain, world(1))["score"])
    assert one.metrics()["capped"] == 0


@pytest.mark.parametrize("name", ["fm", "bias", "river_model"])
def test_a_reward_in_seconds_does_no_harm_and_is_counted(name):
    """Rewards of 3600, and 2 % of them: the others are still learned, in their order."""
    learner, rows = bind_to_world(small(Ranker, name)), world(5, rows=2400)
    rare = np.arange(rows.rows) % 50 == 0
    rows.reward[rare & (rows.reward > 0)] = 3600.0
    learner.learn(rows)
    assert learner.metrics()["capped"] == np.count_nonzero(rare & (world(5, rows=2400).reward > 0)) > 5
    score = outputs(learner, world(1))["score"]
    assert np.isfinite(score).all() and np.unique(score).size > 10 and 0.01 < score.mean() < 0.99


def test_a_river_model_without_weights_learns_a_row_as_often():
    keywords = {"model": "river.naive_bayes.BernoulliNB"}
    once, five = RiverModel(**keywords), RiverModel(**keywords)
    once.learn(feedback_of(user=[1, 2] + [1] * 4, item=[1, 2] + [1] * 4, reward=[1, 0] + [1] * 4))
    five.learn(feedback_of(user=[1, 2], item=[1, 2], reward=[5, 0]))
    rows = feedback_of(user=[1, 2], item=[1, 2], reward=[0, 0])
    assert outputs(once, rows)["score"] == pytest.approx(outputs(five, rows)["score"])


def test_a_river_classifier_learns_a_label_between_0_and_1_as_shares():
    model = RiverModel(parameters={"optimizer": {"class": "river.optim.SGD", "lr": 0.02}})
    rows = feedback_of(user=np.ones(2000), item=np.ones(2000), reward=np.full(2000, 0.3))
    model.learn(rows)
    assert outputs(model, rows)["score"][0] == pytest.approx(0.3, abs=0.01)


def test_a_river_regressor_learns_the_reward_itself():
    model = RiverModel(model="river.linear_model.LinearRegression")
    rows = feedback_of(user=np.ones(2000), item=np.ones(2000), reward=np.full(2000, 120.0))
    model.learn(rows)
    assert outputs(model, rows)["score"][0] == pytest.approx(120.0, rel=0.01)
    assert model.metrics()["capped"] == 0
